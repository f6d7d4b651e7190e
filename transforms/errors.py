"""Errors that a user's input can cause."""


class InputError(ValueError):
    """Input that cannot be used: one sentence with the file, what was found and what was expected."""


class SignalError(InputError):
    """A signal that a model cannot be fitted to; the sentence goes on after the name of the scan."""
