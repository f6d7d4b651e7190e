"""Statistics of a comparison: they agree with scipy and statsmodels, keep their error rates, and know their limits."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from scripts.comparison.statistics import (
    ALPHA,
    compare,
    compare_pair,
    contrasts,
    count_seeds,
    holm,
    pair,
    subject_scores,
)

LOWER = {"val_macro_f1": False, "val_angular_error": True}
LEADING = {"segmentation": "val_macro_f1", "direction": "val_angular_error"}


def scan_table(effects, subjects=8, seeds=3, task="segmentation", metric="val_macro_f1", train_size=1, rng=None):
    """Scores of scans: a part of the subject, one of the seed, noise, and the effect of each initialisation."""
    rng = np.random.default_rng(0) if rng is None else rng
    base = rng.normal(0.7, 0.05, subjects)
    return pd.DataFrame(
        [
            {
                **{"task": task, "train_size": train_size, "metric": metric, "initialisation": name},
                **{"subject": f"sub-{index:02d}", "fold": 0, "seed": seed, "scan": f"sub-{index:02d}", "class": ""},
                "value": base[index] + effect + rng.normal(0, 0.02),
            }
            for name, effect in effects.items()
            for seed in range(seeds)
            for index in range(subjects)
        ]
    )


def compared(table, arms=("random", "artifact_removal"), **options):
    return compare(subject_scores(table), arms, LOWER, LEADING, resamples=200, **options)


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_tests_and_effect_sizes_agree_with_scipy_and_statsmodels(lower_is_better):
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.72, 0.05, 12), rng.normal(0.7, 0.05, 12)
    found = compare_pair(first, second, lower_is_better, resamples=999)
    difference = DescrStatsW(first - second)
    _, p_value, _ = difference.ttest_mean(0, alternative="smaller" if lower_is_better else "larger")
    assert found["p_t"] == pytest.approx(p_value)
    assert found["d_z"] == pytest.approx(difference.mean / math.sqrt(difference.var_ddof(1)))
    # signed ranks, counted: the exact distribution of the sum of the ranks of positive differences
    ranks = stats.rankdata(np.abs(first - second))
    positive = ranks[first > second].sum()
    sums = np.array([sum(rank for bit, rank in enumerate(ranks) if mask >> bit & 1) for mask in range(2**12)])
    expected = (sums <= positive).mean() if lower_is_better else (sums >= positive).mean()
    assert found["p_wilcoxon"] == pytest.approx(expected)
    reference = stats.bootstrap((first - second,), np.mean, n_resamples=999, method="BCa", rng=0).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((reference.low, reference.high))
    assert found["percent"] == pytest.approx(100 * (first.mean() / second.mean() - 1))


def test_holm_agrees_with_statsmodels_and_leaves_out_what_was_not_tested():
    p_values = pd.Series([0.01, math.nan, 0.04, 0.03])
    expected = multipletests([0.01, 0.04, 0.03], method="holm")[1]
    found = holm(p_values)
    assert math.isnan(found[1])
    np.testing.assert_allclose(found.dropna(), expected)
    np.testing.assert_allclose(expected, [0.03, 0.06, 0.06])


def test_without_an_effect_five_of_a_hundred_comparisons_reject():
    rng = np.random.default_rng(2)
    # subjects differ, which pairs of them cancel; two seeds are averaged
    of_subject = rng.normal(0.7, 0.05, (1000, 8))
    first, second = (of_subject + rng.normal(0, 0.02, (2, 1000, 8)).mean(axis=0) for _ in range(2))
    rows = pd.DataFrame(compare_pair(*pair, False, resamples=19) for pair in zip(first, second, strict=True))
    # three standard deviations of a binomial with 1,000 trials are 0.021; signed ranks have few values, so reject less
    assert 0.029 < (rows["p_t"] < ALPHA).mean() < 0.071
    assert 0.02 < (rows["p_wilcoxon"] < ALPHA).mean() < 0.071
    # a family of tests rejects once in twenty families
    assert (holm(rows["p_t"]) < ALPHA).sum() <= 1


def test_pooling_seeds_and_subjects_would_reject_more_often():
    """A subject that pretraining suits is one subject, however many seeds it has."""
    rng = np.random.default_rng(3)
    averaged, pooled = 0, 0
    for _ in range(200):
        of_subject = rng.normal(0, 0.02, (8, 1))
        differences = of_subject + rng.normal(0, 0.002, (8, 4))
        averaged += compare_pair(differences.mean(axis=1), np.zeros(8), False, resamples=19)["p_t"] < ALPHA
        pooled += compare_pair(differences.ravel(), np.zeros(32), False, resamples=19)["p_t"] < ALPHA
    assert averaged / 200 < 0.1
    assert pooled / 200 > 0.15


def test_a_known_effect_is_found_with_the_coverage_of_its_interval():
    rng = np.random.default_rng(4)
    covered, better = 0, 0
    for _ in range(300):
        differences = rng.normal(0.01, 0.01, 16)
        found = compare_pair(0.7 + differences, np.full(16, 0.7), False, resamples=999)
        covered += found["low"] <= 0.01 <= found["high"]
        better += found["p_t"] < ALPHA
    # BCa holds about 91 % with 16 subjects; two standard deviations of 300 trials are 3 %
    assert 0.86 < covered / 300 < 0.97
    assert better / 300 > 0.95


def test_classes_scans_and_seeds_are_averaged_within_a_subject_first():
    rows = [
        # subject, seed, scan, class, value of random, value of the other
        ("sub-01", 0, "sub-01_ses-1", "a", 0.5, 0.6),
        ("sub-01", 0, "sub-01_ses-1", "b", math.nan, math.nan),
        ("sub-01", 0, "sub-01_ses-2", "a", 0.3, 0.5),
        ("sub-01", 0, "sub-01_ses-2", "b", 0.1, 0.3),
        ("sub-01", 1, "sub-01_ses-1", "a", 0.9, 0.9),
        ("sub-02", 0, "sub-02", "a", 0.4, 0.4),
    ]
    table = pd.DataFrame(
        {
            **{"task": "segmentation", "train_size": 1, "metric": "val_macro_f1", "initialisation": name},
            **{"subject": subject, "fold": 0, "seed": seed, "scan": scan, "class": label, "value": values[column]},
        }
        for column, name in enumerate(["random", "artifact_removal"])
        for subject, seed, scan, label, *values in rows
    )
    pairs = pair(subject_scores(table), "artifact_removal", "random")
    # seed 0: scans 0.5 and (0.3 + 0.1) / 2; seed 1: 0.9
    assert pairs.loc["sub-01", "second"] == pytest.approx(((0.5 + 0.2) / 2 + 0.9) / 2)
    assert pairs.loc["sub-01", "first"] == pytest.approx(((0.6 + 0.4) / 2 + 0.9) / 2)
    assert pairs["seeds"].tolist() == [2, 1]


def test_a_seed_or_a_value_that_one_initialisation_lacks_counts_for_none():
    table = scan_table({"random": 0.0, "artifact_removal": 0.01})
    arm = table["initialisation"] == "artifact_removal"
    without_seed = table[~(arm & (table["seed"] == 2))]
    (row,) = compared(without_seed).to_dict("records")
    assert (row["subjects"], row["seeds"]) == (8, 2)
    kept = compared(table[table["seed"] < 2]).to_dict("records")[0]
    assert row["difference"] == kept["difference"]
    missing = table.copy()
    missing.loc[arm & (table["subject"] == "sub-03"), "value"] = math.nan
    assert compared(missing)["subjects"].tolist() == [7]


def test_an_initialisation_without_scores_is_said_to_be_missing():
    table = scan_table({"random": 0.0, "artifact_removal": 0.01})
    rows = compared(table, ("random", "artifact_removal", "autoencoder"))
    pairs = list(zip(rows["initialisation"], rows["reference"], rows["subjects"], strict=True))
    assert pairs == [
        ("artifact_removal", "random", 8),
        ("artifact_removal", "autoencoder", 0),
        ("autoencoder", "random", 0),
    ]
    assert "nothing can be said" in rows["sentence"][2]
    assert math.isnan(rows["p_holm"][2])
    # what could not be tested is no test of the family
    assert rows["tests"].tolist() == [1, 1, 1]
    assert compare(subject_scores(table).iloc[:0], ["random"], LOWER, LEADING).empty


@pytest.mark.parametrize(
    ("subjects", "effect", "noise", "expected"),
    [
        (1, 0.1, 0.0, "One test subject"),
        (8, 0.0, 0.0, "All 8 subjects have the same difference, +0"),
        (4, 0.1, 0.01, "With 4 subjects the signed ranks cannot reach 0.05: their smallest p is 0.0625."),
        (16, 0.1, 0.01, "artifact_removal is better than random on these subjects"),
        (16, -0.1, 0.01, "artifact_removal is worse than random on these subjects"),
        (16, 0.0, 0.01, "No difference between artifact_removal and random is shown: the interval holds 0."),
    ],
)
def test_the_sentence_says_what_the_numbers_do(subjects, effect, noise, expected):
    rng = np.random.default_rng(7)
    table = scan_table({"random": 0.0, "artifact_removal": 0.0}, subjects, 1)
    arm = table["initialisation"] == "artifact_removal"
    table.loc[arm, "value"] = table.loc[~arm, "value"].to_numpy() + (effect + rng.normal(0, noise, subjects)).round(12)
    if noise == 0:
        table["value"] = table["value"].round(2)
        table.loc[arm, "value"] = table.loc[~arm, "value"].to_numpy()
    (row,) = compared(table).to_dict("records")
    assert expected in row["sentence"]
    assert "One seed" in row["sentence"] or subjects == 1 or noise == 0


def test_a_difference_that_only_survives_without_holm_is_called_possible():
    strong = scan_table({"random": 0.0, "artifact_removal": 0.012}, 16)
    weak = [
        scan_table({"random": 0.0, "artifact_removal": 0.0}, 16, train_size=size, rng=np.random.default_rng(size))
        for size in range(2, 30)
    ]
    alone = compared(strong)["p_t"][0]
    rows = compared(pd.concat([strong.assign(value=strong["value"]), *weak]))
    assert rows["p_t"][0] == alone < ALPHA
    possible = rows[(rows["low"] > 0) & (rows["p_holm"] >= ALPHA)]
    assert len(possible)
    assert possible["sentence"].str.contains("may be better than random").all()
    assert (rows["tests"] == 29).all()


@pytest.mark.parametrize(("effect", "word"), [(1, "is better than random"), (-1, "is worse than random")])
@pytest.mark.parametrize(("task", "metric"), zip(LEADING, LOWER, strict=True))
def test_seeds_that_point_the_other_way_are_counted_and_said(task, metric, effect, word):
    table = scan_table({"random": 0.0, "artifact_removal": 0.0}, 16, task=task, metric=metric)
    arm = table["initialisation"] == "artifact_removal"
    # by seed, in the direction of the whole, but for the second
    gain = table["seed"].map({0: 0.3, 1: -0.1, 2: 0.2})[arm] * effect * (-1 if LOWER[metric] else 1)
    table.loc[arm, "value"] += gain
    (row,) = compared(table).to_dict("records")
    assert (row["seeds_ahead"], row["seeds_behind"]) == ((2, 1) if effect > 0 else (1, 2))
    assert word in row["sentence"]
    other = "worse" if effect > 0 else "better"
    assert f"In 1 of 3 seeds artifact_removal is {other} than random." in row["sentence"]
    (row,) = compared(table[table["seed"] != 1]).to_dict("records")
    assert (row["seeds_ahead"], row["seeds_behind"]) == ((2, 0) if effect > 0 else (0, 2))
    assert "seeds" not in row["sentence"]


def counted_seeds(gains):
    """Seeds ahead and behind, by the gain of artifact removal in each seed for each of four subjects."""
    rows = [
        {
            "subject": f"sub-{subject}",
            "fold": 0,
            "seed": seed,
            "initialisation": arm,
            "value": 0.5 + (gain if arm != "random" else 0),
        }
        for seed, of_seed in enumerate(gains)
        for subject, gain in enumerate(of_seed)
        for arm in ("random", "artifact_removal")
        if not math.isnan(gain)
    ]
    found = count_seeds(pd.DataFrame(rows), "artifact_removal", "random", False)
    return found["seeds_ahead"], found["seeds_behind"]


def test_a_seed_counts_by_its_mean_over_all_subjects():
    assert counted_seeds([[0.1] * 4, [-0.1] * 4, [0] * 4]) == (1, 1)
    # the mean and not the median
    assert counted_seeds([[0.1, 0.1, 0.1, -0.9], [0.1] * 4]) == (1, 1)
    # the same but for the last digit
    assert counted_seeds([[0.1, -0.1 + 1e-17, 0.2, -0.2 - 1e-17]]) == (0, 0)
    # the second seed lacks two subjects
    assert counted_seeds([[0.1, 0.1, -0.05, -0.05], [math.nan, math.nan, -0.05, -0.05]]) == (1, 0)
    assert counted_seeds([[0.1] * 4, [math.inf, 0.1, 0.1, 0.1]]) == (0, 0)


def test_scores_that_are_not_finite_say_nothing():
    table = scan_table({"random": 0.0, "artifact_removal": 0.01})
    table.loc[table.index[-1], "value"] = math.inf
    (row,) = compared(table).to_dict("records")
    assert row["sentence"] == "A score of artifact_removal or random is not finite: nothing can be said."


def test_less_is_better_where_a_metric_is_an_error():
    table = scan_table(
        {"random": 20.0, "artifact_removal": 18.0}, task="direction", metric="val_angular_error", subjects=16
    )
    (row,) = compared(table).to_dict("records")
    assert row["difference"] < 0
    assert row["p_t"] < 1e-6
    assert "artifact_removal is better than random" in row["sentence"]
    assert row["percent"] == pytest.approx(100 * row["difference"] / row["reference_mean"])


def test_the_leading_metrics_of_all_tasks_are_one_family_and_each_other_metric_is_its_own():
    tables = [
        scan_table({"random": 0.0, "artifact_removal": 0.01}),
        scan_table({"random": 20.0, "artifact_removal": 19.9}, task="direction", metric="val_angular_error"),
        scan_table({"random": 0.5, "artifact_removal": 0.6}, metric="val_other"),
    ]
    rows = compare(
        subject_scores(pd.concat(tables)),
        ["random", "artifact_removal"],
        {**LOWER, "val_other": False},
        LEADING,
        resamples=200,
    )
    families = dict(zip(rows["metric"], rows["family"], strict=True))
    assert families == {"val_macro_f1": "leading", "val_angular_error": "leading", "val_other": "val_other"}
    leading = rows[rows["family"] == "leading"]
    np.testing.assert_allclose(leading["p_holm"], multipletests(leading["p_t"], method="holm")[1])
    other = rows[rows["family"] == "val_other"]
    np.testing.assert_allclose(other["p_holm"], other["p_t"])


def test_what_is_compared_with_what():
    assert list(contrasts(["random", "masked"])) == [("masked", "random")]
    assert list(contrasts(["artifact_removal", "masked", "undersampling"])) == [
        ("artifact_removal", "masked"),
        ("undersampling", "artifact_removal"),
    ]
    assert list(contrasts(["autoencoder", "head_first", "autoencoder_head_first"])) == [
        ("head_first", "autoencoder_head_first"),
        ("autoencoder_head_first", "autoencoder"),
    ]
    assert list(contrasts(["random", "artifact_removal", "random_long"])) == [
        ("artifact_removal", "random"),
        ("artifact_removal", "random_long"),
        ("random_long", "random"),
    ]
