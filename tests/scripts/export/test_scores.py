"""The figures of a test in a model card: means over participants, their interval, the worst scan; no other weights'."""

import re

import numpy as np
import pytest
from scipy import stats

from scripts.export import bundle as exporting
from scripts.export import export_bundle
from scripts.export.scores import read_scores
from scripts.io.files import sha256, write_json, write_table
from transforms.errors import InputError

SYSTEM = {"device": "CPU", "threads": 2, "grid": [40, 48, 32], "seconds": 0.25, "memory_gib": 1.5}


@pytest.fixture
def evaluation(checkpoint_of, tmp_path):
    """Folder of an evaluation of a segmentation on 9 participants, the first of whom has two scans; and its weights."""
    checkpoint = checkpoint_of("segmentation")
    scans = {f"sub-{number:02d}": f"sub-{number:02d}" for number in range(2, 10)}
    participants = {"sub-01_run-1": "sub-01", "sub-01_run-2": "sub-01", **scans}
    record = {"checkpoint": sha256(checkpoint), "cohort": "ab" * 32, "split": "test"}
    write_json(tmp_path / "evaluation.json", {**record, "participants": participants, "system": SYSTEM})
    rng = np.random.default_rng(0)
    values = {scan: (rng.uniform(0.5, 0.9), rng.uniform(1, 2)) for scan in participants}
    values["sub-05"] = (0.125, 0.5)
    values["sub-07"] = (0.95, 8.0)
    rows = [
        *((scan, "test_macro_f1", "white matter", str(f1)) for scan, (f1, _) in values.items()),
        *((scan, "test_loss", "", str(loss)) for scan, (_, loss) in values.items()),
    ]
    rows.insert(1, ("sub-09", "test_macro_f1", "fluid", "nan"))
    write_table(tmp_path / "scans.csv", ("scan", "metric", "class", "value"), rows)
    of_methods = [("network", *row) for row in rows] + [("atlas", s, "test_macro_f1", "", "0.5") for s in participants]
    write_table(tmp_path / "baselines.csv", ("method", "scan", "metric", "class", "value"), of_methods)
    return tmp_path, checkpoint, values


def lines(text):
    return {tuple(cells[:2]): cells[2:] for cells in (re.split(r" *\| *", line)[1:-1] for line in text.splitlines())}


def test_scans_of_a_participant_count_once_and_the_worst_scan_is_named(evaluation):
    folder, checkpoint, values = evaluation
    found = read_scores(folder, checkpoint)
    assert "10 scans of 9 participants, the split `test` of the cohort" in found.test
    for metric, kind, index, worst in (
        ("test_macro_f1", "white matter", 0, "sub-05 (0.125)"),
        ("test_loss", "", 1, "sub-07 (8)"),
    ):
        numbers = [pair[index] for pair in values.values()]
        means = np.array([np.mean(numbers[:2]), *numbers[2:]])
        limits = stats.bootstrap((means,), np.mean, method="BCa", rng=0).confidence_interval
        mean, limits_said, worst_said = lines(found.test)[metric, kind]
        assert mean == f"{means.mean():.4g}"
        assert limits_said == f"{limits.low:.4g} to {limits.high:.4g}"
        assert worst_said == worst
        if index == 0:
            # methods are averaged as the network is
            assert ("network", mean) in lines(found.test)
    assert lines(found.test)["test_macro_f1", "fluid"][0] == "no scan has it"
    assert lines(found.test)["atlas", "0.5"] == []
    assert "40 x 48 x 32 voxels took 0.25 s on 2 threads of a CPU" in found.system


def test_the_card_states_them(evaluation, tmp_path, monkeypatch):
    folder, checkpoint, _ = evaluation
    monkeypatch.setattr(exporting, "save_models", lambda network, bundle: None)
    bundle = export_bundle("segmentation", tmp_path / "out", checkpoint, evaluation=folder)
    text = (bundle / "docs" / "README.md").read_text()
    assert read_scores(folder, checkpoint).test in text
    assert "not measured" not in text


def test_errors_of_a_restoration(evaluation):
    folder, checkpoint, _ = evaluation
    rows = [("noise", f"sub-{n:02d}", "0.2", str(0.1 + n / 100)) for n in range(2, 10)]
    write_table(folder / "artifacts.csv", ("artifact", "scan", "error_before", "error_after"), rows)
    after, limits, worst = lines(read_scores(folder, checkpoint).test)["noise", "0.2"]
    assert (after, worst) == ("0.155", "sub-09 (0.19)")
    low, high = map(float, limits.split(" to "))
    assert 0.12 < low < 0.155 < high < 0.19


def test_the_evaluation_of_other_weights_is_refused_and_nothing_is_written(evaluation, checkpoint_of, tmp_path):
    folder, _, _ = evaluation
    other = checkpoint_of("segmentation", voxel_size=3.0)
    with pytest.raises(InputError, match="found the evaluation of other weights, expected one of"):
        export_bundle("segmentation", tmp_path / "out", other, evaluation=folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("evaluation.json", None, "evaluation.json"),
        ("scans.csv", None, "scans.csv: found no table"),
        ("scans.csv", "a,b\n1,2\n", "scans.csv: found the columns a, b, expected scan, metric, class, value"),
    ],
)
def test_a_folder_that_is_no_evaluation_is_refused(name, content, sentence, evaluation):
    folder, checkpoint, _ = evaluation
    (folder / name).unlink()
    if content:
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_scores(folder, checkpoint)
