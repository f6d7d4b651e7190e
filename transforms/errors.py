"""Errors that a user's input can cause."""


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, ``1 voxel`` or ``2 voxels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class InputError(ValueError):
    """Input that cannot be used: one sentence with the file, what was found and what was expected."""


class SignalError(InputError):
    """A signal that a model cannot be fitted to; the sentence goes on after the name of the scan."""
