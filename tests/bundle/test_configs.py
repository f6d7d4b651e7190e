"""The bundle as MONAI's own tools see it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundle" / "configs"
SCHEMA = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
TRAINING = {
    "pretrain": ["pretrain"],
    "autoencoder": ["pretrain", "autoencoder"],
    "segmentation": ["finetune", "segmentation"],
    "resumed": ["pretrain", "resume"],
}
EVALUATION = ["finetune", "segmentation", "evaluate"]
INFERENCE = ["inference_segmentation", "inference_restoration"]
SELF_CONTAINED = ["pretrain", "finetune", *INFERENCE]


def files(names):
    return [str(CONFIGS / f"{name}.json") for name in names]


def load(name):
    return json.loads((CONFIGS / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_config_is_part_of_a_documented_combination():
    used = {name for names in TRAINING.values() for name in names} | set(EVALUATION) | set(INFERENCE) | {"metadata"}
    assert {path.stem for path in CONFIGS.glob("*.json")} == used


@pytest.mark.parametrize("names", [*TRAINING.values(), EVALUATION, *([name] for name in INFERENCE)], ids="+".join)
def test_every_reference_and_target_of_a_config_exists(names):
    parser = ConfigParser()
    parser.read_config(files(names))
    parser.parse(reset=True)
    text = json.dumps(parser.get())
    for reference in set(re.findall(r"@([A-Za-z_][\w:]*)", text)):
        assert reference in parser, reference
    for target in set(re.findall(r'"_target_": "((?:scripts|transforms)[\w.]+)"', text)):
        module, _, name = target.rpartition(".")
        assert hasattr(__import__(module, fromlist=[name]), name), target


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
    torch.save({"network": network.state_dict()}, checkpoint)
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


def test_blocks_that_stand_in_several_files_are_equal():
    configs = {name: load(name) for name in SELF_CONTAINED}
    networks = [{**configs[name]["network_def"], "out_channels": None} for name in SELF_CONTAINED]
    assert all(network == networks[0] for network in networks)
    for key in ("bundle_root", "device", "amp"):
        assert len({configs[name][key] for name in SELF_CONTAINED}) == 1
    own = ("postprocessing", "checkpoint", "network_def", "handlers")
    first, second = ({key: value for key, value in configs[name].items() if key not in own} for name in INFERENCE)
    assert first == second
    assert all(configs["finetune"][key] == value for key, value in load("segmentation").items())
    assert configs["inference_segmentation"]["network_def"]["out_channels"] == configs["finetune"]["output_channels"]


@pytest.mark.skipif(not SCHEMA.is_file(), reason=f"the zoo's schema is not at {SCHEMA}, and nothing is downloaded")
def test_metadata_follows_the_schema_of_the_model_zoo(tmp_path):
    copy = tmp_path / "schema.json"
    copy.write_bytes(SCHEMA.read_bytes())
    command = [sys.executable, "-m", "monai.bundle", "verify_metadata", "--meta_file", "bundle/configs/metadata.json"]
    done = subprocess.run([*command, "--filepath", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = json.loads((CONFIGS / "metadata.json").read_text())
    del broken["task"]
    (tmp_path / "metadata.json").write_text(json.dumps(broken))
    command[-1] = str(tmp_path / "metadata.json")
    done = subprocess.run([*command, "--filepath", str(copy)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "task" in done.stderr


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
