"""A training in two processes, as torchrun starts them for two GPUs; here on the CPU."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.tiny_cohort import write_tiny_cohort

pytestmark = pytest.mark.slow

EPOCHS = 2


def run(python, bundle, cohort, folder, *options, configs=("train", "multi_gpu_train"), processes=2):
    report = {
        "_target_": "rank_report.RankReport",
        "network": "@network",
        "folder": str(folder),
        "output_dir": "@output_dir",
    }
    (folder / "report.json").write_text(json.dumps({"+train::handlers": [report]}))
    files = [*(f"configs/{name}.json" for name in configs), str(folder / "report.json")]
    command = ["-m", "monai.bundle", "run", "--config_file", str(files), "--dataset_dir", str(cohort)]
    command += ["--meta_file", "configs/metadata.json", "--logging_file", "configs/logging.conf"]
    command += ["--output_dir", str(folder / "run"), "--tracking_uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--max_epochs", str(EPOCHS), "--num_workers", "0", "--batch_size", "1", "--device", "cpu", *options]
    if processes:
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *command]
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [python, "-W", "ignore", *command],
        check=False,
        **{"cwd": bundle, "env": variables, "capture_output": True, "text": True},
    )


@pytest.fixture(scope="module", params=[("restoration", 2), ("segmentation", 1)], ids=["restoration", "segmentation"])
def trained_by_two(request, python, exported_of, tmp_path_factory):
    """Folder of a training in two processes, and what each of them reports; one has a single scan for validation."""
    folder, cohort = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("cohort")
    task, validated = request.param
    write_tiny_cohort(cohort, ["training"] * 4 + ["validation"] * validated)
    done = run(python, exported_of(task, formats=False), cohort, folder)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_both_processes_together_see_each_scan_once_an_epoch(trained_by_two):
    _, reports = trained_by_two
    for first, second in zip(*(report["scans"] for report in reports), strict=True):
        assert len(first) == len(second) == 2
        assert sorted(first + second) == [f"sub-{index:02d}" for index in range(4)]
    # another order in each epoch
    assert len({tuple(scans) for scans in reports[0]["scans"]}) == EPOCHS


def test_both_processes_have_the_same_weights_and_loss_from_other_draws(trained_by_two):
    _, (first, second) = trained_by_two
    assert first["weights"] == second["weights"]
    assert first["loss"] == second["loss"]
    assert len({*first["seeds"], *second["seeds"]}) == 2 * EPOCHS


def test_the_first_process_alone_writes_and_tracks(trained_by_two):
    from mlflow import MlflowClient

    folder, (first, second) = trained_by_two
    assert second["written"] == []
    assert any("model.pt" in name for name in first["written"])
    names = {path.name for path in (folder / "run").iterdir()}
    assert {"model.pt", "epochs.csv", f"checkpoint_epoch={EPOCHS}.pt"} <= names
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (tracked,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["processes"] == "2"
    for metric in ("train_loss", "val_loss"):
        assert len(client.get_metric_history(tracked.info.run_id, metric)) == EPOCHS


def test_a_training_of_several_processes_needs_torchrun(python, exported_of, small_cohort, tmp_path):
    done = run(python, exported_of("segmentation", formats=False), small_cohort, tmp_path, processes=0)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: multi_gpu: found no RANK, expected torchrun --nproc_per_node=N -m monai.bundle run."
    )
