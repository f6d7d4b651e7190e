"""Bundles for the model zoo: all that an export writes but the formats of the network, which take a minute."""

import ast
import json
import re
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from monai.apps.utils import HashCheckError
from monai.bundle import ConfigParser, download_large_files

from scripts.export import bundle as exporting
from scripts.export import export_bundle
from scripts.training.weights import initialise, load_network, read_checkpoint, transferred
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
TASKS = ("restoration", "segmentation", "crossings", "direction")
FOR_COHORTS = {"distributed", "gradlint", "nilearn", "pybids", "simpleitk", "torchio", "typer"}


@pytest.fixture(autouse=True)
def _without_formats(monkeypatch):
    monkeypatch.setattr(exporting, "save_models", lambda network, bundle: None)


@pytest.fixture(scope="module", params=TASKS)
def exported(request, checkpoint_of, tmp_path_factory):
    """Folder of the bundle of each task in turn."""
    checkpoint = None if request.param == "restoration" else checkpoint_of(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "save_models", lambda network, bundle: None)
        return request.param, export_bundle(request.param, tmp_path_factory.mktemp("out"), checkpoint)


def config(bundle, *names):
    return ConfigParser.load_config_files([str(bundle / "configs" / f"{name}.json") for name in names])


def test_a_bundle_has_the_files_of_the_zoo_and_no_others(exported):
    task, bundle = exported
    assert bundle.name == f"dmri_{task}"
    names = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    code = {name for name in names if name.startswith(("scripts/", "transforms/"))}
    assert names - code == {
        *(f"configs/{name}.json" for name in ("train", "inference", "evaluate", "multi_gpu_train", "metadata")),
        *("configs/logging.conf", "docs/README.md", "docs/data_license.txt", "LICENSE"),
        *("models/model.pt", "models/origin.json"),
    }
    # the zoo takes no larger ones
    assert max(path.stat().st_size for path in bundle.rglob("*")) < 25e6


def test_a_training_is_that_of_the_project_in_one_file(exported):
    task, bundle = exported
    sources = ["pretrain"] if task == "restoration" else ["finetune", task]
    project = ConfigParser.load_config_files([str(ROOT / "bundle" / "configs" / f"{name}.json") for name in sources])
    train = config(bundle, "train")
    assert {key for key in project if project[key] != train[key]} == {"bundle_root", "dataset_dir"}
    assert project.keys() == train.keys()
    assert train["bundle_root"] == config(bundle, "inference")["bundle_root"] == "."


def test_all_that_configs_and_code_name_is_in_the_bundle(exported):
    _, bundle = exported
    for names in (["train"], ["inference"], ["train", "evaluate"], ["train", "multi_gpu_train"]):
        parser = ConfigParser(config(bundle, *names))
        parser.parse()
        text = json.dumps(parser.get())
        for reference in set(re.findall(r"@([A-Za-z_][\w:]*)", text)):
            assert reference in parser, reference
        for target in re.findall(r'"_target_": "((?:scripts|transforms)[.\w]*)\.\w+"', text):
            place = bundle / target.replace(".", "/")
            assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), target
    for file in bundle.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("scripts", "transforms")):
                place = bundle / node.module.replace(".", "/")
                assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), (file, node.module)


def test_metadata_is_of_this_task_and_names_what_is_imported(exported):
    task, bundle = exported
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    if SCHEMA.is_file():
        jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    output = metadata["network_data_format"]["outputs"]["pred"]
    network = ConfigParser(config(bundle, "train")).get_parsed_content("network_def")
    assert output["num_channels"] == network.output_block.out_channels
    assert task == "restoration" or len(output["channel_def"]) == output["num_channels"]
    packages = metadata["required_packages_version"]
    assert not FOR_COHORTS & packages.keys()
    assert {"dipy", "mlflow", "nibabel", "pytorch-ignite", "fire"} <= packages.keys()
    lines = (ROOT / "constraints.txt").read_text().lower().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {name: pinned[name] for name in packages} == packages
    if task != "restoration":
        assert metadata["eval_metrics"] == {"val_something": 0.25}


def test_no_file_names_a_path_of_the_machine(exported):
    _, bundle = exported
    for file in bundle.rglob("*"):
        if file.is_file():
            assert b"/home/a" not in file.read_bytes()
            assert str(ROOT).encode() not in file.read_bytes()


SECTIONS = ("Model Overview", "Authors", "Tags", "Data", "Model", "Training", "Performance", "System Configuration")
SECTIONS += ("Limitations", "Commands", "Citation", "License")


def test_the_model_card_has_the_sections_of_the_zoo_and_each_says_something(exported):
    _, bundle = exported
    _, *parts = re.split(r"^#+ (.+)\n", (bundle / "docs" / "README.md").read_text(), flags=re.MULTILINE)
    assert tuple(parts[::2]) == SECTIONS
    assert all(text.strip() for text in parts[1::2])


def test_every_figure_of_the_performance_is_that_of_the_checkpoint(exported):
    task, bundle = exported
    text = (bundle / "docs" / "README.md").read_text()
    (performance,) = re.findall(r"## Performance\n(.*?)\n## ", text, re.DOTALL)
    shipped = read_checkpoint(ROOT / "bundle" / "models" / "restoration.pt")["origin"]
    known = shipped if task == "restoration" else {"val_something": 0.25}
    figures = {
        line.split(" | ")[0].lstrip("| "): line.split(" | ")[1].rstrip(" |")
        for line in performance.splitlines()
        if "val_" in line
    }
    assert figures == {name: f"{value:.4g}" for name, value in known.items() if name.startswith("val_")}
    chosen, _, tested = performance.partition("Of a test:")
    assert not re.findall(r"\d", re.sub(r"^\|.*$", "", chosen, flags=re.MULTILINE))
    assert bool(tested) == (task == "restoration")
    if tested:
        errors = pd.read_csv(ROOT / "bundle" / "models" / "restoration_evaluation" / "artifacts.csv")
        rows = [
            [cell.strip() for cell in line.split("|")[1:4]] for line in tested.splitlines() if line.startswith("| ")
        ]
        means = errors.groupby("artifact", sort=False)[["error_before", "error_after"]].mean()
        assert rows[1:] == [[name, f"{before:.4g}", f"{after:.4g}"] for name, before, after in means.itertuples()]


def test_the_model_card_states_what_was_measured_and_no_more(exported):
    task, bundle = exported
    text = (bundle / "docs" / "README.md").read_text()
    assert "$" not in text
    if task != "restoration":
        assert "| val_something | 0.25 |" in text
        assert "| epoch of these weights | 7 |" in text
    weights = (bundle / "docs" / "data_license.txt").read_text()
    assert ("simulated brains alone" in weights) == (task == "restoration")


def test_the_weights_are_a_plain_state_dict_whose_origin_is_checked(exported):
    task, bundle = exported
    path = str(bundle / "models" / "model.pt")
    tensors = torch.load(path, weights_only=True)
    network = ConfigParser(config(bundle, "train")).get_parsed_content("network_def")
    assert tensors.keys() == network.state_dict().keys()
    scheme = default_scheme()
    preparation = {"bvalue": 1000, "voxel_size": 2.4, "scheme": scheme}
    load_network(network, path, preparation, task)
    assert all(torch.equal(value, tensors[name]) for name, value in network.state_dict().items())
    initialise(network, path, transferred(network, path), preparation)
    with pytest.raises(InputError, match=f"found a network for {task}, expected one for another"):
        load_network(network, path, preparation, "another")
    with pytest.raises(InputError, match="trained on another scheme"):
        initialise(network, path, transferred(network, path), {**preparation, "scheme": scheme[:, ::-1]})


def test_the_zip_holds_the_folder_and_has_the_same_bytes_twice(checkpoint_of, tmp_path):
    checkpoint = checkpoint_of("direction")
    folders = [export_bundle("direction", tmp_path / name, checkpoint, "mine") for name in "ab"]
    first, second = (folder.with_name("mine.zip").read_bytes() for folder in folders)
    assert first == second
    with zipfile.ZipFile(folders[0].with_name("mine.zip")) as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "a" / name).read_bytes()
        assert len(archive.namelist()) == sum(path.is_file() for path in folders[0].rglob("*"))


def test_files_that_are_too_large_for_the_zoo_come_from_the_address_that_the_user_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGE_BYTES", 1_000_000)
    bundle = export_bundle("restoration", tmp_path / "out")
    listed = bundle / "large_files.yml"
    (file,) = ConfigParser.load_config_file(listed)["large_files"]
    assert (file["path"], file["url"]) == ("models/model.pt", "")
    with zipfile.ZipFile(f"{bundle}.zip") as archive:
        assert f"{bundle.name}/large_files.yml" in archive.namelist()
    uploaded = (bundle / file["path"]).rename(tmp_path / "uploaded.pt")
    listed.write_text(json.dumps({"large_files": [{**file, "url": uploaded.as_uri()}]}))
    download_large_files(str(bundle))
    assert (bundle / file["path"]).read_bytes() == uploaded.read_bytes()
    # a file that was changed on the way is refused
    (bundle / file["path"]).unlink()
    uploaded.write_bytes(b"other")
    with pytest.raises(HashCheckError):
        download_large_files(str(bundle))


def test_another_preparation_is_that_of_the_inference(checkpoint_of, tmp_path):
    scheme = default_scheme()[::4]
    checkpoint = checkpoint_of("restoration", scheme, bvalue=700.0, voxel_size=2.0)
    bundle = export_bundle("restoration", tmp_path, checkpoint)
    inference = config(bundle, "inference")
    assert (inference["bvalue"], inference["voxel_size"]) == (700.0, 2.0)
    parser = ConfigParser(inference | {"bundle_root": str(bundle)})
    np.testing.assert_allclose(parser.get_parsed_content("directions"), scheme, atol=1e-6)
    assert parser.get_parsed_content("trained").projection.in_channels == len(scheme)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == len(scheme)
    assert "16 directions at b = 700 s/mm2" in metadata["image_classes"]


def test_a_checkpoint_of_another_task_is_refused(checkpoint_of, tmp_path):
    with pytest.raises(InputError, match="found a network for crossings, expected one for segmentation"):
        export_bundle("segmentation", tmp_path, checkpoint_of("crossings"))
    assert not list(tmp_path.iterdir())


def test_a_task_without_a_shipped_network_needs_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"--checkpoint: found none, expected the model\.pt of a fine-tuning"):
        export_bundle("direction", tmp_path)


@pytest.mark.parametrize("name", ["mine", "mine.zip"])
def test_what_is_there_stays_as_it_is(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=f"{name}: found a folder or file there"):
        export_bundle("restoration", tmp_path, name="mine")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_the_card_of_the_shipped_weights_has_their_test_and_their_limits(tmp_path):
    card = (export_bundle("restoration", tmp_path) / "docs" / "README.md").read_text()
    assert "not measured" not in card
    assert "Of a test: 7 scans, one each of 7 participants" in card
    epochs = read_checkpoint(ROOT / "bundle" / "models" / "restoration.pt")["origin"]["parameters"]["max_epochs"]
    assert f"| epochs | {epochs} |" in card
    assert "Do not trust a real scan that they restored" in " ".join(card.split())


def test_the_card_of_own_weights_says_nothing_of_the_shipped_ones(checkpoint_of, tmp_path):
    card = (export_bundle("direction", tmp_path, checkpoint_of("direction")) / "docs" / "README.md").read_text()
    assert "Test on other scans: not measured" in card
    assert "Do not trust" not in card


@pytest.mark.parametrize("name", ["../mine", "a/b", "1"])
def test_a_name_is_no_path(tmp_path, name):
    with pytest.raises(InputError, match="--name: found"):
        export_bundle("restoration", tmp_path, name=name)


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(network, bundle):
        raise RuntimeError("model.onnx: found outputs that differ")

    monkeypatch.setattr(exporting, "save_models", fail)
    with pytest.raises(RuntimeError, match=r"model\.onnx"):
        export_bundle("restoration", tmp_path)
    assert not list(tmp_path.iterdir())


def test_weights_that_were_changed_do_not_take_the_origin_beside_them(tmp_path):
    bundle = export_bundle("restoration", tmp_path)
    path = bundle / "models" / "model.pt"
    tensors = torch.load(path, weights_only=True)
    torch.save({name: value + 1 for name, value in tensors.items()}, path)
    with pytest.raises(InputError, match=r"found other weights than those that origin\.json beside it describes"):
        read_checkpoint(path)


def test_an_exported_bundle_knows_its_version(tmp_path, monkeypatch):
    from scripts import version

    bundle = export_bundle("restoration", tmp_path)
    monkeypatch.setattr(version, "METADATA", bundle / "configs" / "metadata.json")
    stated = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text())["version"]
    assert version.code_version() == version.code_state() == stated
