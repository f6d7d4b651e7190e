"""How a user's mistake leaves the program: one sentence and a non-zero exit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from transforms.errors import InputError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def input_error(error: BaseException) -> InputError | None:
    """Find the :class:`InputError` behind an error: MONAI wraps what a transform raises, several times over."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def reason(error: BaseException) -> str:
    """Say in one line why something failed."""
    found = input_error(error)
    return str(found) if found else f"{type(error).__name__}: {error}".splitlines()[0]


def exits_on_input_error(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function that configs or the command line call end the program with the sentence of an InputError.

    ``SystemExit`` passes through the layers of a config parser, which wrap every ordinary exception in their own.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if found := input_error(error):
                raise SystemExit(f"error: {found}") from error
            raise

    return wrapper
