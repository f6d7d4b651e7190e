"""The weights that come with the bundle."""

import csv

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
