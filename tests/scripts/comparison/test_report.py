"""The report of a comparison, from runs that are made up: what it says, and that anyone can compute it again."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from scripts.__main__ import app
from scripts.comparison import matrix, report
from scripts.comparison.figures import differences
from scripts.comparison.matrix import run_comparison
from scripts.comparison.report import write_report
from scripts.comparison.results import read_results
from scripts.comparison.store import Store
from transforms.errors import InputError

TASKS = ("segmentation", "crossings", "direction")


def written(folder):
    return {path.relative_to(folder): path.read_bytes() for path in [folder / "report.html", *folder.glob("report/*")]}


def table(folder, name):
    return pd.read_csv(folder / "report" / f"{name}.csv")


MADE: list[Path] = []


@pytest.fixture
def whole(settings, made_up, tmp_path):
    """Folder of a comparison with its report, made once; the tests of it only read."""
    if not MADE:
        run_comparison(settings(tasks=TASKS))
        write_report(tmp_path)
        MADE.append(tmp_path)
    return MADE[0]


@pytest.fixture
def tables_alone(monkeypatch):
    """Have reports without figures, which take most of their time."""
    monkeypatch.setattr(report, "FIGURES", {})


def test_the_report_needs_nothing_else_and_is_the_same_each_time(whole):
    first = written(whole)
    names = {str(name) for name in first}
    for figure in (
        "differences",
        "validation_loss",
        "test_scores",
        "score_by_subjects",
        "score_by_step",
        "loss_gap",
        "removal",
    ):
        assert {f"report/{figure}.svg", f"report/{figure}.png"} <= names
    page = (whole / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', page)
    assert page.count("<svg") == 7
    # a picture for each task and initialisation
    assert page.count("data:image/png") == 9 + page.count('xlink:href="data:image/png')
    assert "What is missing" not in page
    assert "Against the truth" not in page
    write_report(whole)
    assert written(whole) == first


def test_pandas_alone_gives_the_same_figures_from_the_scores_of_the_scans(whole):
    scans, statistics = table(whole, "scans"), table(whole, "statistics")
    assert len(statistics) == 3 * (1 + 2 + 1)
    for _, row in statistics.iterrows():
        here = scans[(scans.task == row.task) & (scans.train_size == row.train_size) & (scans.metric == row.metric)]
        by_scan = here.groupby(["initialisation", "fold", "seed", "subject", "scan"]).value.mean()
        by_subject = by_scan.groupby(["initialisation", "fold", "seed", "subject"]).mean()
        means = by_subject.groupby(["initialisation", "subject"]).mean().unstack("initialisation")
        difference = means[row.initialisation] - means[row.reference]
        assert len(difference) == row.subjects == 6
        np.testing.assert_allclose(difference.mean(), row.difference, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(means[row.initialisation].mean(), row["mean"], rtol=1e-9)
        np.testing.assert_allclose(means[row.reference].mean(), row.reference_mean, rtol=1e-9)
        np.testing.assert_allclose(difference.mean() / difference.std(), row.d_z, rtol=1e-6)
        assert row.low <= row.difference <= row.high


def test_an_effect_that_is_there_is_found_and_one_that_is_not_is_not(whole):
    statistics = table(whole, "statistics")
    leading = statistics[(statistics.family == "leading") & (statistics.reference == "random")]
    found = leading[leading.initialisation == "artifact_removal"]
    assert len(found) == 3
    assert (found.p_holm < 0.05).all()
    assert found.sentence.str.startswith("artifact_removal is better than random").all()
    assert (found[found.task == "direction"].difference < 0).all()
    assert (leading[leading.initialisation == "autoencoder"].p_holm > 0.05).all()


def test_an_initialisation_is_compared_where_it_was_asked_for(settings, made_up, tmp_path, tables_alone):
    run_comparison(settings(arms=("random", "artifact_removal"), train_sizes=(1, 2)))
    run_comparison(settings(arms=("random", "autoencoder"), train_sizes=(1,)))
    write_report(tmp_path)
    found = table(tmp_path, "statistics")
    asked = {
        1: ["artifact_removal - random", "artifact_removal - autoencoder", "autoencoder - random"],
        2: ["artifact_removal - random"],
    }
    for size, rows in found.groupby("train_size"):
        assert (rows.initialisation + " - " + rows.reference).to_list() == asked[size]
    assert "No subject has a score of both" not in (tmp_path / "report.html").read_text()
    figure = differences(read_results(Store(tmp_path)), found)
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes] == list(asked.values())
    heights = [axis.get_gridspec().get_height_ratios() for axis in figure.axes]
    assert heights[0][0] > heights[0][1]


def test_a_lower_loss_is_better_where_a_higher_score_is(settings, made_up, tmp_path, tables_alone):
    made_up["loss"] = True
    run_comparison(settings(tasks=("segmentation",), arms=("random", "artifact_removal")))
    write_report(tmp_path)
    found = table(tmp_path, "statistics").set_index("metric")
    assert found.difference["test_loss"] == pytest.approx(-found.difference["test_macro_f1"])
    assert found.p_t["test_loss"] == pytest.approx(found.p_t["test_macro_f1"])
    assert "is better than random" in found.sentence["test_loss"]


def test_curves_and_baselines_have_their_tables(whole):
    learning = table(whole, "learning")
    assert set(learning.task) == set(TASKS)
    # made up: a tenth of the epoch; less is better in degrees
    assert learning["last"].to_list() == pytest.approx([0.6] * len(learning))
    assert learning["best"].to_list() == pytest.approx([0.3 if task == "direction" else 0.6 for task in learning.task])
    assert set(table(whole, "baseline_means").method) == {"atlas"}
    assert table(whole, "curves").query("metric == 'val_loss' and step == 3").value.to_list() == pytest.approx(
        [1 / 3 + 0.3] * 18
    )
    assert table(whole, "artifacts").initialisation.to_list() == ["artifact_removal"] * 2 + ["autoencoder"] * 2


def test_scores_are_of_test_scans_and_curves_of_validations(whole):
    names = {"macro_f1", "balanced_accuracy", "accuracy", "angular_error"}
    assert set(table(whole, "scans").metric) == {f"test_{name}" for name in names}
    assert set(table(whole, "curves").metric) == {"train_loss", "val_loss"} | {f"val_{n}" for n in names - {"accuracy"}}


def test_a_comparison_of_before_the_names_of_test_metrics_is_the_same(settings, made_up, tmp_path, whole, tables_alone):
    made_up["prefix"] = "val_"
    run_comparison(settings(tasks=TASKS))
    write_report(tmp_path)
    for name in ("scans", "statistics", "means", "baselines"):
        assert (tmp_path / "report" / f"{name}.csv").read_bytes() == (whole / "report" / f"{name}.csv").read_bytes()


def test_a_method_is_in_the_table_once_however_many_commands_scored_it(settings, made_up, tmp_path, tables_alone):
    run_comparison(settings(arms=("random",)))
    write_report(tmp_path)
    first = table(tmp_path, "baselines")
    run_comparison(settings(arms=("autoencoder",)))
    assert len(Store(tmp_path).runs(stage="setting")) == 2
    write_report(tmp_path)
    pd.testing.assert_frame_equal(table(tmp_path, "baselines"), first)


@pytest.mark.parametrize(("best", "which"), [(0.001, "lowest"), (0.003, None), (0.01, "highest")])
def test_a_best_rate_at_the_end_of_the_range_is_said(settings, made_up, tmp_path, tables_alone, best, which):
    made_up["rate"] = {best: 0.5}
    run_comparison(settings(arms=("random",), rates=(0.01, 0.001, 0.003)))
    page = write_report(tmp_path).read_text()
    said = re.findall(r"([\d.]+) is the (\w+) of the rates that were tried, and the best in 1 setting", page)
    assert said == ([(f"{best:g}", which)] if which else [])
    assert ("segmentation, random, train size 1): beyond it" in page) == bool(which)


@pytest.mark.parametrize(("task", "last"), [("segmentation", 0.6), ("direction", 0.3)])
def test_the_rates_that_were_tried_stand_in_a_table(settings, made_up, tmp_path, tables_alone, task, last):
    # made up: a tenth of the epoch, and what the rate adds; less is better in degrees
    made_up["rate"] = {0.003: 0.25 if task == "segmentation" else -0.25, 0.01: 0.125}
    run_comparison(settings(tasks=(task,), arms=("random",), folds=2, rates=(0.01, 0.001, 0.003)))
    page = write_report(tmp_path).read_text()
    found = table(tmp_path, "rates")
    assert found.fold.to_list() == [0, 0, 0, 1, 1, 1]
    assert found.rate.to_list() == [0.01, 0.001, 0.003] * 2
    assert found.value.to_list() == pytest.approx([last + 0.125, last, last + made_up["rate"][0.003]] * 2)
    assert found.chosen.to_list() == [False, False, True] * 2
    assert "Learning rates</h3>" in page


def test_a_rate_whose_training_failed_counts_as_tried(settings, made_up, tmp_path, tables_alone):
    made_up["rate"] = {0.003: 0.5}
    made_up["failing"] = {"rate 0.01": InputError("found NaN.")}
    run_comparison(settings(arms=("random",), rates=(0.001, 0.003, 0.01)))
    page = write_report(tmp_path).read_text()
    found = table(tmp_path, "rates").set_index("rate")
    assert found.value.isna().to_dict() == {0.001: False, 0.003: False, 0.01: True}
    assert found.chosen.to_dict() == {0.001: False, 0.003: True, 0.01: False}
    assert "of the rates that were tried, and the best in" not in page


def test_what_is_no_longer_drawn_does_not_stay(settings, made_up, tmp_path):
    run_comparison(settings(arms=("random",)))
    stale = [
        tmp_path / "report" / f"{name}.{ending}" for name in ("differences", "removal") for ending in ("svg", "png")
    ]
    (tmp_path / "report").mkdir()
    for path in stale:
        path.touch()
    page = write_report(tmp_path).read_text()
    assert not [path for path in stale if path.exists()]
    assert (tmp_path / "report" / "test_scores.svg").is_file()
    assert 'id="differences"' not in page


def test_without_rates_the_table_of_them_is_empty(whole):
    assert table(whole, "rates").empty
    assert "Learning rates</h3>" not in (whole / "report.html").read_text()


def test_what_is_missing_is_said(settings, made_up, tmp_path):
    made_up["failing"] = {
        "pretraining autoencoder": InputError("no memory."),
        "random, train size 1, seed 1": InputError("scan.nii.gz: found damage."),
        "segmentation, random, train size 1, seed 0": InputError("first."),
    }
    run_comparison(settings(seeds=3))
    page = write_report(tmp_path).read_text()
    assert "segmentation, random, train size 1: seed 1 is missing: scan.nii.gz: found damage." in page
    assert "segmentation, autoencoder, train size 1: seed 0 is missing: its pretraining failed: no memory." in page
    assert "segmentation, autoencoder, train size 1: no run is complete" in page
    assert "segmentation: no baselines; the run that scores them is not complete." in page
    statistics = table(tmp_path, "statistics").set_index(["initialisation", "reference"])
    assert statistics.subjects.to_dict() == {
        ("artifact_removal", "random"): 6,
        ("artifact_removal", "autoencoder"): 0,
        ("autoencoder", "random"): 0,
    }
    # only the seed that both have
    assert statistics.seeds["artifact_removal", "random"] == 1
    assert "One seed" in statistics.sentence["artifact_removal", "random"]
    assert "nothing can be said" in page


def test_scores_against_the_truth_stand_beside_those_against_the_labels(
    settings, truth, made_up, tmp_path, tables_alone
):
    run_comparison(settings(seeds=1, truth=truth))
    # of another seed, without a truth
    run_comparison(settings(seeds=2))
    page = write_report(tmp_path).read_text()
    assert "Against the truth" not in page
    assert not len(table(tmp_path, "truth"))
    Store(tmp_path).set_protocol(Store(tmp_path).protocol(), matrix.make_plan(settings(truth=truth)).truths)
    page = write_report(tmp_path).read_text()
    assert "Against the truth" in page
    assert "random, train size 1: seed 1 is not scored against the truth yet." in page
    # both means are those of the seed that both have
    found = table(tmp_path, "truth")
    assert set(found["method"]) == {"random", "artifact_removal", "autoencoder", "atlas"}
    np.testing.assert_allclose(found["against_truth"], found["against_labels"] - 0.1, atol=1e-6)
    assert set(table(tmp_path, "scans_by_truth")["seed"]) == {0}
    # the question is decided by the labels alone
    assert len(table(tmp_path, "statistics")) == 3
    assert set(table(tmp_path, "scans")["seed"]) == {0, 1}


def test_one_test_subject_and_scores_that_are_all_the_same(settings, made_up, tmp_path, monkeypatch):
    made_up["subjects"] = 1
    run_comparison(settings(arms=("random", "artifact_removal")))
    assert "One test subject: its difference says nothing about others" in write_report(tmp_path).read_text()

    made_up.update(subjects=6, noise=0.0)
    run_comparison(settings(arms=("random", "undersampling"), steps=9))
    page = write_report(tmp_path).read_text()
    assert "All 6 subjects have the same difference, +0: there is nothing to test." in page


def test_a_report_of_nothing_yet_and_of_a_wrong_folder(settings, made_up, tmp_path):
    made_up["failing"] = {"": InputError("nothing works.")}
    run_comparison(settings())
    page = write_report(tmp_path).read_text()
    assert "There are no scores to compare." in page
    assert "its pretraining failed: nothing works." in page

    done = CliRunner().invoke(app, ["report", "--out", str(tmp_path / "elsewhere")])
    assert done.exit_code not in (0, None)
    assert "found no mlflow.db, expected the folder of 'python -m scripts compare'" in str(done.exception)


def test_a_folder_without_a_comparison(settings, tmp_path):
    with pytest.raises(InputError, match="found no comparison, expected that of"):
        write_report(tmp_path)


def test_only_the_last_comparison_is_reported(settings, made_up, tmp_path, tables_alone):
    run_comparison(settings())
    run_comparison(settings(arms=("random",), steps=12))
    write_report(tmp_path)
    assert set(table(tmp_path, "scans").initialisation) == {"random"}
    run_comparison(settings())
    write_report(tmp_path)
    assert set(table(tmp_path, "scans").initialisation) == {"random", "artifact_removal", "autoencoder"}
