"""Writing without waiting for the disk: no test cuts the power, and a fifth of the time of MLflow's tests are waits."""

import os
import sqlite3

from sqlalchemy import event
from sqlalchemy.engine import Engine


def forget_the_disk() -> None:
    """Let this process, and what is forked from it, leave to the system when files reach the disk."""
    os.fsync = lambda descriptor: None
    event.listen(Engine, "connect", _unsynced)


def _unsynced(connection: object, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
