"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Input that cannot be used: one sentence with the file, what was found and what was expected."""
