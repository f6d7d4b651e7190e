"""The MLflow server or database of a training: reached in time, made once, and named without its password."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient

from transforms.errors import InputError

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own variables, with a patience of seconds; its defaults make a training wait for minutes in each epoch."""

DATABASE = "sqlite:///"


def effective_uri(tracking_uri: str) -> str:
    """Return the address that MLflow uses: ``MLFLOW_TRACKING_URI`` goes before that of a config."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri


def without_password(tracking_uri: str) -> str:
    """Return an address without user, password and options."""
    scheme, separator, rest = tracking_uri.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path


def artifact_location(tracking_uri: str) -> str | None:
    """Return the folder of pictures beside a local database, or None for a server, which has its own."""
    path = _database(tracking_uri)
    return (path.parent / "mlartifacts").absolute().as_uri() if path else None


@contextmanager
def opening(tracking_uri: str) -> Iterator[None]:
    """Let one process at a time open a local database: MLflow makes its tables without looking whether another does."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    path = _database(tracking_uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield


def require_store(tracking_uri: str) -> None:
    """Refuse an address where no MLflow answers.

    Raises:
        InputError: says so within seconds.
    """
    uri = effective_uri(tracking_uri)
    if "://" not in uri or uri.startswith("file:"):
        raise InputError(
            f"--tracking_uri: found {uri!r}, expected a database as sqlite:///mlflow.db, or a server; "
            "MLflow has no folders of files any more."
        )
    try:
        with opening(uri):
            MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:  # a network, a server or a database may raise anything
        raise InputError(
            f"--tracking_uri: found no MLflow that answers at {without_password(uri)} ({type(error).__name__}), "
            "expected one, or a database as sqlite:///mlflow.db."
        ) from None


def _database(tracking_uri: str) -> Path | None:
    """File of a local database."""
    if not tracking_uri.startswith(DATABASE):
        return None
    return Path(tracking_uri.removeprefix(DATABASE).partition("?")[0])
