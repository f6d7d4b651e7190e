"""An exported bundle where its users are: in its own folder, without the project and what only cohorts need."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
PROGRAM = Path(__file__).with_name("in_bundle.py")

FOR_EACH = ("verify_metadata", "verify_net_in_out", "inference", "evaluation")
"""Checks of a bundle of each task."""

CHECKS = {
    "restoration": (
        *("own_code", *FOR_EACH, "ckpt_export", "onnx_export", "formats", "load_folder", "load_zip"),
        *("training", "federated", "missing_scan", "missing_cohort", "missing_simpleitk", "deploy", "compose"),
    ),
    "segmentation": (*FOR_EACH, "federated"),
    "crossings": FOR_EACH,
    "direction": FOR_EACH,
}
"""Checks by task. Networks of the tasks differ in their output layer alone, so some checks are made once."""

pytestmark = pytest.mark.slow

WITHOUT = """
import sys

# the editable install would lead to the project
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]


class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("bids", "distributed", "gradlint", "nilearn", "torchio", "typer"):
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Without())
"""
"""Python runs it at its start: it can then import neither the project nor the packages that only cohorts need."""


@pytest.fixture(scope="session")
def variables(python, tmp_path_factory):
    """Return the environment of a shell whose Python can import neither the project nor what only cohorts need."""
    start = tmp_path_factory.mktemp("start")
    (start / "sitecustomize.py").write_text(WITHOUT)
    folders = (python.parent, Path(sys.executable).parent, os.environ["PATH"])
    path = os.pathsep.join(map(str, folders))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(start), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture(scope="session")
def python_in(python, variables):
    """Run Python in the folder of a bundle, where the project cannot be imported."""

    def run(bundle, *words, program=None):
        command = [python, "-W", "ignore", *map(str, words)]
        return subprocess.run(
            command, cwd=bundle, env=variables, input=program, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def outcomes_of(python_in, exported_of, small_scan, small_cohort, tmp_path_factory):
    """Return the function that gives what became of each check of ``in_bundle.py``, and its folder; each task once."""
    done = {}

    def check(task):
        if task not in done:
            bundle, work = exported_of(task, formats="formats" in CHECKS[task]), tmp_path_factory.mktemp("work")
            words = (small_scan, small_cohort, SCHEMA, work, *CHECKS[task])
            result = python_in(bundle, "-", *words, program=PROGRAM.read_text())
            assert result.returncode == 0, result.stderr[-3000:]
            done[task] = json.loads(result.stdout.splitlines()[-1]), work
        return done[task]

    return check


@pytest.mark.parametrize(("task", "check"), [(task, check) for task, checks in CHECKS.items() for check in checks])
def test_a_user_of_the_bundle_can(task, check, outcomes_of):
    if check == "verify_metadata" and not SCHEMA.is_file():
        pytest.skip(f"the zoo's schema is not at {SCHEMA}, and nothing is downloaded")
    outcomes, _ = outcomes_of(task)
    assert outcomes[check] is None, outcomes[check]


@pytest.mark.parametrize("task", CHECKS)
def test_an_evaluation_of_the_bundle_gives_what_one_of_the_project_gives(
    task, outcomes_of, trained, small_project, small_cohort, tmp_path
):
    names = ["pretrain", "evaluate_restoration"] if task == "restoration" else ["finetune", task, "evaluate"]
    workflow = ConfigWorkflow(
        [str(small_project / "configs" / f"{name}.json") for name in names],
        logging_file=False,
        workflow_type="train",
        dataset_dir=str(small_cohort),
        checkpoint=str(trained(task)),
        evaluation_dir=str(tmp_path),
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        num_workers=0,
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    _, work = outcomes_of(task)
    for name in ["artifacts.csv"] if task == "restoration" else ["scans.csv", "baselines.csv"]:
        assert (work / "evaluation" / name).read_text() == (tmp_path / name).read_text()


def test_a_second_export_has_the_same_bytes_and_none_of_the_machine(exported_of, trained, small_project, tmp_path):
    first = exported_of("restoration")
    program = (
        "import sys; from pathlib import Path; from scripts.export import bundle; "
        "bundle.PROJECT = Path(sys.argv[1]); bundle.export_bundle('restoration', *map(Path, sys.argv[2:]))"
    )
    # in another process and with another order of sets
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, small_project, tmp_path, trained("restoration")],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
    )
    second = tmp_path / first.name
    names = {path.relative_to(first) for path in first.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names >= {Path("models") / f"model.{ending}" for ending in ("pt", "ts", "onnx", "pt2")}
    for name in sorted(names):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
        contents = [(second / name).read_bytes()]
        if zipfile.is_zipfile(second / name):
            with zipfile.ZipFile(second / name) as archive:
                contents += [archive.read(entry) for entry in archive.namelist()]
        for path in (ROOT, small_project, tmp_path, sys.prefix, Path(torch.__file__).parents[1], Path.home()):
            assert not any(f"{path}/".encode() in content for content in contents), (name, path)
    assert first.with_name(f"{first.name}.zip").read_bytes() == second.with_name(f"{first.name}.zip").read_bytes()


def test_the_python_of_the_card_runs_where_the_bundle_is_not(python_in, exported_of, tmp_path):
    exported = exported_of("restoration")
    (tmp_path / "bundles").symlink_to(exported.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (exported / "docs" / "README.md").read_text(), re.DOTALL)
    done = python_in(tmp_path, "-c", f"{code}\nprint(type(network).__module__)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "scripts.network"


def commands_in_a_bundle():
    """Return the commands of the page for those who have a bundle."""
    _, _, use = (ROOT / "docs" / "sharing.md").read_text().partition("## Use a bundle")
    return [line for block in re.findall(r"```sh\n(.*?)```", use, re.DOTALL) for line in block.splitlines()]


def test_the_commands_of_the_page_run_in_the_bundle(variables, exported_of, small_scan, small_cohort, tmp_path):
    bundle = shutil.copytree(exported_of("restoration"), tmp_path / "dmri_restoration")
    assert len(commands_in_a_bundle()) == 6
    for command in commands_in_a_bundle():
        command = command.replace("path/to/sub-01_dwi.nii.gz", str(small_scan))  # noqa: PLW2901
        command = command.replace("path/to/cohort", str(small_cohort))  # noqa: PLW2901
        if "train.json" in command:
            # two trainings into one folder would be refused
            output = "two" if "torchrun" in command else "runs"
            # the same without an import of the libraries for each process
            command = command.replace("torchrun", "python -m torch.distributed.run --standalone")  # noqa: PLW2901
            command += f" --max_epochs 1 --num_workers 0 --device cpu --output_dir {output}"  # noqa: PLW2901
        done = subprocess.run(
            command, shell=True, cwd=bundle, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-3000:]}"
    for result in ("results/sub-01_desc-restored_dwi.nii.gz", "runs/model.pt", "two/model.pt", "model.ts"):
        assert (bundle / result).is_file(), result

    client = MlflowClient(f"sqlite:///{bundle}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    # MONAI's own tracking goes into the run of the training; the evaluation of a restoration is none
    assert [run.data.params["task"] for run in runs] == ["restoration", "restoration"]
    version = json.loads((bundle / "configs" / "metadata.json").read_text())["version"]
    for run in runs:
        assert {"train_loss", "val_loss"} <= run.data.metrics.keys()
        assert version in run.data.params["code"]


def test_a_missing_scan_on_the_command_line_is_one_sentence(python_in, exported_of):
    command = ("-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--dwi", "none.nii.gz")
    done = python_in(exported_of("restoration"), *command)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: none.nii.gz: no such file")
