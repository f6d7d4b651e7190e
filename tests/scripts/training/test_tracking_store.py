"""Addresses of MLflow: which are refused, what is named of them, and the files behind those of databases."""

import time

import pytest

from scripts.training.tracking_store import require_store, run_table, store_address, without_password
from transforms.errors import InputError


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_options_of_a_database_are_no_part_of_its_name(tmp_path):
    uri = f"sqlite:///{tmp_path}/50%/mlflow.db?timeout=20"
    require_store(uri)
    assert store_address(uri) == f"sqlite+pysqlite:///{tmp_path}/50%25/mlflow.db?timeout=20"
    assert (tmp_path / "50%" / "mlflow.db").is_file()


@pytest.mark.parametrize("what", ["folder", "text"])
def test_a_file_that_is_no_database_is_refused_at_once(what, tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    path.mkdir() if what == "folder" else path.write_text("no database, " * 100)
    with pytest.raises(InputError) as raised:
        require_store(f"sqlite:///{path}")
    why = "unable to open database file" if what == "folder" else "file is not a database"
    assert f"found no MLflow that answers at sqlite:///{path} ({why})" in str(raised.value)
    # MLflow would have said that it tries again
    assert "retried" not in caplog.text


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite://",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:name?mode=memory&uri=true",
    ],
)
def test_a_database_in_memory_is_refused_because_its_runs_would_be_lost(uri):
    with pytest.raises(InputError, match="a database in memory, whose runs would be lost, expected a file as sqlite:"):
        require_store(uri)


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("https://user:secret@host:8080/path?token=secret", "https://host:8080/path"),
        ("postgresql://user:secret@host/db", "postgresql://host/db"),
        ("sqlite:////tmp/a@b/mlflow.db?password=secret", "sqlite:////tmp/a@b/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)
def test_an_address_is_named_without_its_password(uri, public):
    assert without_password(uri) == public


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("http://user:secret@127.0.0.1:9", "found no MLflow that answers at http://127.0.0.1:9 ("),
        ("mlruns", "found 'mlruns', expected a database as sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "expected a database as sqlite:///mlflow.db"),
        ("nonsense://host/db", "found no MLflow that answers at nonsense://host/db ("),
    ],
)
def test_a_server_that_is_down_at_the_start_is_one_sentence_within_seconds(uri, sentence):
    started = time.monotonic()
    with pytest.raises(InputError) as raised:
        require_store(uri)
    assert str(raised.value).startswith("--tracking_uri: ")
    assert sentence in str(raised.value)
    assert "secret" not in str(raised.value)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db, then http://127.0.0.1:5000/"),
        ("sqlite:////a b/50%.db", "mlflow ui --backend-store-uri 'sqlite+pysqlite:////a b/50%25.db', then http://"),
        ("https://me:secret@host/mlflow/", "https://host/mlflow/"),
    ],
)
def test_the_table_of_runs_has_an_address_to_open(uri, said):
    assert run_table(uri, "7").startswith(said)
    assert run_table(uri, "7").endswith("/#/experiments/7/runs?workflowType=machine_learning")
