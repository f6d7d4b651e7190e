"""An exported bundle where its users are: in its own folder, without the project and what only cohorts need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.export import export_bundle

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
PROGRAM = Path(__file__).with_name("in_bundle.py")

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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_bundle("restoration", tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def python(exported, tmp_path_factory):
    """Run Python in the folder of the bundle, where the project cannot be imported."""
    start = tmp_path_factory.mktemp("start")
    (start / "sitecustomize.py").write_text(WITHOUT)
    variables = {**os.environ, "PYTHONPATH": str(start), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(*words, program=None):
        command = [sys.executable, "-W", "ignore", *map(str, words)]
        return subprocess.run(
            command, cwd=exported, env=variables, input=program, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="module")
def outcomes(python, tiny_scan, tiny_cohort, tmp_path_factory):
    """What became of each check of ``in_bundle.py``."""
    done = python("-", tiny_scan, tiny_cohort, SCHEMA, tmp_path_factory.mktemp("work"), program=PROGRAM.read_text())
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "check",
    [
        "own_code",
        "verify_metadata",
        "verify_net_in_out",
        "ckpt_export",
        "onnx_export",
        "formats",
        "load_folder",
        "load_zip",
        "inference",
        "training",
        "missing_scan",
        "missing_cohort",
        "deploy",
    ],
)
def test_a_user_of_the_bundle_can(check, outcomes):
    if check == "verify_metadata" and not SCHEMA.is_file():
        pytest.skip(f"the zoo's schema is not at {SCHEMA}, and nothing is downloaded")
    assert outcomes[check] is None, outcomes[check]


def test_every_check_is_reported(outcomes):
    assert len(outcomes) == 13


def test_mlflow_tracking_of_monai_adds_to_the_same_run(python, exported, tiny_cohort, tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    done = python(
        *("-m", "monai.bundle", "run", "--config_file", "configs/train.json", "--tracking", "mlflow"),
        *("--dataset_dir", tiny_cohort, "--output_dir", tmp_path / "run", "--tracking_uri", store),
        *("--max_epochs", "1", "--num_workers", "0", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiments = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id for experiment in experiments])
    assert [run.data.params["task"] for run in runs] == ["restoration"]
    assert {"train_loss", "val_loss"} <= runs[0].data.metrics.keys()
    assert json.loads((exported / "configs" / "metadata.json").read_text())["version"] in runs[0].data.params["code"]


def test_a_missing_scan_on_the_command_line_is_one_sentence(python):
    done = python("-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--dwi", "none.nii.gz")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: none.nii.gz: no such file")
