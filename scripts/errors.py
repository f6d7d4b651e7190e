"""How a user's mistake leaves the program: one sentence and a non-zero exit, at the edge only.

Library code raises :class:`transforms.errors.InputError`. Two edges turn it into a sentence: the command line
(:mod:`scripts.__main__`) and, for ``python -m monai.bundle run``, the ``initialize`` of each config.
"""

from __future__ import annotations

import sys
from types import TracebackType

from transforms.errors import InputError


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


def explain_input_errors() -> None:
    """Make the interpreter end with one sentence, and no traceback, where nothing catches an InputError.

    Configs call it first of all. A program that runs a config itself still gets the exception, and may catch it.
    """
    previous = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if found := input_error(error):
            print(f"error: {found}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = explain
