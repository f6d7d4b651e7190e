"""The MLflow server or database of a training: reached in time, made once, and named without its password."""

from __future__ import annotations

import logging
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from transforms.errors import InputError

PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own variables, with a patience of seconds; its defaults make a training wait for minutes in each epoch."""

DATABASE = "sqlite:///"

LOCAL_PAGE = "http://127.0.0.1:5000"
"""Where ``mlflow ui`` answers unless it is told otherwise."""

FOR_TRAININGS = "workflowType=machine_learning"
"""Part of an address by which MLflow shows what it has for trainings, and not what it has for agents."""

VARIABLE = "MLFLOW_TRACKING_URI"

logger = logging.getLogger(__name__)


def effective_uri(tracking_uri: str) -> str:
    """Return the address that MLflow uses: ``MLFLOW_TRACKING_URI`` goes before that of a config."""
    return os.environ.get(VARIABLE) or tracking_uri


def store_address(tracking_uri: str) -> str:
    """Return an address as MLflow reads it: SQLAlchemy decodes ``%`` in a path, and takes ``?`` for its end."""
    path, options = _split(tracking_uri)
    if path is None or not set("%?") & set(path):
        return tracking_uri
    # with its driver named, MLflow makes no folder of the name as it stands in the address
    return URL.create("sqlite+pysqlite", database=path).render_as_string() + options


def without_password(tracking_uri: str) -> str:
    """Return an address without user, password and options."""
    if tracking_uri.startswith(DATABASE):
        return tracking_uri.removesuffix(_split(tracking_uri)[1])
    scheme, separator, rest = tracking_uri.partition("://")
    host, slash, path = rest.partition("?")[0].partition("/")
    return scheme + separator + host.rpartition("@")[2] + slash + path


def artifact_location(tracking_uri: str) -> str | None:
    """Return the folder of pictures beside a local database, or None for a server, which has its own."""
    path = _database(tracking_uri)
    return (path.parent / "mlartifacts").absolute().as_uri() if path else None


def run_table(tracking_uri: str, experiment_id: str) -> str:
    """Say how to open the table of the runs of an experiment: the start page of MLflow does not show it."""
    page = f"#/experiments/{experiment_id}/runs?{FOR_TRAININGS}"
    if tracking_uri.startswith("http"):
        return f"{without_password(tracking_uri).rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {shlex.quote(store_address(tracking_uri))}, then {LOCAL_PAGE}/{page}"


@contextmanager
def opening(tracking_uri: str) -> Iterator[str]:
    """Let one process at a time open a local database: MLflow makes its tables without looking whether another does.

    Args:
        tracking_uri: address as a person writes it.

    Yields:
        the address as MLflow reads it; meanwhile its variable is not set, which would go before this one.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    hidden = os.environ.pop(VARIABLE, None)
    try:
        path = _database(tracking_uri)
        if path is None:
            yield tracking_uri
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            yield store_address(tracking_uri)
    finally:
        if hidden is not None:
            os.environ[VARIABLE] = hidden


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
    if _is_in_memory(uri):
        raise InputError(
            f"--tracking_uri: found {without_password(uri)}, a database in memory, whose runs would be lost, "
            "expected a file as sqlite:///mlflow.db, or a server."
        )
    try:
        with opening(uri) as address:
            _require_database(_database(uri))
            MlflowClient(address).search_experiments(max_results=1)
    except Exception as error:  # a network, a server or a database may raise anything
        # what others raise may hold a password; SQLAlchemy wraps what a database raises
        cause = getattr(error, "orig", error)
        why = cause if isinstance(cause, OSError | sqlite3.Error) else type(error).__name__
        raise InputError(
            f"--tracking_uri: found no MLflow that answers at {without_password(uri)} ({why}), "
            "expected one, or a database as sqlite:///mlflow.db."
        ) from None


def restore_experiment(client: MlflowClient, name: str) -> str | None:
    """Bring back an experiment that was deleted, because its name stays taken; return the id of one that is there."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage != LifecycleStage.ACTIVE:
        logger.warning("experiment %s was deleted in MLflow: it is restored", name)
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    """Find an experiment, or make it, and return its id."""
    return restore_experiment(client, name) or client.create_experiment(name, artifact_location(tracking_uri))


def _require_database(path: Path | None) -> None:
    """Open a local database at once, which MLflow tries for minutes."""
    if path is not None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("pragma schema_version")


def _is_in_memory(tracking_uri: str) -> bool:
    """Whether an address is that of a SQLite database without a file."""
    try:
        url = make_url(tracking_uri)
    except SQLAlchemyError:
        return False
    name = (url.database or "").removeprefix("file:")
    return url.get_backend_name() == "sqlite" and (name in ("", ":memory:") or url.query.get("mode") == "memory")


def _database(tracking_uri: str) -> Path | None:
    """File of a local database."""
    path, _ = _split(tracking_uri)
    return None if path is None else Path(path)


def _split(tracking_uri: str) -> tuple[str | None, str]:
    """Path of a local database, and its options: what follows a ``?`` in its name, and not in that of a folder."""
    if not tracking_uri.startswith(DATABASE):
        return None, ""
    folder, slash, file = tracking_uri.removeprefix(DATABASE).rpartition("/")
    name, mark, options = file.partition("?")
    return folder + slash + name, mark + options
