"""Files that appear whole or not at all: text, JSON and tables; and their checksums."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transforms.errors import InputError

NOT_UTF8 = "backslashreplace"
"""What becomes of file names in another encoding, in files and on the screen."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, which takes its name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # the ending decides how NIfTI files are compressed, so it stays the ending
    partial = path.with_name(f".{socket.gethostname()}.{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except OSError as error:
        # a disk that fills up while something is written does not say where
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    # a machine that fails must not lose the old version and the new one
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder: Path) -> None:
    """Remove what processes of this machine that are gone left half-written in a folder."""
    for path in folder.rglob(".*.partial.*"):
        before, _, _ = path.name.partition(".partial.")
        host, _, process = before.removeprefix(".").rpartition(".")
        if host in ("", socket.gethostname()) and process.isdigit() and not _runs(int(process)):
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8; bytes of file names that are not are written as ``\\udcf6``."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=NOT_UTF8)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table: tab-separated for a path that ends in ``.tsv``, else comma-separated."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8", errors=NOT_UTF8) as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerows([columns, *rows])


def read_text(path: Path, expected: str) -> str:
    """Read a text file, UTF-8 with or without a byte order mark.

    Args:
        path: of the file.
        expected: what it should hold, for messages.

    Raises:
        InputError: it is missing, is no regular file, cannot be read, or is not UTF-8.
    """
    # a pipe in the place of a file would be waited for without end
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected {expected}.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: found a file that cannot be read ({error.strerror}), expected {expected}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found text that is not UTF-8 ({error.reason}), expected {expected}.") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, UTF-8 with or without a byte order mark.

    Raises:
        InputError: the file is missing or is not a JSON object.
    """
    text = read_text(path, "JSON")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise InputError(f"{path}: found text that is not JSON ({error}), expected a JSON object.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a JSON {type(content).__name__}, expected an object.")
    return content


def checksums_of(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 by the names of files, so that a cohort that was moved is the same; files of one name have one."""
    named: dict[str, list[Path]] = {}
    for path in paths:
        named.setdefault(path.name, []).append(path)
    return {name: sha256(*same) for name, same in named.items()}


def sha256(*paths: Path) -> str:
    """SHA-256 over the contents of some files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
