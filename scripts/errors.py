"""How a user's mistake leaves the program: one sentence and a non-zero exit, at the edge only.

Library code raises :class:`transforms.errors.InputError`. Two edges turn it into a sentence: the command line
(:mod:`scripts.__main__`) and, for ``python -m monai.bundle run``, the ``initialize`` of each config.
"""

from __future__ import annotations

import errno
import sys
from types import TracebackType

from transforms.errors import InputError

UNUSABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}
"""Errors of a place: no right to it, read-only, full, or a file where a folder should be."""


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
    return sentence(error) or f"{type(error).__name__}: {error}".splitlines()[0]


def sentence(error: BaseException) -> str | None:
    """Sentence for a person where an error is one of input or of a file that cannot be written or read, else None."""
    if found := input_error(error):
        return str(found)
    if isinstance(error, OSError) and error.filename and error.errno in UNUSABLE:
        return f"{error.filename}: found that it cannot be used ({error.strerror}), expected a place that can."
    return None


def explain_input_errors() -> None:
    """Make the interpreter end with one sentence, and no traceback, where nothing catches an InputError.

    Configs call it first of all. A program that runs a config itself still gets the exception, and may catch it.
    """
    previous = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if found := sentence(error):
            print(f"error: {found}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = explain
