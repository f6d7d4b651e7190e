"""Checkpoints: exactly the expected tensors are taken over, or nothing; the best and the latest are found."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser

from scripts.inference import load_networks
from scripts.training.checkpoints import (
    BestModel,
    TrainingCheckpoint,
    describe_origin,
    initialise,
    latest_checkpoint,
    load_network,
    read_checkpoint,
    start_at_zero,
    transfer_weights,
)
from transforms.errors import InputError
from transforms.scheme import default_scheme

CONFIGS = Path(__file__).parents[3] / "bundle" / "configs"


def build(name: str, seed: int) -> torch.nn.Module:
    """Network of a config with random weights."""
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / name))
    return parser.get_parsed_content("network_def")


def tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def pretrained() -> torch.nn.Module:
    return build("pretrain.json", 1)


@pytest.fixture
def finetuned() -> torch.nn.Module:
    return build("finetune.json", 2)


@pytest.fixture
def checkpoint(pretrained, tmp_path) -> Path:
    path = tmp_path / "model.pt"
    origin = {"mlflow_run": "abc", "parameters": {"pretext": "autoencoder"}}
    torch.save({"network": pretrained.state_dict(), "origin": origin}, path)
    return path


def test_the_network_has_the_documented_size(pretrained):
    assert round(sum(parameter.numel() for parameter in pretrained.parameters()) / 1e6, 2) == 1.43
    pooled = torch.zeros(1, 64, 8, 16, 8)
    with torch.no_grad():
        assert pretrained.eval()(pooled).shape == pooled.shape


@pytest.mark.parametrize("overlays", [[], ["autoencoder"]], ids=["artifact removal", "autoencoder"])
def test_pretraining_starts_with_no_output_and_learns_in_every_layer(overlays):
    torch.manual_seed(3)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ["pretrain", *overlays]])
    parser["device"] = "cpu"
    network = parser.get_parsed_content("network")
    image = torch.rand(1, 64, 16, 8, 24)
    assert not network(image).any()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        (network(image) - image).abs().mean().backward()
        optimizer.step()
    assert network(image).any()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any(), name


def test_only_the_layer_that_is_named_starts_at_zero(finetuned):
    before = tensors(finetuned)
    assert before["output_block.conv.conv.weight"].any()
    assert start_at_zero(finetuned, "output_block") is finetuned
    for key, value in tensors(finetuned).items():
        if key.startswith("output_block."):
            assert not value.any(), key
        else:
            assert torch.equal(value, before[key]), key


def test_all_tensors_but_those_of_the_output_layer_are_taken_over(pretrained, finetuned, checkpoint, caplog):
    source, before = tensors(pretrained), tensors(finetuned)
    kept = {key for key in before if key.startswith("output_block.")}
    assert 0 < len(kept) < len(before)
    with caplog.at_level(logging.INFO):
        assert initialise(finetuned, str(checkpoint)) is finetuned
    after = tensors(finetuned)
    for key, value in after.items():
        assert torch.equal(value, before[key] if key in kept else source[key]), key
    weights = [key for key in before if key not in kept and before[key].ndim > 1]
    assert all(not torch.equal(before[key], after[key]) for key in weights)
    total = len(before)
    assert (
        f"{total - len(kept)} of {total} tensors from {checkpoint}, {len(kept)} of output_block random" in caplog.text
    )
    assert same(tensors(pretrained), source)


def test_the_output_layer_is_not_taken_over_even_where_it_would_fit(pretrained, checkpoint):
    other = build("pretrain.json", 3)
    before = tensors(other)
    initialise(other, str(checkpoint))
    for key, value in tensors(other).items():
        expected = before[key] if key.startswith("output_block.") else tensors(pretrained)[key]
        assert torch.equal(value, expected), key


def test_without_a_checkpoint_the_weights_stay_random(finetuned, caplog):
    before = tensors(finetuned)
    with caplog.at_level(logging.INFO):
        initialise(finetuned, None)
    assert same(tensors(finetuned), before)
    assert "initialisation: random" in caplog.text


def test_any_other_set_of_tensors_is_refused_and_changes_nothing(pretrained, finetuned):
    source, before = tensors(pretrained), tensors(finetuned)
    names = [key for key in source if not key.startswith("output_block.")]
    first, last = names[0], names[-1]
    wrong = {
        f"none named {last}": {key: value for key, value in source.items() if key != last},
        "1 unexpected ones such as extra.weight": {**source, "extra.weight": torch.zeros(1)},
        rf"found {last} of shape \(3, 3\)": {**source, last: torch.zeros(3, 3)},
        f"found {first} of shape": {**source, first: source[first][:, :-1]},
        f"found 0 of {len(names)} expected tensors": {f"module.{key}": value for key, value in source.items()},
    }
    for sentence, offered in wrong.items():
        with pytest.raises(InputError, match=sentence) as raised:
            transfer_weights(finetuned, offered, "model.pt", "output_block")
        assert str(raised.value).startswith("model.pt: ")
        assert same(tensors(finetuned), before), sentence


def test_a_trained_network_is_loaded_as_a_whole_or_not_at_all(pretrained, finetuned, checkpoint, tmp_path):
    other = build("pretrain.json", 3)
    load_network(other, str(checkpoint))
    assert same(tensors(other), tensors(pretrained))
    before = tensors(finetuned)
    with pytest.raises(SystemExit, match=r"error: .*model.pt: found output_block.*expected \(4, "):
        load_network(finetuned, str(checkpoint))
    assert same(tensors(finetuned), before)
    partial = {key: value for key, value in pretrained.state_dict().items() if "output_block" not in key}
    torch.save(partial, tmp_path / "partial.pt")
    before = tensors(other)
    with pytest.raises(SystemExit, match="none named output_block"):
        load_network(other, str(tmp_path / "partial.pt"))
    assert same(tensors(other), before)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_nothing_is_unpickled(tmp_path):
    trace, legacy, wrapped = tmp_path / "trace", tmp_path / "legacy.pt", tmp_path / "wrapped.pt"
    legacy.write_bytes(pickle.dumps({"network": Trap(trace)}))
    torch.save({"network": {"w": torch.zeros(1)}, "extra": Trap(trace)}, wrapped)
    for path in (legacy, wrapped):
        with pytest.raises(InputError, match=f"{path.name}: found no checkpoint of tensors"):
            read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "found no checkpoint"),
        (b"These are not weights.\n", "found no checkpoint"),
        (bytes(range(256)) * 40, "found no checkpoint"),
        ({}, "found no tensors"),
        ([1, 2], "found no tensors"),
        (torch.zeros(3), "found no tensors"),
        ({"network": {}}, "found no tensors"),
        ({"network": {"w": 1.0}}, "found no tensors"),
        ({"epoch": 3, "w": torch.zeros(1)}, "found no tensors"),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_checkpoint_end_the_program_with_a_sentence(tmp_path, finetuned, content, sentence):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    before = tensors(finetuned)
    for use in (lambda: initialise(finetuned, str(path)), lambda: load_network(finetuned, str(path))):
        with pytest.raises(SystemExit, match=rf"error: .*model\.pt: {sentence}"):
            use()
    with pytest.raises(SystemExit, match=sentence):
        describe_origin(str(path))
    assert same(tensors(finetuned), before)


def test_a_checkpoint_cut_off_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="found no checkpoint"):
        read_checkpoint(checkpoint)


def test_the_origin_names_the_pretext_and_the_run(checkpoint, tmp_path):
    assert describe_origin(str(checkpoint)) == {"initialisation": "autoencoder", "run": "abc"}
    assert describe_origin(None) == {"initialisation": "random", "run": ""}
    torch.save({"w": torch.zeros(1)}, tmp_path / "bare.pt")
    assert describe_origin(str(tmp_path / "bare.pt")) == {"initialisation": "pretrained", "run": ""}


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
    _validate(best, network, [0.5, float("nan"), 0.5])
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
    with pytest.raises(SystemExit, match=r"error: .*found no checkpoint_epoch=<n>\.pt"):
        latest_checkpoint(str(tmp_path / "missing"))


def test_a_folder_with_an_earlier_training_is_refused_and_left_alone(tmp_path):
    (tmp_path / "checkpoint_epoch=6.pt").write_bytes(b"earlier")
    handler = TrainingCheckpoint(str(tmp_path), {})
    with pytest.raises(SystemExit, match=r"checkpoint_epoch=6\.pt: found the checkpoint of an earlier training"):
        handler.attach(Engine(lambda *_: None))
    assert (tmp_path / "checkpoint_epoch=6.pt").read_bytes() == b"earlier"


def test_a_network_is_not_applied_to_scans_prepared_in_another_way(pretrained, tmp_path):
    path = tmp_path / "model.pt"
    origin = {"preparation": {"bvalue": 1000.0, "voxel_size": 2.4, "scheme": default_scheme().tolist()}}
    torch.save({"network": pretrained.state_dict(), "origin": origin}, path)
    same = {"bvalue": 1000, "voxel_size": 2.4, "scheme": None}
    load_network(pretrained, str(path), same)
    load_network(pretrained, str(path), {**same, "scheme": default_scheme().tolist()})
    with pytest.raises(SystemExit, match=r"at voxel_size 2\.4, expected 3; prepare the scans with voxel_size 2\.4"):
        load_network(pretrained, str(path), {**same, "voxel_size": 3})
    with pytest.raises(SystemExit, match="trained at bvalue 1000, expected 2000"):
        load_network(pretrained, str(path), {**same, "bvalue": 2000})
    np.savetxt(tmp_path / "scheme.bvec", np.roll(default_scheme(), 1, axis=1).T)
    with pytest.raises(SystemExit, match="another scheme of 64 directions"):
        load_network(pretrained, str(path), {**same, "scheme": str(tmp_path / "scheme.bvec")})


def test_a_network_is_not_applied_to_another_task(pretrained, tmp_path):
    """Networks for tissue and for the number of crossings have the same tensors."""
    path = tmp_path / "model.pt"
    torch.save({"network": pretrained.state_dict(), "origin": {"parameters": {"task": "crossings"}}}, path)
    load_network(pretrained, str(path), task="crossings")
    with pytest.raises(SystemExit, match=r"model\.pt: found a network for crossings, expected one for segmentation\."):
        load_network(pretrained, str(path), task="segmentation")
    with pytest.raises(SystemExit, match="found a network for crossings"):
        load_networks(pretrained, [str(path), str(path)], task="segmentation")
    torch.save({"network": pretrained.state_dict()}, path)
    load_network(pretrained, str(path), task="segmentation")


def test_a_training_that_goes_on_has_the_learning_rate_of_its_config(pretrained, tmp_path):
    def train(rate, epochs, resume):
        optimizer = torch.optim.Adam(pretrained.parameters(), lr=rate)
        trainer = Engine(lambda *_: None)
        TrainingCheckpoint(str(tmp_path), {"optimizer": optimizer}, resume).attach(trainer)
        trainer.run([0], max_epochs=epochs)
        return optimizer.param_groups[0]["lr"], trainer.state.epoch

    assert train(0.01, 1, resume=False) == (0.01, 1)
    assert train(0.002, 2, resume=True) == (0.002, 2)
