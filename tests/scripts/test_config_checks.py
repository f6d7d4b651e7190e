"""What a config would do nothing with, or would do to the wrong place, is refused before any work, in one sentence."""

import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from scripts.errors import input_error

ROOT = Path(__file__).parents[2]
PRETRAIN, FINETUNE, EVALUATE = ["pretrain"], ["finetune", "segmentation"], ["finetune", "segmentation", "evaluate"]
INFERENCE = ["inference_direction"]


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def initialize(tmp_path):
    """Initialise configs as ``python -m monai.bundle run`` does, up to where work would begin."""

    def start(names, run_id="run", **overrides):
        overrides = {"output_dir": str(tmp_path / "out"), "dataset_dir": "nowhere", **overrides}
        if names in (FINETUNE, PRETRAIN):
            overrides = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", **overrides}
        files = [str(ROOT / "bundle" / "configs" / f"{name}.json") for name in names]
        workflow = ConfigWorkflow(files, run_id=run_id, logging_file=False, **overrides)
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
    (PRETRAIN, {"learning_rate": "fast"}, "--learning_rate: found 'fast', expected a number above 0."),
    (PRETRAIN, {"learning_rate": float("nan")}, "--learning_rate: found nan, expected a number above 0."),
    (PRETRAIN, {"learning_rate": 0}, "--learning_rate: found 0, expected a number above 0."),
    (
        FINETUNE,
        {"learning_rate": "1e-4"},
        "--learning_rate: found '1e-4', expected a number above 0; in YAML, write 1.0e-4 and not 1e-4.",
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


@pytest.mark.parametrize("names", [PRETRAIN, FINETUNE, EVALUATE, INFERENCE], ids="+".join)
def test_what_is_right_passes_and_leaves_nothing(initialize, names, tmp_path):
    values = {"dwi": "a.nii.gz"} if names == INFERENCE else {}
    workflow = initialize(names, device="cpu", **values)
    assert workflow.parser.get_parsed_content("amp") is False
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cpu", "$torch.device('cpu')"])
def test_a_device_may_be_a_word(initialize, device):
    # a network that begins without the directions of a cohort
    network = initialize(PRETRAIN, device=device, initialised="@network_def").parser.get_parsed_content("network")
    assert next(network.parameters()).device == torch.device("cpu")


@pytest.mark.parametrize("path", ["$HOME/run", "@data/sub-01", "$__import__('os').mkdir('made')", "@seed"])
@pytest.mark.parametrize("form", ["{1}", "--{0}={1}"])
def test_a_path_of_the_command_line_is_text_whatever_it_begins_with(initialize, monkeypatch, path, form, tmp_path):
    for name, names in (("output_dir", PRETRAIN), ("pretrained", FINETUNE), ("dwi", INFERENCE)):
        monkeypatch.setattr(sys, "argv", ["run", form.format(name, path)])
        parser = initialize(names, **{name: path}).parser
        assert Path(parser.get_parsed_content(name)) == Path(path)
    assert not Path("made").exists()


def test_an_overlay_of_a_person_may_have_ids_of_its_own_that_it_uses(initialize, tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"rates": [0.1, 0.2], "learning_rate": "$@rates[1]"}')
    files = [str(ROOT / "bundle" / "configs" / "pretrain.json"), str(own)]
    workflow = ConfigWorkflow(files, logging_file=False, dataset_dir="nowhere", output_dir=str(tmp_path / "out"))
    workflow.initialize()
    assert workflow.parser.get_parsed_content("learning_rate") == 0.2


@pytest.mark.parametrize(("typed", "meant"), [("true", True), ("false", False), ("False", False), (True, True)])
def test_true_and_false_may_be_typed_as_a_json_has_them(initialize, typed, meant):
    parser = initialize(PRETRAIN, log_paths=typed, debug=typed).parser
    assert parser.get_parsed_content("log_paths") is meant
    assert parser.get_parsed_content("debug") is meant
    assert parser.get_parsed_content("max_epochs") == 100
