"""Checkpoints of a training: the model of the best validation is kept, and the latest epoch is found."""

import errno
import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from scripts.errors import explanation
from scripts.training.checkpoints import (
    LARGEST,
    BestModel,
    TrainingCheckpoint,
    latest_checkpoint,
    lock_folder,
    read_latest_checkpoint,
    require_folder,
    write_checkpoint,
)
from scripts.training.schedule import DECAYS, LearningRate
from scripts.training.weights import read_checkpoint
from transforms.errors import InputError


def _validate(best: BestModel, network: torch.nn.Linear, values) -> None:
    """Validate once per value; the weight of the network is the number of the epoch."""
    for epoch, value in enumerate(values, start=1):
        torch.nn.init.constant_(network.weight, epoch)
        engine = Engine(lambda *_: None)
        best.attach(engine)
        engine.state.epoch = epoch
        engine.state.metrics = {"score": value}
        best(engine)


@pytest.mark.parametrize(("lower", "epoch"), [(True, 3), (False, 2)])
def test_the_best_model_is_kept_in_either_direction(tmp_path, lower, epoch):
    network = torch.nn.Linear(1, 1)
    path = tmp_path / "out" / "model.pt"
    best = BestModel(network, str(path), "score", lower, origin=lambda: {"mlflow_run": "abc"})
    # equal is not better, and 0 is not nothing
    values = [0.5, 0.9, 0.0, 0.3, 0.0, 0.9]
    _validate(best, network, values)
    saved = read_checkpoint(path)
    assert saved["network"]["weight"].item() == epoch
    assert saved["origin"] == {"epoch": epoch, "score": values[epoch - 1], "mlflow_run": "abc"}

    later = torch.nn.Linear(1, 1)
    resumed = BestModel(later, str(path), "score", lower)
    resumed.load_state_dict(best.state_dict())
    _validate(resumed, later, [0.5, 0.1])
    assert read_checkpoint(path)["network"]["weight"].item() == epoch
    _validate(resumed, later, [0.5, -1.0 if lower else 1.0])
    assert read_checkpoint(path)["network"]["weight"].item() == 2
    assert "mlflow_run" not in read_checkpoint(path)["origin"]


def test_the_largest_value_over_scans_stays_with_the_weights(tmp_path):
    network, path = torch.nn.Linear(1, 1), tmp_path / "model.pt"
    best, engine = BestModel(network, str(path), "score", True, largest=["other"]), Engine(lambda *_: None)
    engine.state.epoch, engine.state.metrics = 1, {"score": 0.5, "other": 0.25}
    engine.state.metric_details = {"other": torch.tensor([[0.125], [0.375], [0.25]])}
    best(engine)
    assert read_checkpoint(path)["origin"] == {"epoch": 1, "score": 0.5, LARGEST: {"other": 0.375}}


@pytest.mark.parametrize("lower", [True, False])
def test_a_validation_that_gives_nan_is_never_the_best(tmp_path, lower):
    network = torch.nn.Linear(1, 1)
    best = BestModel(network, str(tmp_path / "model.pt"), "score", lower)
    with pytest.raises(InputError, match="found score = nan, expected a number"):
        _validate(best, network, [0.5, float("nan")])
    assert read_checkpoint(tmp_path / "model.pt")["network"]["weight"].item() == 1


def test_a_metric_that_no_validation_has_is_said(tmp_path):
    best, engine = BestModel(torch.nn.Linear(1, 1), str(tmp_path / "model.pt"), "f1", False), Engine(lambda *_: None)
    engine.state.metrics = {"val_loss": 0.5, "val_macro_f1": 0.9}
    with pytest.raises(
        InputError, match="found no metric f1 in the validation, expected one of val_loss, val_macro_f1"
    ):
        best(engine)


def test_the_state_of_the_best_model_is_plain_enough_for_a_checkpoint(tmp_path):
    network = torch.nn.Linear(1, 1)
    best = BestModel(network, str(tmp_path / "model.pt"), "score", True)
    _validate(best, network, [torch.tensor(0.25)])
    torch.save({"network": network.state_dict(), "best_model": best.state_dict()}, tmp_path / "checkpoint.pt")
    assert read_checkpoint(tmp_path / "checkpoint.pt")["best_model"] == {"best": 0.25}


def test_the_latest_checkpoint_is_that_of_the_highest_epoch(tmp_path):
    for name in ("epoch=9", "epoch=10", "epoch=2", "final_iteration=99", "epoch=11.bak", "epoch=x"):
        (tmp_path / f"checkpoint_{name}.pt").touch()
    (tmp_path / "checkpoint_epoch=12.pt.tmp").touch()
    assert latest_checkpoint(tmp_path) == str(tmp_path / "checkpoint_epoch=10.pt")
    with pytest.raises(InputError, match=r".*found no checkpoint_epoch=<n>\.pt"):
        latest_checkpoint(str(tmp_path / "missing"))


def save(path, **content):
    torch.save({"network": {"w": torch.ones(9)}, **content}, path)


@pytest.mark.parametrize("damage", ["cut off", "empty", "a byte changed", "weights of NaN"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_word(tmp_path, caplog, damage):
    for epoch in (1, 2):
        save(tmp_path / f"checkpoint_epoch={epoch}.pt", epoch=epoch)
    newest = tmp_path / "checkpoint_epoch=2.pt"
    content = bytearray(newest.read_bytes())
    if damage == "weights of NaN":
        torch.save({"network": {"w": torch.tensor([torch.nan])}}, newest)
    else:
        content[content.index(torch.ones(9).numpy().tobytes()) + 7] ^= 0x01
        newest.write_bytes({"cut off": content[: len(content) // 2], "empty": b"", "a byte changed": content}[damage])
    path, content = read_latest_checkpoint(tmp_path)
    assert (path.name, content["epoch"]) == ("checkpoint_epoch=1.pt", 1)
    assert "checkpoint_epoch=2.pt: found" in caplog.text
    assert "It is passed over." in caplog.text
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint_epoch=1\.pt: found a damaged checkpoint and none before it"):
        read_latest_checkpoint(tmp_path)


def test_a_folder_with_an_earlier_training_is_refused_and_left_alone(tmp_path):
    (tmp_path / "checkpoint_epoch=6.pt").write_bytes(b"earlier")
    handler = TrainingCheckpoint(str(tmp_path), {})
    with pytest.raises(InputError, match=r"checkpoint_epoch=6\.pt: found the checkpoint of an earlier training"):
        handler.attach(Engine(lambda *_: None))
    assert (tmp_path / "checkpoint_epoch=6.pt").read_bytes() == b"earlier"


def go(
    folder, epochs, resume=False, rate=0.01, steps=2, task="direction", cohort="abc", of=None, decay="none", more=None
):
    """Train a linear network for some epochs of ``of``; return the engine, its steps and the rate of each epoch."""
    torch.manual_seed(0)
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=rate)
    objects = {"network": network, "optimizer": optimizer, **(more or {})}
    taken, rates = [], []

    def step(engine, batch):
        optimizer.zero_grad()
        network(torch.full((1, 1), float(batch))).sum().backward()
        optimizer.step()
        taken.append(engine.state.epoch)

    trainer = Engine(step)
    trainer.state.max_epochs = epochs
    trainer.state.epoch_length = steps
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: rates.append(optimizer.param_groups[0]["lr"]))
    LearningRate(optimizer, of or epochs, 0.5, decay).attach(trainer)
    origin = {"parameters": {"task": task, "cohort": cohort}}
    TrainingCheckpoint(str(folder), objects, resume, origin=lambda: origin).attach(trainer)
    trainer.run(range(steps), max_epochs=epochs)
    assert optimizer.param_groups[0]["weight_decay"] == rate
    return trainer, taken, rates, network.state_dict()


def test_a_training_that_goes_on_has_the_learning_rate_of_its_config(tmp_path):
    assert go(tmp_path, 2)[2][-1] == 0.01
    assert go(tmp_path, 3, resume=True, rate=0.002)[2] == [0.002]


@pytest.mark.parametrize("decay", DECAYS)
def test_a_training_that_goes_on_has_the_rates_and_the_weights_of_one_that_was_not_cut_off(tmp_path, decay):
    _, _, rates, weights = go(tmp_path / "straight", 6, decay=decay)
    go(tmp_path / "broken", 3, decay=decay, of=6)
    _, _, later, resumed = go(tmp_path / "broken", 6, resume=True, decay=decay)
    assert later == rates[3:]
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_another_batch_size_does_not_change_what_an_epoch_is(tmp_path):
    go(tmp_path, 2, steps=2)
    trainer, taken, _, _ = go(tmp_path, 4, resume=True, steps=5)
    assert taken == [3] * 5 + [4] * 5
    assert (trainer.state.epoch, trainer.state.iteration) == (4, 20)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"task": "crossings"}, r"found a training with another task \(direction\), expected crossings"),
        ({"cohort": "xyz"}, r"found a training with another cohort \(abc\), expected xyz"),
        ({"epochs": 1}, "found 2 epochs done, expected --max_epochs of at least as many"),
        (
            {"more": {"ema": torch.nn.Linear(1, 1)}},
            "found no ema, expected the checkpoint of an epoch of this training",
        ),
    ],
)
def test_a_training_goes_on_with_what_it_began_with(tmp_path, change, sentence):
    go(tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    with pytest.raises(InputError, match=rf"checkpoint_epoch=2\.pt: {sentence}"):
        go(tmp_path, **{"epochs": 3, "resume": True, **change})
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


@pytest.mark.parametrize("state", [5, {"state": 1, "param_groups": 2}, {}])
def test_an_optimizer_of_another_kind_is_not_restored(tmp_path, state):
    go(tmp_path, 2)
    path = tmp_path / "checkpoint_epoch=2.pt"
    torch.save({**torch.load(path, weights_only=True), "optimizer": state}, path)
    with pytest.raises(InputError, match=r"checkpoint_epoch=2\.pt: found another optimizer \("):
        go(tmp_path, 3, resume=True)


def test_nothing_left_to_do_is_said(tmp_path, caplog):
    go(tmp_path, 2)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.pt")}
    assert go(tmp_path, 2, resume=True)[1] == []
    assert "nothing left to do: all epochs (2) are in" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_one_training_at_a_time_has_a_folder(tmp_path):
    code = f"""
import time
from scripts.training.checkpoints import lock_folder
lock = lock_folder({str(tmp_path)!r})
print("locked", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        for refused in (lambda: lock_folder(tmp_path), lambda: require_folder(tmp_path, resume=False)):
            with pytest.raises(InputError, match="found a training at work there, expected an --output_dir of its own"):
                refused()
        # the system takes the lock of a process that is killed
        other.kill()
    go(tmp_path, 1)
    lock_folder(tmp_path).release()


def train_until_killed(folder, moment):
    """Train in a process that is killed while it writes the checkpoint of the third epoch."""
    write, rename = Path.write_bytes, os.replace

    def written(path, content):
        write(path, content[: len(content) // 2] if moment == "half written" and "epoch=3" in path.name else content)
        kill(moment == "half written" and "epoch=3" in path.name)

    def renamed(old, new):
        kill(moment == "written" and "epoch=3" in new.name)
        rename(old, new)
        kill(moment == "renamed" and "epoch=3" in new.name)

    def kill(now):
        if now:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes, os.replace = written, renamed
    go(folder, 5)


@pytest.mark.parametrize(("moment", "last"), [("half written", 2), ("written", 2), ("renamed", 3)])
def test_a_training_that_is_killed_while_it_writes_a_checkpoint_loses_nothing(tmp_path, moment, last):
    _, _, _, weights = go(tmp_path / "straight", 5)
    folder = tmp_path / "killed"
    # not a fork of this process: PyTorch may have threads here, and then trains in none
    process = get_context("forkserver").Process(target=train_until_killed, args=(folder, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(folder.glob(".*.partial.*"))) == (moment != "renamed")
    path, checkpoint = read_latest_checkpoint(folder)
    assert path.name == f"checkpoint_epoch={last}.pt"
    assert checkpoint["origin"]["epoch"] == last
    _, taken, _, resumed = go(folder, 5, resume=True)
    assert taken[0] == last + 1
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    assert not list(folder.glob(".*.partial.*"))


@pytest.mark.parametrize("left", ["gone", "damaged", "better"])
def test_the_best_value_of_a_resumed_training_is_that_of_the_model_that_is_there(tmp_path, left):
    network, path = torch.nn.Linear(1, 1), tmp_path / "model.pt"
    best = BestModel(network, str(path), "score", lower_is_better=True)
    _validate(best, network, [0.5])
    state = best.state_dict()
    if left == "better":
        _validate(best, network, [0.5, 0.2])
    elif left == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100])
    later = BestModel(network, str(path), "score", lower_is_better=True)
    later.load_state_dict(state)
    _validate(later, network, [0.4, 0.6])
    assert read_checkpoint(path)["origin"]["score"] == (0.2 if left == "better" else 0.4)


def test_a_full_disk_leaves_the_checkpoint_that_was_there_and_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    write_checkpoint(path, {"network": {"w": torch.zeros(3)}})
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space") as raised:
        write_checkpoint(path, {"network": {"w": torch.ones(3)}})
    assert explanation(raised.value) == (
        f"error: {path}: found that it cannot be used (No space left on device), expected a place that can."
    )
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["model.pt"]
