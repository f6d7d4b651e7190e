"""Trainings that are cut off or tracked twice, and inputs that are wrong, from the shell."""

import functools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from scripts.io.files import write_json
from tests.tiny_cohort import write_tiny_cohort
from transforms.diffusion.scheme import default_scheme

ROOT = Path(__file__).parents[2]
PATIENCE = 180
"""Seconds for a training to get through its first epoch."""


@pytest.fixture(scope="module")
def clinical(tmp_path_factory):
    """Prepared cohort of tiny scans with labels."""
    return write_tiny_cohort(
        tmp_path_factory.mktemp("clinical"), ["training", "training", "validation"], default_scheme()
    )


@pytest.fixture(scope="module")
def auxiliary(clinical, tmp_path_factory):
    """Return the same without labels."""
    folder = shutil.copytree(clinical, tmp_path_factory.mktemp("auxiliary"), dirs_exist_ok=True)
    datalist = json.loads((folder / "datalist.json").read_text())
    for split in ("training", "validation"):
        for entry in datalist[split]:
            for label in ("tissue", "white_matter", "n_peaks", "peak"):
                del entry[label]
    write_json(folder / "datalist.json", datalist)
    return folder


@pytest.fixture
def options(auxiliary, tmp_path):
    return {
        "dataset_dir": auxiliary,
        "output_dir": tmp_path,
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "num_workers": 0,
    }


def tracked(folder, name="pretrain"):
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == name]
    return client, client.search_runs([experiment.experiment_id])


def test_a_training_that_was_interrupted_goes_on_from_its_last_epoch(bundle, bundle_words, options, tmp_path):
    # a shell that runs the tests in the background has its children ignore the signal
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = bundle_words("training", ["pretrain"], max_epochs=100, **options)
    with subprocess.Popen([sys.executable, "-W", "ignore", *words], cwd=ROOT, preexec_fn=listen) as process:  # noqa: PLW1509
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "checkpoint_epoch=1.pt").is_file() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    _, (run,) = tracked(tmp_path)
    assert run.info.status == "KILLED"
    saved = max(int(path.stem.split("=")[1]) for path in tmp_path.glob("checkpoint_epoch=*.pt"))
    assert saved < 50

    refused = bundle("training", ["pretrain"], check=False, max_epochs=100, **options)
    assert refused.returncode != 0
    assert "expected an --output_dir without one, or resume.json" in refused.stdout.strip().splitlines()[-1]

    output = bundle("training", ["pretrain", "resume"], max_epochs=saved + 1, **options).stdout
    assert f"Epoch[{saved}] Metrics" not in output
    assert f"Epoch[{saved + 1}] Metrics" in output
    client, (run,) = tracked(tmp_path)
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")]
    assert sorted(set(steps)) == list(range(1, saved + 2))
    last = torch.load(tmp_path / f"checkpoint_epoch={saved + 1}.pt", weights_only=True)
    first = torch.load(tmp_path / f"checkpoint_epoch={saved}.pt", weights_only=True)
    assert last["trainer"]["iteration"] == first["trainer"]["iteration"] / saved * (saved + 1)


@pytest.mark.parametrize(
    ("configs", "cohort", "metric"),
    [(["pretrain"], "auxiliary", "val_loss"), (["finetune", "segmentation"], "clinical", "val_macro_f1")],
)
def test_monais_own_tracking_option_goes_into_the_same_run(configs, cohort, metric, request, bundle, options, tmp_path):
    options["dataset_dir"] = request.getfixturevalue(cohort)
    bundle("training", configs, max_epochs=1, tracking="mlflow", run_name="mine", **options)
    _, runs = tracked(tmp_path, configs[0])
    assert [run.info.run_name for run in runs] == ["mine"]
    assert {metric, "train_loss"} <= set(runs[0].data.metrics)
    assert len(runs[0].data.params["cohort"]) == 64


@pytest.mark.parametrize(
    ("wrong", "configs", "sentence"),
    [
        ({"dataset_dir": "nowhere"}, ["pretrain"], "error: nowhere: found no datalist.json"),
        (
            {"pretrained": "README.md", "dataset_dir": "clinical"},
            ["finetune", "segmentation"],
            "error: README.md: found no checkpoint",
        ),
        ({}, ["pretrain", "resume"], "found no checkpoint_epoch=<n>.pt, expected the output of a training"),
        ({}, ["finetune", "segmentation"], "found no scan in training with image and mask and tissue"),
        ({}, ["finetune"], "error: --config_file: found finetune.json without a task"),
    ],
)
def test_a_wrong_input_gets_one_sentence(wrong, configs, sentence, clinical, bundle, options, tmp_path):
    if wrong.get("dataset_dir") == "clinical":
        wrong = {**wrong, "dataset_dir": clinical}
    done = bundle("training", configs, check=False, max_epochs=1, **{**options, **wrong})
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    assert sentence in done.stdout.strip().splitlines()[-1]
    assert not list(tmp_path.glob("*.pt"))


def test_the_run_keeps_the_whole_config(bundle, options, tmp_path):
    bundle("training", ["pretrain", "autoencoder"], max_epochs=1, seed=5, **options)
    client, (run,) = tracked(tmp_path)
    path = client.download_artifacts(run.info.run_id, "config.json", str(tmp_path))
    config = json.loads(Path(path).read_text())
    assert config["seed"] == 5
    assert config["artifacts"] == []
    assert config["network_def"]["_target_"] == "scripts.network.BrainUNet"
    assert run.data.params["pretext"] == "autoencoder"
    # an autoencoder is given what it has to return
    assert run.data.metrics["val_loss_of_input"] == 0


def test_trainings_that_are_killed_at_random_moments_lose_nothing(shell):
    """Both kinds by three signals; ``--kills 20`` does it more often."""
    rows = [line for line in shell("-m", "benchmarks.interruptions", "--kills", 1).stdout.splitlines() if "SIG" in line]
    assert len(rows) == 6
    assert all("| yes |" in row for row in rows), rows
