"""Checkpoints of a training: the model of the best validation is kept, and the latest epoch is found."""

import pytest
import torch
from ignite.engine import Engine

from scripts.training.checkpoints import BestModel, TrainingCheckpoint, latest_checkpoint
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


@pytest.mark.parametrize("lower", [True, False])
def test_a_validation_that_gives_nan_is_never_the_best(tmp_path, lower):
    network = torch.nn.Linear(1, 1)
    best = BestModel(network, str(tmp_path / "model.pt"), "score", lower)
    with pytest.raises(InputError, match="found score = nan, expected a number"):
        _validate(best, network, [0.5, float("nan")])
    assert read_checkpoint(tmp_path / "model.pt")["network"]["weight"].item() == 1


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


def test_a_folder_with_an_earlier_training_is_refused_and_left_alone(tmp_path):
    (tmp_path / "checkpoint_epoch=6.pt").write_bytes(b"earlier")
    handler = TrainingCheckpoint(str(tmp_path), {})
    with pytest.raises(InputError, match=r"checkpoint_epoch=6\.pt: found the checkpoint of an earlier training"):
        handler.attach(Engine(lambda *_: None))
    assert (tmp_path / "checkpoint_epoch=6.pt").read_bytes() == b"earlier"


def test_a_training_that_goes_on_has_the_learning_rate_of_its_config(tmp_path):
    def train(rate, epochs, resume):
        optimizer = torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), lr=rate)
        trainer = Engine(lambda *_: None)
        TrainingCheckpoint(str(tmp_path), {"optimizer": optimizer}, resume).attach(trainer)
        trainer.run([0], max_epochs=epochs)
        return optimizer.param_groups[0]["lr"], trainer.state.epoch

    assert train(0.01, 1, resume=False) == (0.01, 1)
    assert train(0.002, 2, resume=True) == (0.002, 2)
