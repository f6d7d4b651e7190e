"""The bundle as MONAI's own tools see it."""

import inspect
import json
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

from scripts import config_checks
from scripts.errors import input_error
from transforms.artifacts import preset, sample_artifacts
from transforms.diffusion.scheme import default_scheme

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundle" / "configs"
SCHEMA = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
TRAINING = {
    "pretrain": ["pretrain"],
    "autoencoder": ["pretrain", "autoencoder"],
    "masked": ["pretrain", "masked"],
    "torchio": ["pretrain", "torchio"],
    "segmentation": ["finetune", "segmentation"],
    "crossings": ["finetune", "crossings"],
    "direction": ["finetune", "direction"],
    "paper": ["finetune", "direction", "paper"],
    "paper pretraining": ["pretrain", "paper"],
    "autoencoder without skips": ["pretrain", "autoencoder", "without_skips"],
    "continued": ["pretrain", "continued"],
    "resumed": ["pretrain", "resume"],
}
TASKS = ["segmentation", "crossings", "direction"]
EVALUATION = {
    **{task: ["finetune", task, "evaluate"] for task in TASKS},
    "restoration": ["pretrain", "evaluate_restoration"],
}
INFERENCE = [f"inference_{task}" for task in (*TASKS, "restoration")]
SELF_CONTAINED = ["pretrain", "finetune", *INFERENCE]


def files(names):
    return [str(CONFIGS / f"{name}.json") for name in names]


def load(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_config_is_part_of_a_documented_combination():
    trained = {name for names in (*TRAINING.values(), *EVALUATION.values()) for name in names}
    # tests/bundle/test_multi_gpu.py runs it
    rest = {*INFERENCE, "metadata", "multi_gpu"}
    assert {path.stem for path in CONFIGS.glob("*.json")} == trained | rest


def components(config):
    """All parts of a config that name what is to be made of them."""
    if isinstance(config, dict) and "_target_" in config:
        yield config
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for part in parts:
        yield from components(part)


@pytest.mark.parametrize(
    "names", [*TRAINING.values(), *EVALUATION.values(), *([name] for name in INFERENCE)], ids="+".join
)
def test_every_reference_and_target_of_a_config_exists(names):
    parser = ConfigParser()
    parser.read_config(files(names))
    parser.parse(reset=True)
    text = json.dumps(parser.get())
    for reference in set(re.findall(r"@([A-Za-z_][\w:]*)", text)):
        assert reference in parser, reference
    for component in components(parser.get()):
        target = component["_target_"]
        if target.startswith(("scripts.", "transforms.")) and component.get("_mode_") != "callable":
            module, _, name = target.rpartition(".")
            arguments = {key: None for key in component if key != "_target_"}
            inspect.signature(getattr(import_module(module), name)).bind(**arguments)


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_trainings_load_images_by_a_reader_that_finds_damage(name):
    found = [one for one in components(load(name)) if one["_target_"] == "LoadImaged"]
    assert found
    assert all(one["reader"] == {"_target_": "transforms.WholeFileReader"} for one in found)


def refusal(raised):
    """Sentence of the InputError behind an error of MONAI's parser."""
    return str(input_error(raised.value))


def test_an_artifact_that_torchio_does_not_have_is_refused_before_the_training():
    parser = ConfigParser()
    parser.read_config(files(TRAINING["torchio"]))
    parser["preset"], parser["preparation"] = "physical", {"scheme": default_scheme().tolist()}
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("loader_artifacts")
    assert refusal(raised) == "found artifact 'acquisition', expected one that TorchIO has."


def test_the_lists_of_artifacts_in_the_docs_can_be_used():
    text = (ROOT / "docs" / "artifacts.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    one, several = (ConfigParser(block).get_parsed_content("artifacts") for block in blocks)
    assert [artifact.name for artifact in one] == ["noise"]

    def drawn(artifacts):
        return sample_artifacts(artifacts, torch.Generator().manual_seed(1), (64, 9, 8, 10))

    for artifact in several:
        artifact.prob = 1.0
    assert several[-1].name == "undersampling"
    # as the page says, without values each artifact has those of the preset
    assert drawn(several)[:-1] == drawn(preset("normal", prob=1.0))


@pytest.mark.parametrize("overlays", [[], ["paper"], ["resume"]], ids="+".join)
def test_a_fine_tuning_without_a_task_is_refused_before_any_work(overlays):
    workflow = ConfigWorkflow(files(["finetune", *overlays]), logging_file=False)
    with pytest.raises(RuntimeError) as raised:
        workflow.initialize()
    assert refusal(raised) == (
        "--config_file: found finetune.json without a task, expected one of segmentation.json, crossings.json, "
        "direction.json after it."
    )


@pytest.mark.parametrize("names", TRAINING.values(), ids=TRAINING)
def test_a_training_has_all_properties_that_monai_asks_for(names, tiny_cohort, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(names),
        workflow_type="train",
        dataset_dir=str(tiny_cohort),
        output_dir=str(tmp_path),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        num_workers=0,
        resume=False,
        logging_file=False,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(workflow.train_dataset) > 0
    assert workflow.network_def is not None


@pytest.mark.parametrize("name", INFERENCE)
def test_an_inference_has_all_properties_that_monai_asks_for(name, tiny_scan, tmp_path):
    checkpoint = tmp_path / "model.pt"
    network = ConfigParser(load(name)).get_parsed_content("network_def")
    preparation = {"bvalue": 1000, "voxel_size": 2.4, "scheme": default_scheme().tolist()}
    origin = {"parameters": {"task": name.removeprefix("inference_")}, "preparation": preparation}
    torch.save({"network": network.state_dict(), "origin": origin}, checkpoint)
    workflow = ConfigWorkflow(
        config_file=files([name]),
        workflow_type="infer",
        dwi=str(tiny_scan),
        checkpoint=str(checkpoint),
        output_dir=str(tmp_path),
        logging_file=False,
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pretrain", "train"),
        ("pretrain", "validate"),
        ("finetune", "train"),
        ("finetune", "validate"),
        ("evaluate", None),
    ],
)
def test_the_tracker_hears_of_an_error_before_the_handler_that_raises_it_again(name, part):
    config = load(name)
    handlers = config["validate::handlers"] if part is None else config[part]["handlers"]
    order = [handler.get("handler", handler["_target_"]) for handler in handlers]
    assert order.index("@tracker") < order.index("StatsHandler")


def test_tasks_set_the_same_ids_and_fine_tuning_has_none_of_them():
    """A task is an overlay: what one sets and another leaves out would stay as it was in the file before."""
    finetune, overlays = load("finetune"), {task: load(task) for task in TASKS}
    assert finetune["task"] is None
    assert sorted(overlays) == sorted(config_checks.TASKS)
    shared = overlays["segmentation"].keys()
    assert finetune.keys() & shared == {"task"}
    for task, overlay in overlays.items():
        assert shared <= overlay.keys()
        assert overlay["task"] == task
        assert overlay.keys() - shared <= {"encoding", "direction_losses"}
        assert overlay["key_metric"].keys() == {overlay["key_metric_name"]}
        metrics = overlay["key_metric"].keys() | overlay["additional_metrics"].keys()
        assert overlay["metric_classes"].keys() <= metrics


@pytest.mark.parametrize(
    ("overlays", "channels"),
    [
        (["segmentation"], 4),
        (["crossings"], 4),
        (["direction"], 6),
        (["direction", "paper"], 2),
    ],
    ids=[*TASKS, "paper"],
)
def test_a_network_has_the_channels_that_its_target_and_loss_need(overlays, channels):
    parser = ConfigParser()
    parser.read_config(files(["finetune", *overlays]))
    parser.parse()
    network = parser.get_parsed_content("network_def")
    mask = torch.ones(1, 16, 16, 16)
    data = {"mask": mask, "white_matter": mask, "tissue": mask, "nufo": mask, "peak": torch.rand(3, 16, 16, 16)}
    label = parser.get_parsed_content("target")(data)["label"]
    with torch.no_grad():
        prediction = network.eval()(torch.rand(1, 64, 16, 16, 16))
    assert prediction.shape[1] == channels
    assert parser.get_parsed_content("loss")(prediction, label[None]).isfinite()
    decoded = parser.get_parsed_content("postprocessing")({"pred": prediction[0], "label": label, "mask": mask})
    for handlers in (parser.get_parsed_content("key_metric"), parser.get_parsed_content("additional_metrics")):
        for name, handler in handlers.items():
            pair = handler._output_transform([decoded])
            handler.metric_fn(*pair)
            assert 0 <= handler.metric_fn.aggregate().item() <= 90, name


@pytest.mark.parametrize("task", TASKS)
def test_the_best_model_is_that_of_the_better_metric(task):
    parser = ConfigParser()
    parser.read_config(files(["finetune", task]))
    parser.parse()
    better = parser.get_parsed_content("validate::evaluator::metric_cmp_fn")
    lower = "error" in load(task)["key_metric_name"]
    assert better(1, 2) == lower
    assert better(2, 1) != lower
    assert parser.get_parsed_content("best_model::lower_is_better") == lower


DIFFERENT = {
    "imports",
    "dataset_dir::kind",
    "output_dir",
    "max_epochs",
    "experiment_name",
    "learning_rate",
    "task",
    "initialised::_target_",
    "initialised::network",
    "network",
    "optimizer::params",
    "tracker::parameters::initialisation",
    "tracker::tags::stage",
    "best_model::metric",
    "best_model::lower_is_better",
    "train::dataset::data::keys",
    "train::dataloader::num_workers",
    "validate::dataset::data::keys",
    "validate::evaluator::metric_cmp_fn",
}
"""Values that pretraining and fine-tuning both have, and that are not the same."""


def leaves(config, name=""):
    """Values of a config by their ids."""
    if isinstance(config, dict) and config:
        parts = config.items()
    elif isinstance(config, list) and config and isinstance(config[0], dict):
        parts = enumerate(config)
    else:
        return {name: config}
    prefix = f"{name}::" if name else ""
    return {key: leaf for part, value in parts for key, leaf in leaves(value, f"{prefix}{part}").items()}


def test_what_pretraining_and_fine_tuning_share_is_equal():
    pretrain, finetune = leaves(load("pretrain")), leaves(load("finetune"))
    shared = pretrain.keys() & finetune.keys()
    assert len(shared) > 100
    assert {key for key in shared if pretrain[key] != finetune[key]} == DIFFERENT


def test_blocks_that_stand_in_several_files_are_equal():
    configs = {name: load(name) for name in SELF_CONTAINED}
    networks = [configs[name]["network_def"] for name in SELF_CONTAINED]
    assert all(network == networks[0] for network in networks)
    for key in ("bundle_root", "device", "amp"):
        assert len({configs[name][key] for name in SELF_CONTAINED}) == 1
    own = ("postprocessing", "preprocessing", "checkpoint", "output_channels", "handlers", "encoding")
    ensembles = ("checkpoints", "ensemble", "trained")
    for name in INFERENCE:
        assert name == f"inference_{configs[name]['trained'].pop('task')}"
    first, *others = ({key: value for key, value in configs[name].items() if key not in own} for name in INFERENCE)
    for name, other in zip(INFERENCE[1:], others, strict=True):
        ignored = ensembles if name == "inference_restoration" else ()
        assert {k: v for k, v in other.items() if k not in ignored} == {
            k: v for k, v in first.items() if k not in ignored
        }
    assert len({json.dumps(configs[name]["preprocessing"]["transforms"][0]) for name in INFERENCE}) == 1
    for task in TASKS:
        assert configs[f"inference_{task}"]["output_channels"] == load(task)["output_channels"]


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"the zoo's schema is not at {SCHEMA}, and nothing is downloaded")
def test_metadata_follows_the_schema_of_the_model_zoo(tmp_path, python):
    copy = tmp_path / "schema.json"
    copy.write_bytes(SCHEMA.read_bytes())
    command = [python, "-m", "monai.bundle", "verify_metadata", "--meta_file", "bundle/configs/metadata.json"]
    done = subprocess.run([*command, "--filepath", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = json.loads((CONFIGS / "metadata.json").read_text())
    del broken["task"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="task"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(copy))


def test_versions_in_the_metadata_are_those_that_are_installed_and_pinned():
    metadata = load("metadata")
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    versions = {
        **metadata["required_packages_version"],
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    assert {name: pinned[name] for name in versions} == versions
    assert f'version = "{metadata["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("name", ["pretrain", "inference_restoration"])
def test_network_maps_what_the_metadata_says(name):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files([name])[0],
        n=1,
        device="cpu",
    )


def test_export_to_torchscript_gives_the_same_output(tmp_path):
    network = ConfigParser(load("pretrain")).get_parsed_content("network_def").eval()
    torch.save({"network": network.state_dict()}, tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files(["pretrain"])[0],
        key_in_ckpt="network",
    )
    image = torch.rand(1, 64, 16, 32, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), network(image))
