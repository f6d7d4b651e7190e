"""How an error leaves the program: one sentence and a non-zero exit, at the edge only.

Library code raises :class:`transforms.errors.InputError` for a user's mistake. Two edges turn errors into a sentence:
the command line (:mod:`scripts.__main__`) and, for ``python -m monai.bundle run``, the ``initialize`` of each config.
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
    errno.ENOENT,
}
"""Errors of a place: no right to it, read-only, full, not there, or a file where a folder should be."""


def input_error(error: BaseException) -> InputError | None:
    """Find the :class:`InputError` behind an error: MONAI wraps what a transform raises, several times over."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def reason(error: BaseException) -> str:
    """Say in one line why something failed, by what is behind MONAI's "applying transform"."""
    first = _first_cause(error)
    return sentence(error) or f"{type(first).__name__}: {first}".strip().splitlines()[0]


def cause(error: BaseException) -> str:
    """Say in one line what is behind an error, without its type."""
    first = _first_cause(error)
    return (str(first).strip() or type(first).__name__).splitlines()[0]


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def sentence(error: BaseException) -> str | None:
    """Sentence for a person where an error is one of input or of a file that cannot be written or read, else None.

    What is behind MONAI's "applying transform" counts as well.
    """
    if found := input_error(error):
        return str(found)
    for one in (error, _first_cause(error)):
        if isinstance(one, OSError) and one.filename and one.errno in UNUSABLE:
            return f"{one.filename}: found that it cannot be used ({one.strerror}), expected a place that can."
    return None


def explanation(error: BaseException) -> str:
    """Sentence for a person on any error; one that is not of input names its type, and how to see more."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return f"error: {sentence(error) or f'{reason(error)} (--debug shows where it comes from)'}"


def is_true(value: bool | str) -> bool:
    """Read a flag that may have been typed: the command line of MONAI gives ``true`` as a text."""
    return str(value).lower() == "true"


def explain_errors(debug: bool | str = False) -> None:
    """Make the interpreter end with one sentence, and no traceback, where nothing catches an error.

    Configs call it first of all. A program that runs a config itself still gets the exception, and may catch it.

    Args:
        debug: whether to show the traceback as well, see :func:`is_true`.
    """
    previous = sys.__excepthook__

    def explain(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if is_true(debug):
            previous(kind, error, traceback)
        print(explanation(error), file=sys.stderr)

    sys.excepthook = explain
