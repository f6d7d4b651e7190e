"""The page of results: its tables are those of its CSV files, and pandas and scipy alone give these from the scores."""

import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

DOCS = Path(__file__).parents[1] / "docs"
SETTING = ["comparison", "task", "train_size", "metric"]
SECTIONS = {"100": "100 steps", "200": "200 steps", "long": "Random weights, trained longer", "low": "Lower"}
"""Beginning of the heading of each comparison's section."""


def table(name):
    return pd.read_csv(DOCS / "results" / f"{name}.csv", dtype={"comparison": str})


def page():
    return (DOCS / "results.md").read_text()


def sections():
    return dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", page(), re.MULTILINE | re.DOTALL))


def leading(reference):
    rows = table("statistics").query("family == 'leading' and initialisation == 'artifact_removal'")
    return rows[rows["comparison"].isin(["100", "200"]) & (rows["reference"] == reference)]


def test_each_section_has_the_tables_of_its_comparison_and_no_others():
    found = "\n".join(runpy.run_path(str(DOCS / "results" / "join.py"))["lines"]())
    tables = dict.fromkeys(SECTIONS, "")
    for name, rows in re.findall(r"^(\w+), \w+\n\n((?:\|.*\n?)+)", found, re.MULTILINE):
        tables[name] += rows.strip() + "\n"
    assert tables["100"].count("\n") > 30
    for name, title in SECTIONS.items():
        (section,) = [text for heading, text in sections().items() if heading.startswith(title)]
        assert "".join(re.findall(r"^\|.*\n", section, re.MULTILINE)) == tables[name]


def test_the_statistics_are_those_of_the_scores_of_subjects():
    scores = table("scores")
    by_seed = scores.groupby([*SETTING, "seed", "initialisation"])["value"].mean().unstack("initialisation")
    means = scores.groupby([*SETTING, "subject", "initialisation"])["value"].mean().unstack("initialisation")
    statistics = table("statistics")
    assert statistics.groupby("comparison")["metric"].nunique().min() > 1
    for _, row in statistics.iterrows():
        here, seeds = means.loc[tuple(row[SETTING])], by_seed.loc[tuple(row[SETTING])]
        first, second = here[row["initialisation"]], here[row["reference"]]
        lower = row["task"] == "direction" or row["metric"] == "test_loss"
        assert len(here) == row["subjects"] == 18
        assert len(seeds) == row["seeds"] == 3
        assert (first - second).mean() == pytest.approx(row["difference"], rel=1e-4)
        assert 100 * (first.mean() / second.mean() - 1) == pytest.approx(row["percent"], rel=1e-3)
        assert (first - second).mean() / (first - second).std() == pytest.approx(row["d_z"], rel=1e-4)
        test = stats.ttest_rel(first, second, alternative="less" if lower else "greater")
        assert test.pvalue == pytest.approx(row["p_t"], rel=1e-4)
        gain = (seeds[row["initialisation"]] - seeds[row["reference"]]) * (-1 if lower else 1)
        assert ((gain > 0).sum(), (gain < 0).sum()) == (row["seeds_ahead"], row["seeds_behind"])
        if row["family"] == "leading":
            bootstrap = stats.bootstrap((first - second,), np.mean, method="BCa", rng=1).confidence_interval
            width = row["high"] - row["low"]
            np.testing.assert_allclose((row["low"], row["high"]), bootstrap, rtol=0, atol=0.1 * width)


def test_p_is_corrected_over_the_contrasts_of_each_comparison():
    for _, family in table("statistics").groupby(["comparison", "family"]):
        p = np.sort(family["p_t"].to_numpy())
        # Holm: the smallest of m is multiplied by m, the next by m - 1, and none is below the one before
        corrected = np.minimum(1, np.maximum.accumulate(p * np.arange(len(p), 0, -1)))
        np.testing.assert_allclose(np.sort(family["p_holm"].to_numpy()), corrected, rtol=1e-4)
        assert (family["tests"] == len(family)).all()


def test_each_start_has_the_rate_that_validates_best_on_the_first_seed():
    place = ["comparison", "task", "train_size", "initialisation"]
    rates = table("rates")
    for (_, task, *_), tried in rates.groupby(place):
        best = tried["value"].min() if task == "direction" else tried["value"].max()
        assert tried.loc[tried["chosen"], "value"].tolist() == [best]
    assert set(rates[place].itertuples(index=False)) == set(table("scores")[place].itertuples(index=False))


def test_the_page_counts_as_the_tables_do():
    better, worse, agreed = {}, {}, {}
    for reference in ("random", "autoencoder"):
        rows = leading(reference).set_index(SETTING)
        error = rows.index.get_level_values("task") == "direction"
        assert len(rows) == 18
        good = np.where(error, -rows["high"], rows["low"]) > 0
        worse[reference] = np.sum(np.where(error, -rows["low"], rows["high"]) < 0)
        better[reference] = set(rows.index[good & (rows["p_holm"] < 0.05)])
        agreed[reference] = len(better[reference] & set(rows.index[rows["seeds_behind"] == 0]))
    random, autoencoder = better["random"], better["autoencoder"]
    both = len(random & autoencoder)
    text = re.sub(r"\s+", " ", page())
    assert f"better than random weights in {len(random)} of 18 comparisons" in text
    assert f"better than an autoencoder in {len(autoencoder)} of the 18, and better than both in {both}" in text
    assert (worse["random"], worse["autoencoder"]) == (2, 3)
    assert "in two it is worse" in text
    assert "The autoencoder is ahead in three" in text
    agree = (
        f"agree in {agreed['random']} of the {len(random)}, and in {agreed['autoencoder']} of the {len(autoencoder)}"
    )
    assert agree in text
