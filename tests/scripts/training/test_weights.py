"""Weights of networks: exactly the expected tensors are taken over, or nothing."""

import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.inference import load_networks
from scripts.training.weights import (
    describe_origin,
    evaluation_parameters,
    initialise,
    load_network,
    read_checkpoint,
    transfer_weights,
    transferred,
    write_origin,
)
from scripts.version import code_version
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

CONFIGS = Path(__file__).parents[3] / "bundle" / "configs"


PREPARATION = {"bvalue": 1000.0, "voxel_size": 2.4, "scheme": default_scheme().tolist()}


def build(names: Sequence[str], seed: int) -> torch.nn.Module:
    """Network of some configs with random weights."""
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    return parser.get_parsed_content("network_def")


ORIGINS = [
    5,
    {"parameters": 3},
    {"preparation": [4]},
    {"epoch": "two"},
    {"epoch": -1},
    {"preparation": {**PREPARATION, "bvalue": "high"}},
    {"preparation": {**PREPARATION, "scheme": "scheme.bvec"}},
    {"preparation": {**PREPARATION, "scheme": [[1.0, 0.0], [0.0, 1.0]]}},
]
"""None of them says where weights come from."""


def tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def pretrained() -> torch.nn.Module:
    return build(["pretrain.json"], 1)


@pytest.fixture
def finetuned() -> torch.nn.Module:
    return build(["finetune.json", "segmentation.json"], 2)


@pytest.fixture
def checkpoint(pretrained, tmp_path) -> Path:
    path = tmp_path / "model.pt"
    origin = {
        "mlflow_run": "abc",
        "parameters": {"pretext": "autoencoder", "task": "restoration"},
        "preparation": PREPARATION,
    }
    torch.save({"network": pretrained.state_dict(), "origin": origin}, path)
    return path


def test_the_network_has_the_documented_size(pretrained):
    assert round(sum(parameter.numel() for parameter in pretrained.parameters()) / 1e6, 2) == 1.42
    pooled = torch.zeros(1, 64, 8, 16, 8)
    with torch.no_grad():
        assert pretrained.eval()(pooled).shape == pooled.shape


def test_all_tensors_but_those_of_the_output_layer_are_taken_over(pretrained, finetuned, checkpoint, caplog):
    source, before = tensors(pretrained), tensors(finetuned)
    kept = {key for key in before if key.startswith("output_block.")}
    assert 0 < len(kept) < len(before)
    with caplog.at_level(logging.INFO):
        assert initialise(finetuned, str(checkpoint), transferred(finetuned, str(checkpoint))) is finetuned
    after = tensors(finetuned)
    for key, value in after.items():
        assert torch.equal(value, before[key] if key in kept else source[key]), key
    # gates begin alike in all networks
    weights = [key for key in before if key not in kept and before[key].ndim > 1 and not key.startswith("gate.")]
    assert all(not torch.equal(before[key], after[key]) for key in weights)
    total = len(before)
    assert f"{total - len(kept)} of {total} tensors from {checkpoint}, the others random" in caplog.text
    assert same(tensors(pretrained), source)


def test_the_output_layer_is_not_taken_over_even_where_it_would_fit(pretrained, checkpoint):
    other = build(["pretrain.json"], 3)
    before = tensors(other)
    initialise(other, str(checkpoint), transferred(other, str(checkpoint)))
    for key, value in tensors(other).items():
        expected = before[key] if key.startswith("output_block.") else tensors(pretrained)[key]
        assert torch.equal(value, expected), key


def test_the_encoder_alone_is_taken_over(pretrained, finetuned, checkpoint):
    source, before = tensors(pretrained), tensors(finetuned)
    initialise(finetuned, str(checkpoint), transferred(finetuned, str(checkpoint), ["projection", "encoder"]))
    for key, value in tensors(finetuned).items():
        assert torch.equal(value, source[key] if key.startswith(("projection.", "encoder.")) else before[key]), key
    with pytest.raises(InputError, match=r"found 'head', expected layers among projection, encoder, decoder, gate\."):
        transferred(finetuned, str(checkpoint), ["head"])


def test_without_a_checkpoint_the_weights_stay_random(finetuned, caplog):
    before = tensors(finetuned)
    with caplog.at_level(logging.INFO):
        initialise(finetuned, None, transferred(finetuned, None))
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
            transfer_weights(finetuned, offered, "model.pt", names)
        assert str(raised.value).startswith("model.pt: ")
        assert same(tensors(finetuned), before), sentence


def test_a_trained_network_is_loaded_as_a_whole_or_not_at_all(pretrained, finetuned, checkpoint, tmp_path):
    other = build(["pretrain.json"], 3)
    load_network(other, str(checkpoint))
    assert same(tensors(other), tensors(pretrained))
    before = tensors(finetuned)
    with pytest.raises(InputError, match=r".*model.pt: found output_block.*expected \(4, "):
        load_network(finetuned, str(checkpoint))
    assert same(tensors(finetuned), before)
    partial = {key: value for key, value in pretrained.state_dict().items() if "output_block" not in key}
    torch.save({**read_checkpoint(checkpoint), "network": partial}, tmp_path / "partial.pt")
    before = tensors(other)
    with pytest.raises(InputError, match="none named output_block"):
        load_network(other, str(tmp_path / "partial.pt"))
    assert same(tensors(other), before)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("text", ["root:x:0:0:root:/root:/bin/bash\n", "absl-py==2.3.1\n", "{}", "\x80\x04."])
def test_a_file_of_another_kind_is_no_checkpoint(text, tmp_path):
    path = tmp_path / "model.pt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"model\.pt: found no (checkpoint|tensors)"):
        read_checkpoint(path)


def test_an_origin_beside_that_holds_none_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.ones(2)}, path)
    write_origin(path, {})
    beside = path.with_name("origin.json")
    beside.write_text(json.dumps({"sha256": json.loads(beside.read_text())["sha256"]}))
    with pytest.raises(InputError, match="found an origin that is none"):
        read_checkpoint(path)


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
        *(({"network": {"w": torch.zeros(1)}, "origin": origin}, "found an origin that is none") for origin in ORIGINS),
        (None, "no such file"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused_with_a_sentence(tmp_path, finetuned, content, sentence):
    path = tmp_path / "model.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    before = tensors(finetuned)
    for use in (lambda: initialise(finetuned, str(path), []), lambda: load_network(finetuned, str(path))):
        with pytest.raises(InputError, match=rf".*model\.pt: {sentence}"):
            use()
    with pytest.raises(InputError, match=sentence):
        describe_origin(str(path))
    assert same(tensors(finetuned), before)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_that_a_cast_would_change_are_refused(checkpoint, finetuned, dtype):
    content, before = torch.load(checkpoint, weights_only=True), tensors(finetuned)
    cast = {key: tensor.to(dtype) for key, tensor in content["network"].items()}
    torch.save({**content, "network": cast}, checkpoint)
    with pytest.raises(InputError, match=rf"found [\w.]+ of {dtype}, expected torch\.float32"):
        initialise(finetuned, str(checkpoint), transferred(finetuned, str(checkpoint)))
    assert same(tensors(finetuned), before)


def test_a_file_that_cannot_be_read_is_refused():
    with pytest.raises(InputError, match=r"/proc/self/mem: (no such file|found no checkpoint)"):
        read_checkpoint("/proc/self/mem")


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


USES = {
    "loaded": load_network,
    "taken over": lambda network, path, preparation: initialise(network, path, transferred(network, path), preparation),
}


def test_an_evaluation_has_the_parameters_of_its_training_and_its_own_cohort(pretrained, tmp_path):
    path = tmp_path / "model.pt"
    trained = {"learning_rate": "0.003", "max_epochs": "40", "seed": "2", "cohort": "a", "task": "direction"}
    torch.save({"network": tensors(pretrained), "origin": {"parameters": trained}}, path)
    found = evaluation_parameters(str(path), cohort="b", dataset_dir="here")
    assert found == {**trained, "cohort": "b", "dataset_dir": "here", "checkpoint": str(path)}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_network_is_not_applied_to_scans_prepared_in_another_way(use, pretrained, tmp_path):
    path = tmp_path / "model.pt"
    origin = {"preparation": PREPARATION, "parameters": {"task": "restoration"}}
    torch.save({"network": pretrained.state_dict(), "origin": origin}, path)
    same = {"bvalue": 1000, "voxel_size": 2.4, "scheme": default_scheme()}
    use(pretrained, str(path), same)
    use(pretrained, str(path), {**same, "scheme": default_scheme().tolist()})
    with pytest.raises(InputError, match=r"at voxel_size 2\.4, expected 3; prepare the scans with voxel_size 2\.4"):
        use(pretrained, str(path), {**same, "voxel_size": 3})
    with pytest.raises(InputError, match="trained at bvalue 1000, expected 2000"):
        use(pretrained, str(path), {**same, "bvalue": 2000})
    with pytest.raises(InputError, match="another scheme of 64 directions"):
        use(pretrained, str(path), {**same, "scheme": np.roll(default_scheme(), 1, axis=1)})


def test_another_smoothing_is_refused_and_another_version_said(pretrained, tmp_path, caplog):
    path = tmp_path / "model.pt"
    same = {"bvalue": 1000, "voxel_size": 2.4, "scheme": default_scheme().tolist()}

    def warnings():
        return [record.message for record in caplog.records if record.levelno >= logging.WARNING]

    def trained_on(**preparation):
        origin = {"preparation": {**same, **preparation}, "parameters": {"task": "restoration"}}
        torch.save({"network": pretrained.state_dict(), "origin": origin}, path)

    # inference states neither: its scans are prepared by this code
    trained_on(smoothing=0.002, version=code_version())
    load_network(pretrained, str(path), same)
    load_network(pretrained, str(path), {**same, "smoothing": 0.002, "version": code_version()})
    assert warnings() == []
    with pytest.raises(InputError, match=r"trained at smoothing 0\.002, expected 0\.006; train it again"):
        load_network(pretrained, str(path), {**same, "smoothing": 0.006})
    trained_on(smoothing=0.006, version="0.1.0")
    with pytest.raises(InputError, match=r"trained at smoothing 0\.006, expected 0\.002"):
        load_network(pretrained, str(path), same)
    caplog.clear()
    trained_on()
    load_network(pretrained, str(path), {**same, "version": "9.9"})
    said = "trained on scans prepared by version unknown, these are by version 9.9; CHANGELOG.md says what differs"
    assert warnings() == [f"{path}: {said}"]


def test_a_network_is_not_applied_to_another_task(pretrained, tmp_path):
    """Networks for tissue and for the number of crossings have the same tensors."""
    path = tmp_path / "model.pt"
    origin = {"preparation": PREPARATION, "parameters": {"task": "crossings"}}
    torch.save({"network": pretrained.state_dict(), "origin": origin}, path)
    load_network(pretrained, str(path), task="crossings")
    with pytest.raises(InputError, match=r"model\.pt: found a network for crossings, expected one for segmentation\."):
        load_network(pretrained, str(path), task="segmentation")
    with pytest.raises(InputError, match="found a network for crossings"):
        load_networks(pretrained, [str(path), str(path)], task="segmentation")


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("missing", ["origin", "task", "bvalue", "voxel_size", "scheme"])
def test_weights_that_do_not_say_what_they_are_are_refused(use, missing, pretrained, tmp_path):
    path = tmp_path / "model.pt"
    parts = {key: value for key, value in PREPARATION.items() if key != missing}
    origin = {"preparation": parts, "parameters": {} if missing == "task" else {"task": "restoration"}}
    torch.save({"network": pretrained.state_dict(), **({} if missing == "origin" else {"origin": origin})}, path)
    said = "bvalue" if missing == "origin" else missing
    with pytest.raises(
        InputError, match=rf"model\.pt: found weights that do not say their {said}, expected those of a"
    ):
        use(pretrained, str(path), None)
