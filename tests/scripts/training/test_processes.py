"""Several processes of one training: what each of them does, without starting any."""

import pytest
import torch
from ignite.engine import Engine
from ignite.handlers import ProgressBar
from monai.handlers import StatsHandler

from scripts.training import checkpoints, pictures, seeds
from scripts.training.processes import handlers_of_process, join_processes
from scripts.training.schedule import LearningRate
from transforms.errors import InputError


@pytest.fixture(params=[0, 1])
def process(request, monkeypatch):
    """Number of the process that the code believes to be."""
    from scripts.training import processes

    for module in (processes, checkpoints, pictures, seeds):
        monkeypatch.setattr(module, "rank", lambda: request.param)
    return request.param


def test_only_the_first_process_reports(process):
    optimizer = torch.optim.Adam([torch.zeros(1)])
    handlers = [ProgressBar(), LearningRate(optimizer, 2), StatsHandler(name="training")]
    assert handlers_of_process(handlers) == (handlers if process == 0 else handlers[1:2])


def test_only_the_first_process_writes_and_locks_and_all_resume(process, tmp_path):
    network = torch.nn.Linear(2, 1)
    checkpoints.write_checkpoint(tmp_path / "model.pt", {"network": network.state_dict()})
    assert (tmp_path / "model.pt").is_file() == (process == 0)
    engine = Engine(lambda engine, batch: None)
    checkpoints.TrainingCheckpoint(tmp_path, {"network": network}).attach(engine)
    assert (tmp_path / checkpoints.LOCK).is_file() == (process == 0)
    engine.run([1], max_epochs=1)
    assert bool(checkpoints.epoch_checkpoints(tmp_path)) == (process == 0)
    if process == 0:
        # a second process of the same training finds this folder in use, and goes on from its file
        other = torch.nn.Linear(2, 1)
        engine = Engine(lambda engine, batch: None)
        engine.state.max_epochs = 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "rank", lambda: 1)
            checkpoints.TrainingCheckpoint(tmp_path, {"network": other}, resume=True).attach(engine)
            engine.run([1], max_epochs=2)
        assert engine.state.iteration == 2
        assert torch.equal(other.weight, network.weight)
        assert list(checkpoints.epoch_checkpoints(tmp_path)) == [1]


def test_processes_epochs_and_seeds_share_no_draws():
    found = []
    engine = Engine(lambda engine, batch: None)
    for number in range(8):
        for seed in range(4):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(seeds, "rank", lambda number=number: number)
                for epoch in (1, 2, 300):
                    engine.state.epoch = epoch
                    seeds.EpochSeed(torch.utils.data.TensorDataset(torch.zeros(1)), seed)(engine)
                    found.append(torch.initial_seed())
    assert len(set(found)) == len(found)


def test_a_process_that_torchrun_did_not_start_is_told(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="multi_gpu: found no RANK, expected torchrun"):
        join_processes("cpu")
