"""Tracking never decides over training: servers that are down, runs that are gone, databases made twice at once."""

import csv
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
from ignite.engine import Engine, Events
from mlflow import MlflowClient

from scripts.engines import run
from scripts.io.files import read_json
from scripts.training.epoch_metrics import EpochMetrics, send_afterwards
from scripts.training.tracking import Tracker
from scripts.training.tracking_store import require_store
from transforms.errors import InputError


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def track(mlflow_store, tmp_path, request):
    def make(folder="out", uri=mlflow_store, **options):
        options = {"parameters": {"task": "restoration", "dataset_dir": "/data/secret", "seed": 0}, **options}
        return Tracker(uri, request.node.name, str(tmp_path / folder), **options)

    return make


def train(tracker, epochs, during=None, before=0):
    """Train nothing; the loss of an epoch is its number."""
    trainer = Engine(lambda *_: None)
    trainer.state.epoch_length, trainer.state.max_epochs = 1, epochs
    if during:
        trainer.add_event_handler(Events.ITERATION_COMPLETED, during)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: e.state.metrics.update(loss=0.1 * e.state.epoch))
    trainer.state.epoch = trainer.state.iteration = before
    for event, act in ((Events.STARTED, tracker.start), (Events.EPOCH_COMPLETED, tracker.epoch_completed)):
        trainer.add_event_handler(event, act)
    trainer.add_event_handler(Events.COMPLETED, tracker.close)
    trainer.add_event_handler(Events.EXCEPTION_RAISED, tracker._fail)
    trainer.run([0], max_epochs=epochs)


def losses(client, run_id):
    return {point.step: point.value for point in client.get_metric_history(run_id, "loss")}


EXPECTED = {epoch: 0.1 * epoch for epoch in (1, 2, 3, 4)}


def breaks(tracker, monkeypatch, epochs):
    """Let the server of a tracker be away in some epochs."""

    def switch(engine):
        for name in ("log_batch", "set_terminated", "log_artifact"):
            if engine.state.epoch in epochs:
                monkeypatch.setattr(tracker.client, name, _away)
            else:
                monkeypatch.undo()

    return switch


def _away(*_, **__):
    raise ConnectionError("refused, said user:secret@host")


def test_a_server_that_is_away_for_a_time_gets_all_metrics_when_it_is_back(track, runs, monkeypatch, caplog, tmp_path):
    tracker = track()
    train(tracker, 4, breaks(tracker, monkeypatch, {2, 3}))
    (found,) = runs()
    assert found.info.status == "FINISHED"
    assert losses(tracker.client, found.info.run_id) == EXPECTED
    said = [record.message for record in caplog.records if "MLflow" in record.message]
    assert ["does not answer (ConnectionError)" in text for text in said] == [True, False]
    assert "answers again" in said[1]
    assert "secret" not in "".join(said)
    assert {int(row["epoch"]): float(row["value"]) for row in read_table(tmp_path)} == EXPECTED


def read_table(folder):
    with (folder / "out" / "epochs.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_server_that_stays_away_gets_them_by_a_command(track, runs, monkeypatch, mlflow_store, tmp_path):
    tracker = track()
    train(tracker, 4, breaks(tracker, monkeypatch, {3, 4}))
    monkeypatch.undo()
    (found,) = runs()
    assert found.info.status == "RUNNING"
    assert {int(row["epoch"]): float(row["value"]) for row in read_table(tmp_path)} == EXPECTED
    (tmp_path / "out" / "pictures").mkdir()
    (tmp_path / "out" / "pictures" / "epoch_0003.png").touch()
    assert send_afterwards(tmp_path / "out", mlflow_store) == 2
    (found,) = runs()
    assert found.info.status == "FINISHED"
    assert losses(tracker.client, found.info.run_id) == EXPECTED
    pictures = [item.path for item in tracker.client.list_artifacts(found.info.run_id, "pictures")]
    assert pictures == ["pictures/epoch_0003.png"]
    assert send_afterwards(tmp_path / "out", mlflow_store) == 0


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_text"])
def test_a_server_that_is_away_while_the_run_begins_gets_all_of_it_when_it_is_back(track, runs, monkeypatch, call):
    tracker = track(config={"rate": 0.1})
    monkeypatch.setattr(tracker.client, call, _away)
    train(tracker, 4, lambda engine: engine.state.epoch == 3 and monkeypatch.undo())
    (found,) = runs()
    assert found.info.status == "FINISHED"
    assert losses(tracker.client, found.info.run_id) == EXPECTED
    assert found.data.params["seed"] == "0"
    assert [item.path for item in tracker.client.list_artifacts(found.info.run_id)] == ["config.json"]


@pytest.mark.parametrize("call", ["create_run", "log_batch"])
def test_a_server_that_is_away_from_the_start_to_the_end_gets_its_run_by_a_command(
    track, runs, monkeypatch, call, mlflow_store, tmp_path
):
    tracker = track()
    for name in (call, "set_terminated"):
        monkeypatch.setattr(tracker.client, name, _away)
    train(tracker, 4)
    monkeypatch.undo()
    assert send_afterwards(tmp_path / "out", mlflow_store) == 4
    assert send_afterwards(tmp_path / "out", mlflow_store) == 0
    (found,) = runs()
    assert (found.info.status, found.info.run_name) == ("FINISHED", tracker.run_name)
    assert losses(MlflowClient(mlflow_store), found.info.run_id) == EXPECTED
    assert (found.data.params["task"], found.data.params["seed"]) == ("restoration", "0")


def test_a_server_that_is_back_at_the_end_gets_the_last_metrics(track, runs, monkeypatch):
    tracker = track()
    close = tracker.close
    monkeypatch.setattr(tracker.client, "log_batch", _away)
    monkeypatch.setattr(tracker, "close", lambda: (monkeypatch.undo(), close()))
    train(tracker, 4)
    (found,) = runs()
    assert found.info.status == "FINISHED"
    assert losses(tracker.client, found.info.run_id) == EXPECTED


def test_metrics_are_not_sent_to_an_mlflow_without_the_run(track, tmp_path):
    train(track(), 1)
    with pytest.raises(InputError, match=r"mlflow_run.json: found run \w+, which is not in this MLflow, expected"):
        send_afterwards(tmp_path / "out", f"sqlite:///{tmp_path}/other.db")


def test_a_table_of_metrics_that_is_another_one_is_refused(tmp_path):
    path = tmp_path / "epochs.csv"
    for text in ("epoch,loss\n1,0.5\n", "epoch,metric,value,time\none,loss,0.5,1\n", "epoch,metric,value,time\n1,loss"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"epochs\.csv: found another table, expected epoch, metric, value, time"):
            EpochMetrics(path, resume=True)


def test_a_resumed_training_sends_what_was_left(track, runs, monkeypatch):
    tracker = track()
    train(tracker, 2, breaks(tracker, monkeypatch, {1, 2}))
    monkeypatch.undo()
    later = track(resume=True)
    train(later, 4, before=2)
    (found,) = runs()
    assert losses(later.client, found.info.run_id) == EXPECTED
    assert found.info.status == "FINISHED"


@pytest.mark.parametrize("how", ["deleted", "another database"])
def test_a_run_that_is_gone_gives_way_to_a_new_one_that_names_it(track, runs, how, tmp_path, caplog):
    if how == "deleted":
        train(track(), 2)
        (former,) = runs()
        MlflowClient(track().uri).delete_run(former.info.run_id)
    else:
        train(track(uri=f"sqlite:///{tmp_path}/other.db"), 2)
    former = read_json(tmp_path / "out" / "mlflow_run.json")["run_id"]
    later = track(resume=True)
    train(later, 4, before=2)
    (found,) = runs()
    assert found.info.run_id != former
    assert found.data.params["resumed_from"] == former
    assert losses(later.client, found.info.run_id) == EXPECTED
    assert f"run {former} is gone" in caplog.text


def test_a_deleted_experiment_comes_back(track, runs, caplog):
    train(track(), 1)
    client = track().client
    client.delete_experiment(client.get_experiment_by_name(track().experiment_name).experiment_id)
    train(track("second"), 1)
    assert [found.info.status for found in runs()] == ["FINISHED"] * 2
    assert "is restored" in caplog.text


def test_two_runs_of_one_name_are_two_runs(track, runs):
    def end(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(track(run_name="mine"), 2, end)
    train(track("second", run_name="mine"), 1)
    assert sorted(found.info.status for found in runs()) == ["FAILED", "FINISHED"]


def test_several_trainings_make_one_database(tmp_path, python):
    code = """
import sys
from functools import partial
from scripts.training.tracking import Tracker
from ignite.engine import Engine
tracker = Tracker(sys.argv[1], "pretrain", sys.argv[2], parameters={"seed": sys.argv[2]})
engine = Engine(lambda *_: None)
tracker.start(engine)
assert not tracker.behind
tracker.close()
"""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    words = [[python, "-W", "ignore", "-c", code, uri, str(tmp_path / str(index))] for index in range(3)]
    for process in [subprocess.Popen(line, stderr=subprocess.PIPE) for line in words]:
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error.decode()[-2000:]
    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "pretrain"]
    assert [found.info.status for found in client.search_runs([experiment.experiment_id])] == ["FINISHED"] * 3


@pytest.mark.parametrize(
    ("name", "way"),
    [
        *((name, "absolute") for name in ("feature%2Fx", "what?x=1", "two words")),
        *((name, "relative") for name in ("what?x=1", "a#b")),
        ("50%", "variable"),
    ],
)
def test_a_folder_of_any_name_can_be_worked_in(track, name, way, tmp_path, monkeypatch):
    folder = tmp_path / "here" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    # MLflow keeps what it opened under an address, so that each of these needs one of its own
    database = f"{name.encode().hex()}.db"
    uri = f"sqlite:///{database}" if way == "relative" else f"sqlite:///{folder}/{database}"
    if way == "variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        uri = "sqlite:///unused.db"
    require_store(uri)
    tracker = track(uri=uri, config={"rate": 0.1})
    train(tracker, 1, breaks(tracker, monkeypatch, {1}))
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert (folder / database).is_file()
    assert list((folder / "mlartifacts").rglob("config.json"))
    assert send_afterwards(tmp_path / "out", tracker.uri) == 1
    # nothing lands under a part of the name, or under the name that a decoded one would be
    assert [path.name for path in (tmp_path / "here").iterdir()] == [name]
    assert not list(tmp_path.rglob("unused.db"))


def test_no_password_and_on_request_no_path_goes_to_the_server(track, runs, mlflow_store, tmp_path):
    config = {"tracking_uri": mlflow_store, "deep": {"text": f"at {mlflow_store}?password=hunter2"}}
    tracker = track(config=config)
    tracker.uri = f"{mlflow_store}?password=hunter2"
    config["tracking_uri"] = tracker.uri
    train(tracker, 1)
    (found,) = runs()
    kept = tracker.client.download_artifacts(found.info.run_id, "config.json", str(tmp_path))
    assert "hunter2" not in Path(kept).read_text()
    assert found.data.params["dataset_dir"] == "/data/secret"
    quiet = track("quiet", config=config, log_paths=False)
    train(quiet, 1, lambda _: quiet.log_table({"scan": ["sub-01"]}, "scans.json"))
    quiet_run = next(run for run in runs() if run.info.run_id != found.info.run_id)
    assert "dataset_dir" not in quiet_run.data.params
    assert quiet_run.data.params["seed"] == "0"
    assert quiet.client.list_artifacts(quiet_run.info.run_id) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_with_its_run_marked(number, code, track, runs, capsys, request):
    # a shell that runs the tests in the background has them ignore the signal
    request.addfinalizer(
        partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
    )
    tracker = track()
    trainer = Engine(lambda *_: os.kill(os.getpid(), number))
    trainer.state.epoch_length, trainer.state.max_epochs = 1, 9
    tracker.trains = False
    tracker.attach(trainer)
    trainer.state.max_epochs = None
    before = signal.getsignal(signal.SIGTERM)

    class Once:
        def run(self):
            trainer.run([0], max_epochs=2)

    with pytest.raises(SystemExit) as left:
        run(Once())
    assert left.value.code == code
    assert "goes on from its last epoch with resume.json" in capsys.readouterr().err
    assert [found.info.status for found in runs()] == ["KILLED"]
    assert signal.getsignal(signal.SIGTERM) is before
