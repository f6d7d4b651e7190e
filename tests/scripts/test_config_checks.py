"""What a config would do nothing with, or would do to the wrong place, is refused before any work, in one sentence."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts import config_checks
from scripts.component_checks import references
from scripts.errors import input_error
from scripts.network import BrainUNet
from scripts.training.checkpoints import write_checkpoint
from tests.tiny_cohort import SCHEME, write_tiny_cohorts
from transforms.diffusion.scheme import default_scheme

ROOT = Path(__file__).parents[2]
PRETRAIN, FINETUNE, EVALUATE = ["pretrain"], ["finetune", "segmentation"], ["finetune", "segmentation", "evaluate"]
RESTORATION, INFERENCE = ["pretrain", "evaluate_restoration"], ["inference_direction"]
FILTERS = [2, 4, 4, 4]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """Folder of two prepared cohorts of six directions, and of a checkpoint for each of three uses of a network."""
    folder = tmp_path_factory.mktemp("cohorts")
    write_tiny_cohorts(folder, training=2)
    for task, channels, scheme, filters in (
        ("segmentation", 4, SCHEME, FILTERS),
        ("restoration", 6, SCHEME, FILTERS),
        ("direction", 6, default_scheme(), (16, 32, 64, 128)),
    ):
        network = BrainUNet(len(scheme), channels, filters=filters)
        preparation = {"bvalue": 1000.0, "voxel_size": 2.4, "scheme": scheme.tolist()}
        origin = {"parameters": {"task": task}, "preparation": preparation}
        write_checkpoint(folder / f"{task}.pt", {"network": network.state_dict(), "origin": origin})
    return folder


@pytest.fixture
def initialize(cohorts, mlflow_store, tmp_path):
    """Initialise configs as ``python -m monai.bundle run`` does, up to where work would begin."""

    def start(names, run_id="run", **overrides):
        own: dict[str, Any] = {"output_dir": str(tmp_path / "out")}
        if names[0] in ("pretrain", "finetune"):
            tiny = {
                "network_def::in_channels": 6,
                **({} if "network_def" in overrides else {"network_def::filters": FILTERS}),
            }
            kind = "auxiliary" if names[0] == "pretrain" else "clinical"
            own |= {"dataset_dir": str(cohorts / kind), "tracking_uri": mlflow_store, **tiny}
        if names[0] == "pretrain":
            own |= {"output_channels": 6}
        if "evaluate" in names:
            own |= {"checkpoint": str(cohorts / "segmentation.pt")}
        if "evaluate_restoration" in names:
            own |= {"checkpoint": str(cohorts / "restoration.pt")}
        files = [str(ROOT / "bundle" / "configs" / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, run_id=run_id, logging_file=False, **{**own, **overrides})
        workflow.initialize()
        return workflow

    return start


@pytest.fixture
def refusal(initialize, tmp_path):
    def start(names, **overrides):
        with pytest.raises(RuntimeError) as raised:
            initialize(names, **overrides)
        assert not list(tmp_path.glob("out/*.pt"))
        return str(input_error(raised.value))

    return start


WRONG = [
    (PRETRAIN, {"max_epochs": 0}, "--max_epochs: found 0, expected a whole number of at least 1."),
    (PRETRAIN, {"max_epochs": 2.5}, "--max_epochs: found 2.5, expected a whole number of at least 1."),
    (PRETRAIN, {"max_epochs": True}, "--max_epochs: found True, expected a whole number of at least 1."),
    (FINETUNE, {"val_interval": 0}, "--val_interval: found 0, expected a whole number of at least 1."),
    (FINETUNE, {"batch_size": 0}, "--batch_size: found 0, expected a whole number of at least 1."),
    (PRETRAIN, {"seed": -1}, "--seed: found -1, expected a whole number of at least 0."),
    (PRETRAIN, {"num_workers": "two"}, "--num_workers: found 'two', expected a whole number of at least 0."),
    (PRETRAIN, {"learning_rate": "fast"}, "--learning_rate: found 'fast', expected a number above 0, up to 1e+06."),
    (PRETRAIN, {"learning_rate": float("nan")}, "--learning_rate: found nan, expected a number above 0, up to 1e+06."),
    (PRETRAIN, {"learning_rate": 0}, "--learning_rate: found 0, expected a number above 0, up to 1e+06."),
    (PRETRAIN, {"learning_rate": 1e300}, "--learning_rate: found 1e+300, expected a number above 0, up to 1e+06."),
    (FINETUNE, {"transferred_rate": 1e300}, "--transferred_rate: found 1e+300, expected a number from 0 to 1e+06."),
    (FINETUNE, {"transferred_layers": "encoder"}, "--transferred_layers: found 'encoder', expected a list of layers"),
    (FINETUNE, {"label_keys": ["nix"]}, "--label_keys: found ['nix'], expected a list of some of image, b0, mask, "),
    (FINETUNE, {"lower_is_better": "maybe"}, "--lower_is_better: found 'maybe', expected true or false."),
    (
        FINETUNE,
        {"learning_rate": "1e-4"},
        "--learning_rate: found '1e-4', expected a number above 0, up to 1e+06; in YAML, write 1.0e-4 and not 1e-4.",
    ),
    (
        PRETRAIN,
        {"output_dir": 2024},
        "--output_dir: found 2024, expected one path; double quotes make a text of it: \"'2024'\".",
    ),
    (FINETUNE, {"run_name": 7}, "--run_name: found 7, expected a text; double quotes make a text of it: \"'7'\"."),
    (FINETUNE, {"experiment_name": ""}, "--experiment_name: found '', expected a text."),
    (FINETUNE, {"pretrained": True}, "--pretrained: found True, expected one path."),
    (PRETRAIN, {"clean_share": 1.2}, "--clean_share: found 1.2, expected a number from 0 to 1."),
    (PRETRAIN, {"resume": "yes"}, "--resume: found 'yes', expected true or false."),
    (PRETRAIN, {"preset": "heavy"}, "--preset: found 'heavy', expected one of light, normal, paper, strong, physical."),
    (["finetune", "direction"], {"encoding": "quaternion"}, "--encoding: found 'quaternion', expected one of "),
    (INFERENCE, {"dwi": ["a.nii.gz", "b.nii.gz"]}, "--dwi: found ['a.nii.gz', 'b.nii.gz'], expected one path."),
    (INFERENCE, {"dwi": "a", "voxel_size": 0}, "--voxel_size: found 0, expected a number above 0."),
    (INFERENCE, {"dwi": "a", "bvalue": "high"}, "--bvalue: found 'high', expected a number above 0."),
    (INFERENCE, {"dwi": "a", "ensemble": [1, 2]}, "--ensemble: found [1, 2], expected paths."),
    (PRETRAIN, {"amp": "maybe"}, "--amp: found 'maybe', expected true or false."),
    (PRETRAIN, {"output_channels": "six"}, "--output_channels: found 'six', expected a whole number of at least 1."),
    (PRETRAIN, {"artifacts": "none"}, "--artifacts: found 'none', expected a list of artifacts."),
    (PRETRAIN, {"artifacts": [5]}, "--artifacts: found [5], expected a list of artifacts."),
    (PRETRAIN, {"output_dir": "x" * 300}, f"{'x' * 300}: found that no path can be this (File name too long), "),
    (PRETRAIN, {"device": "gpu"}, "--device: found 'gpu', which cannot be used ("),
    (PRETRAIN, {"cache_device": "meta"}, "--cache_device: found 'meta', which cannot be used ("),
    (INFERENCE, {"dwi": "a", "device": "cuda:99"}, "--device: found 'cuda:99', which cannot be used ("),
]


@pytest.mark.parametrize(("names", "values", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_refused_with_what_was_found_and_expected(refusal, names, values, sentence):
    assert refusal(names, **values).startswith(sentence)


UNKNOWN = [
    (PRETRAIN, "max_epoch", "did you mean max_epochs?"),
    (PRETRAIN, "learning_rte", "did you mean learning_rate?"),
    (FINETUNE, "pretrain", "did you mean pretrained?"),
    (PRETRAIN, "pretrained", ""),
    (PRETRAIN, "checkpoint", ""),
    (FINETUNE, "encodin", ""),
    (FINETUNE, "train::max_epochs", ""),
    (EVALUATE, "checkpoints", "did you mean checkpoint?"),
    (INFERENCE, "dvi", "did you mean dwi?"),
    (INFERENCE, "max_epochs", ""),
]


@pytest.mark.parametrize(("names", "name", "hint"), UNKNOWN, ids=lambda value: str(value)[:30])
def test_an_id_that_nothing_uses_is_refused_with_the_nearest_one(refusal, names, name, hint):
    said = refusal(names, **{name: "text"})
    assert said.startswith(f"--{name}: found an id that nothing in these configs uses")
    assert hint in said


@pytest.mark.parametrize(
    ("names", "run_id", "sentence"),
    [
        (PRETRAIN, "train", "run train: expected one of run, training with these configs; did you mean training?"),
        (PRETRAIN, "evaluating", "run evaluating: expected one of run, training with these configs"),
        (PRETRAIN, "load_image", "run load_image: expected one of"),
        (EVALUATE, "training", "run training: expected one of run, evaluating with these configs"),
        (["pretrain", "evaluate_restoration"], "training", "run training: expected one of run, evaluating"),
        (INFERENCE, "training", "run training: expected one of run, inference with these configs"),
    ],
)
def test_a_run_that_would_do_nothing_or_another_thing_is_refused(refusal, names, run_id, sentence):
    assert refusal(names, run_id=run_id).startswith(sentence)


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["resume", "pretrain"], "resume"),
        (["segmentation", "finetune"], "task"),
        (["paper", "finetune", "direction"], "encoding"),
    ],
)
def test_an_overlay_before_its_config_is_refused_because_it_would_be_undone(refusal, names, first):
    assert refusal(names) == (
        f"--config_file: found {first} before the imports of a whole config, which would undo it, "
        "expected the whole config first and overlays after it."
    )


@pytest.mark.parametrize("names", [PRETRAIN, FINETUNE, INFERENCE], ids=lambda names: names[0])
def test_a_folder_that_cannot_be_made_is_refused(refusal, names, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "below" / "it"):
        assert refusal(names, output_dir=str(place)) == (
            f"{place}: found a file at {file}, expected a folder for the output."
        )


def test_a_full_disk_is_refused(refusal, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scripts.config_checks.os.fsync", full)
    assert "cannot be written to (No space left on device), expected a folder for the output" in refusal(PRETRAIN)


def test_a_folder_of_an_earlier_training_or_of_none_to_resume_is_refused_before_data_are_loaded(
    refusal, initialize, tmp_path
):
    assert "found no checkpoint_epoch=<n>.pt" in refusal(["pretrain", "resume"], run_id="training")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_epoch=3.pt").touch()
    with pytest.raises(RuntimeError) as raised:
        initialize(PRETRAIN, run_id="training")
    assert "checkpoint_epoch=3.pt: found the checkpoint of an earlier training" in str(input_error(raised.value))


@pytest.mark.parametrize("names", [PRETRAIN, FINETUNE, EVALUATE, RESTORATION, INFERENCE], ids="+".join)
def test_what_is_right_passes_loads_no_scan_and_leaves_nothing(initialize, names, tmp_path, monkeypatch):
    monkeypatch.setattr("monai.transforms.LoadImaged.__call__", lambda *_: pytest.fail("a scan was loaded"))
    values = {"dwi": "a.nii.gz"} if names == INFERENCE else {}
    workflow = initialize(names, device="cpu", **values)
    assert workflow.parser.get_parsed_content("amp") is False
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cpu", "$torch.device('cpu')"])
def test_a_device_may_be_a_word(initialize, device):
    network = initialize(PRETRAIN, device=device).parser.get_parsed_content("network")
    assert next(network.parameters()).device == torch.device("cpu")


@pytest.mark.parametrize("path", ["$HOME/run", "@data/sub-01", "$__import__('os').mkdir('made')", "@seed"])
@pytest.mark.parametrize("form", ["{1}", "--{0}={1}"])
def test_a_path_of_the_command_line_is_text_whatever_it_begins_with(initialize, refusal, monkeypatch, path, form):
    for name, names in (("output_dir", PRETRAIN), ("dwi", INFERENCE)):
        monkeypatch.setattr(sys, "argv", ["run", form.format(name, path)])
        parser = initialize(names, **{name: path}).parser
        assert Path(parser.get_parsed_content(name)) == Path(path)
    monkeypatch.setattr(sys, "argv", ["run", form.format("pretrained", path)])
    assert refusal(FINETUNE, pretrained=path) == f"./{path}: no such file, expected a checkpoint."
    assert not Path("made").exists()


def test_an_overlay_of_a_person_may_have_ids_of_its_own_that_it_uses(initialize, tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"rates": [0.1, 0.2], "learning_rate": "$@rates[1]"}')
    workflow = initialize(["pretrain", own.with_suffix("")])
    assert workflow.parser.get_parsed_content("learning_rate") == 0.2


@pytest.mark.parametrize(
    ("names", "name", "value"),
    [
        (PRETRAIN, "train::dataloader::num_workers", 0),
        (PRETRAIN, "train::trainer::inferer", {"_target_": "SimpleInferer"}),
        (
            FINETUNE,
            "parameter_groups",
            {"_target_": "scripts.training.schedule.parameter_groups", "network": "@network", "learning_rate": 0.1},
        ),
    ],
)
def test_what_is_out_of_use_because_a_value_takes_its_place_is_no_unknown_id(initialize, names, name, value):
    assert initialize(names, **{name: value}).parser[name] == value


@pytest.mark.parametrize("path", sorted((ROOT / "bundle" / "configs").glob("*.json")), ids=lambda path: path.stem)
def test_whole_configs_begin_and_end_with_the_ids_by_which_additions_are_found(path):
    config = json.loads(path.read_text())
    if config_checks.FIRST in config:
        assert (next(iter(config)), list(config)[-1]) == (config_checks.FIRST, config_checks.LAST)
        for section, last in config_checks.SECTIONS.items():
            assert section not in config or list(config[section])[-1] == last


@pytest.mark.parametrize(("typed", "meant"), [("true", True), ("false", False), ("False", False), (True, True)])
def test_true_and_false_may_be_typed_as_a_json_has_them(initialize, typed, meant):
    parser = initialize(PRETRAIN, log_paths=typed, debug=typed).parser
    assert parser.get_parsed_content("log_paths") is meant
    assert parser.get_parsed_content("debug") is meant
    assert parser.get_parsed_content("max_epochs") == 100


COMPONENTS = [
    (PRETRAIN, {"loss": 5}, '--loss: found 5, expected a component as {"_target_": ...}, as SupervisedTrainer has it.'),
    (
        PRETRAIN,
        {"network_def": 3},
        '--network_def: found 3, expected a component as {"_target_": ...}, as start_as_copy',
    ),
    (FINETUNE, {"key_metric": 5}, "--key_metric: found 5, expected values by name or None, as SupervisedEvaluator"),
    (
        PRETRAIN,
        {"train::inferer": 5},
        '--train::inferer: found 5, expected a component as {"_target_": ...} or None, as ',
    ),
    (PRETRAIN, {"gain": 3}, "--gain: found 3, expected a list of numbers, as SelfSupervisedBatch has it."),
    (
        PRETRAIN,
        {"network_def::filters": 3},
        "--network_def::filters: found 3, expected a list of whole numbers, as BrainUNet has it.",
    ),
    (
        PRETRAIN,
        {"network_def::skips": "false"},
        "--network_def::skips: found 'false', expected True or False, as BrainUN",
    ),
    (
        PRETRAIN,
        {"network_def::filter": [2, 2]},
        "--network_def::filter: found an argument that BrainUNet does not have; did you mean filters?",
    ),
    (PRETRAIN, {"loss::weight": "x"}, "--loss::weight: found 'x', expected a number, as CalibratedL1Loss has it."),
    (
        PRETRAIN,
        {"optimizer::_target_": "torch.optim.Adamm"},
        "--optimizer: found no torch.optim.Adamm, expected the name of a class or a function.",
    ),
    (
        PRETRAIN,
        {"optimizer": {"_target_": "torch.optim.Adam"}},
        "--optimizer: found no params, expected one, which Adam needs.",
    ),
    (
        PRETRAIN,
        {"optimizer::weight_decay": -1},
        "--optimizer: found lr 0.002, weight_decay -1, which cannot be used (Invalid weight_decay value: -1), ",
    ),
    (
        PRETRAIN,
        {"network_def::filters": []},
        "--network_def: found in_channels 6, out_channels 6, filters [], which can",
    ),
    (
        PRETRAIN,
        {"network_def::filters": [2] * 6},
        "--network_def: found in_channels 6, out_channels 6, filters [2, 2, 2,",
    ),
    (
        PRETRAIN,
        {"output_channels": 7},
        "--initialised: found scripts.network.start_as_copy, which cannot be used (The exp",
    ),
    (
        PRETRAIN,
        {"train::dataloader::num_workers": -1},
        "--train::dataloader: found batch_size 3, shuffle True, num_worker",
    ),
    (
        PRETRAIN,
        {"warmup_epochs": 100},
        "warmup_epochs and new_epochs: found 100 and 0, expected 0 or more, and less than",
    ),
    (
        FINETUNE,
        {"train_size": 9},
        "{cohorts}/clinical/datalist.json: training: found 2 participants, expected 9 as asked",
    ),
    (
        FINETUNE,
        {"pretrained": "README.md"},
        "README.md: found no checkpoint of tensors and plain values, expected one.",
    ),
    (
        FINETUNE,
        {"pretrained": "{cohorts}/direction.pt"},
        "{cohorts}/direction.pt: found a network trained on another scheme of 64 directions",
    ),
    (
        [*FINETUNE, "continued"],
        {},
        "--initialised: found a reference to preparation, an id that none of these configs has, expected one",
    ),
    (
        PRETRAIN,
        {"loss": "@losses"},
        "--loss: found a reference to losses, an id that none of these configs has, expected one",
    ),
    (
        PRETRAIN,
        {"train::trainer::loss_function": "$@train::los"},
        "--train: found a reference to train::los, an id that none of these configs has, expected one",
    ),
    (
        [*PRETRAIN, "continued"],
        {"pretrained": None},
        "--pretrained: found none, expected the checkpoint that a pretraining goes on from.",
    ),
    (
        [*PRETRAIN, "autoencoder", "continued"],
        {"pretrained": "{cohorts}/restoration.pt"},
        "{cohorts}/restoration.pt: found weights that do not say their pretext, expected autoencoder to go on with.",
    ),
    (
        [*PRETRAIN, "continued"],
        {"pretrained": "{cohorts}/direction.pt"},
        "{cohorts}/direction.pt: found a network for direction, expected one for restoration.",
    ),
    (EVALUATE, {"checkpoint": "nowhere"}, "nowhere: no such file, expected a checkpoint."),
    (PRETRAIN, {"dataset_dir": "nowhere"}, "nowhere: found no datalist.json"),
]


@pytest.mark.parametrize(("names", "values", "sentence"), COMPONENTS, ids=lambda value: str(value)[:40])
def test_what_cannot_be_made_is_refused_before_any_work(refusal, cohorts, names, values, sentence):
    values = {
        key: value.format(cohorts=cohorts) if "{cohorts}" in str(value) else value for key, value in values.items()
    }
    assert refusal(names, **values).startswith(sentence.replace("{cohorts}", str(cohorts)))


def test_a_text_refers_to_ids_where_the_whole_of_it_does_or_where_it_is_code():
    config = {
        "a": "@train::trainer",
        "b": ["$@seed + len(@names)", {"c": "@x#1"}],
        "d": "postgresql://user:word@host/db",
        "e": "@my-id",
        "f": "./@data",
    }
    assert references(config) == ["train::trainer", "seed", "names", "x::1"]


def test_texts_for_people_refer_to_nothing(initialize):
    initialize(PRETRAIN, run_id="training", **{"_meta_::contact": "$@somebody"})


RESUMED = [
    ({}, None),
    ({"max_epochs": 2}, "found 3 epochs done, expected --max_epochs of at least as many."),
    ({"task": "direction"}, "found a training with another task (restoration), expected direction"),
    ({"dataset_dir": "{cohorts}/clinical"}, "found a training with another cohort ("),
    (
        {"network_def::filters": [3, 4, 4, 4]},
        "found encoder.0.conv1.weight of shape (2, 28, 3, 3, 3), expected (3, 28,",
    ),
    ({"optimizer::params": [{"params": "$@network.encoder.parameters()"}]}, "found another optimizer ("),
]


@pytest.mark.parametrize(("values", "sentence"), RESUMED, ids=lambda value: str(value)[:40])
def test_another_training_is_not_resumed_and_that_is_said_before_data_are_loaded(
    initialize, cohorts, tmp_path, values, sentence
):
    parser = initialize(PRETRAIN, run_id="training").parser
    network, optimizer = parser.get_parsed_content("network"), parser.get_parsed_content("optimizer")
    parameters = {key: str(value) for key, value in parser.get_parsed_content("tracker::parameters").items()}
    states = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "best_model": {"best": None}}
    path = tmp_path / "out" / "checkpoint_epoch=3.pt"
    write_checkpoint(path, {**states, "origin": {"epoch": 3, "parameters": parameters}})
    values = {
        key: value.format(cohorts=cohorts) if "{cohorts}" in str(value) else value for key, value in values.items()
    }
    if sentence is None:
        initialize(["pretrain", "resume"], run_id="training")
        return
    with pytest.raises(RuntimeError) as raised:
        initialize(["pretrain", "resume"], run_id="training", **values)
    assert str(input_error(raised.value)).startswith(f"{path}: {sentence}")
