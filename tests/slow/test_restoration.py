"""The weights that come with the bundle."""

import csv
import runpy

import numpy as np


def test_the_pretrained_network_lowers_each_artifact_on_a_cohort_that_it_has_never_seen(auxiliary, bundle, tmp_path):
    bundle(
        "evaluating",
        ["pretrain", "evaluate_restoration"],
        dataset_dir=auxiliary / "prepared",
        checkpoint="bundle/models/restoration.pt",
        evaluation_dir=tmp_path,
        **{"validate::dataset::data::split": "training", "draws": 2},
    )
    with open(tmp_path / "artifacts.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    error = {}
    for row in rows:
        error.setdefault(row["artifact"], []).append((float(row["error_before"]), float(row["error_after"])))
    assert list(error) == [
        "motion",
        "eddy",
        "bias field",
        "bias field without gain",
        "ghosting",
        "noise",
        "all",
        "none",
    ]
    for name in list(error)[:-1]:
        before, after = np.mean(error[name], axis=0)
        assert after < before, name


def test_the_pretrained_network_keeps_fa_and_md_of_a_scan_without_artifacts(auxiliary, capsys):
    """Signal, MD and FA of white matter change by less than 2 % on phantoms that it has never seen."""
    figures = runpy.run_path("docs/figures/restoration.py")
    figures["main"]("bundle/models/restoration.pt", str(auxiliary / "prepared"))
    rows = [line.split("|")[2:-1] for line in capsys.readouterr().out.splitlines() if "| sub-" in line]
    assert len(rows) >= 2
    changes = np.array([[float(value) for value in row[1:]] for row in rows])
    assert np.all(changes[:, 0] < 0.005)
    assert np.all(np.abs(changes[:, 1:]) < 2)
