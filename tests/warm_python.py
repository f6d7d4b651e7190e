"""A Python whose libraries are imported already, for tests that run many commands.

Importing torch, MONAI and MLflow takes longer than most commands of the tests. Here one process imports them, and each
command runs in a fork of it: a process of its own with its own folder, variables and streams, that imports the
project itself. :func:`start` makes the executable ``python`` that asks for it. A signal to that executable does not
reach the command, so tests that stop one start Python itself.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = (
    *("torch", "ignite.engine", "ignite.handlers", "monai.bundle", "monai.engines", "monai.handlers"),
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "nibabel", "scipy.stats", "pandas", "matplotlib.pyplot"),
    *("dipy.reconst.csdeconv", "dipy.reconst.dti", "dipy.direction", "SimpleITK", "statsmodels.api", "rich"),
)

STREAMS = (0, 1, 2)


@contextlib.contextmanager
def start(folder: Path) -> Iterator[Path]:
    """Start the process that imports the libraries.

    Args:
        folder: empty, with a short path.

    Yields:
        executable that takes the words that Python takes.
    """
    address, python = folder / "socket", folder / "python"
    words = " ".join(f"'{word}'" for word in (sys.executable, "-SE", __file__, address))
    python.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    python.chmod(0o755)
    command = [sys.executable, __file__, str(address)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd="/") as server:
        while not address.exists():
            assert server.poll() is None
            time.sleep(0.05)
        yield python
        # the end of its input ends it
        server.communicate()


def serve(address: str) -> None:
    """Import the libraries, then run each command that is asked for, until the end of the input."""
    for name in LIBRARIES:
        importlib.import_module(name)
    # the folder of this file is the first of the path here
    importlib.import_module("unsynced").forget_the_disk()
    assert threading.active_count() == 1, "a fork would inherit the locks of other threads"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.new")
        server.listen()
        os.rename(f"{address}.new", address)
        while True:
            ready, _, _ = select.select([server, 0], [], [])
            if 0 in ready:
                return
            connection, _ = server.accept()
            with connection:
                if os.fork() == 0:
                    server.close()
                    answer(connection)


def answer(connection: socket.socket) -> None:
    """Run one command in this process, say its exit code, and end."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        text, received, *_ = socket.recv_fds(connection, 2**20, len(STREAMS))
        for stream, descriptor in zip(STREAMS, received, strict=True):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        # the objects from the start belong to its files
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        request = json.loads(text)
        os.environ.clear()
        os.environ.update(request["variables"])
        os.chdir(request["folder"])
        places = list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
        sys.path[:1] = [request["folder"], *places]
        sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
        for place in filter(Path.is_file, (Path(place, "sitecustomize.py") for place in places)):
            runpy.run_path(str(place))
        sys.executable = request["executable"]
        random.seed()
        sys.modules["numpy"].random.seed()
        code = run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        connection.sendall(bytes([code]))
        os._exit(code)


def run(words: list[str]) -> int:
    """Run ``[-u] [-W FILTER] -m MODULE ...``, ``-c CODE ...``, ``- ...`` or ``FILE ...``, and return the exit code."""
    while words[0] in ("-u", "-W"):
        if words[0] == "-W":
            warnings.simplefilter(words[1])
        words = words[1 + (words[0] == "-W") :]
    way = words.pop(0) if words[0] in ("-m", "-c") else None
    sys.argv = words if way != "-c" else ["-c", *words[1:]]
    try:
        if way == "-m":
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        elif way == "-c" or words[0] == "-":
            code = words[0] if way else sys.stdin.read()
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(words[0]).absolute().parent)
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def ask(address: str, words: list[str]) -> int:
    """Have a command run, and return its exit code."""
    request = {
        "words": words,
        "folder": os.getcwd(),
        "variables": dict(os.environ),
        "executable": str(Path(address).with_name("python")),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [json.dumps(request).encode()], STREAMS)
        # nothing comes of a command that the system has killed
        code = connection.recv(1)
    return code[0] if code else 128 + signal.SIGKILL


if __name__ == "__main__":
    _, place, *asked = sys.argv
    if not asked:
        serve(place)
    elif set(asked) & {"-B", "-E", "-S", "-I"}:
        os.execv(sys.executable, [sys.executable, *asked])
    else:
        sys.exit(ask(place, asked))
