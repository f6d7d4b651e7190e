"""Honest statistics of a comparison: subjects are the sample, and a sentence says no more than the numbers do.

A score is first averaged over the classes, scans, seeds and folds of a subject. Pooling seeds and subjects would count
one subject several times (pseudo-replication).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
"""Largest p that counts as significant, after Holm's correction."""

CONFIDENCE = 0.95
"""Level of the intervals."""

RESAMPLES = 9999
"""Bootstrap samples of an interval, scipy's default."""

FEW = 8
"""Subjects below which an interval is called too narrow: with 5, it holds the true mean in about 85 of 100 trials."""

REFERENCES = {
    "artifact_removal": ("random", "random_long", "autoencoder", "autoencoder_without_skips", "masked"),
    **dict.fromkeys(("undersampling", "physical", "light", "strong"), ("random", "artifact_removal")),
    **dict.fromkeys(("encoder_only", "slow_transfer", "without_warmup"), ("random", "artifact_removal")),
    "head_first": ("random", "artifact_removal", "autoencoder_head_first"),
    "autoencoder_head_first": ("random", "autoencoder"),
}
"""What an initialisation is compared with; any other than these with ``random`` alone."""

SETTING = ["task", "train_size", "metric"]
"""Columns that two initialisations must share to be compared."""

RUN = ["subject", "fold", "seed"]
"""Columns that tell the scores of one initialisation apart; two initialisations are paired by them."""


def subject_scores(scans: pd.DataFrame) -> pd.DataFrame:
    """Average the scores of a run over the classes of each scan and then over the scans of each subject.

    Args:
        scans: columns ``SETTING``, ``initialisation``, ``RUN``, ``scan``, ``class`` and ``value``. A value that is NaN
            is a class or a scan without voxels, and does not count.

    Returns:
        one row for each run and subject: ``SETTING``, ``initialisation``, ``RUN`` and ``value``.
    """
    return mean_of_scans(scans, [*SETTING, "initialisation", *RUN])


def mean_of_scans(scans: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Average over the classes of each scan and then over scans, for each combination of ``columns``."""
    by_scan = scans.groupby([*columns, "scan"], as_index=False)["value"].mean()
    return by_scan.groupby([*columns], as_index=False)["value"].mean()


def pair(scores: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Average two initialisations over the seeds and folds that both have, by subject.

    Args:
        scores: of one setting, as :func:`subject_scores` gives them.
        first: an initialisation.
        second: another.

    Returns:
        one row for each subject that both have: columns ``first``, ``second`` and ``seeds``, the number of scores that
        were averaged.
    """
    table = _runs_of_both(scores, first, second)
    grouped = table.groupby("subject")
    means = grouped.mean()
    return pd.DataFrame({"first": means[first], "second": means[second], "seeds": grouped.size()})


def _runs_of_both(scores: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    wide = scores.pivot(index=RUN, columns="initialisation", values="value")
    return wide.reindex(columns=[first, second]).dropna()


def count_seeds(scores: pd.DataFrame, first: str, second: str, lower_is_better: bool) -> dict[str, int]:
    """Count the seeds in which the mean over subjects is better, and those in which it is worse.

    The interval says how subjects vary, and not how seeds do: if a seed points the other way, another one may too.

    Args:
        scores: of one setting, as :func:`subject_scores` gives them.
        first: an initialisation.
        second: what it is compared with.
        lower_is_better: as for errors and losses.

    Returns:
        ``seeds_ahead`` and ``seeds_behind``. A seed in which both are the same is neither, nor is one that lacks a
        subject, and where a score is not finite no seed is.
    """
    table = _runs_of_both(scores, first, second)
    gain = (table[first] - table[second]) * (-1 if lower_is_better else 1)
    if not np.isfinite(gain).all():
        return {"seeds_ahead": 0, "seeds_behind": 0}
    # seeds that tested different subjects would differ by these
    by_seed = gain.groupby(["subject", "seed"]).mean().unstack("seed").dropna(axis=1)
    gain = by_seed.mean().round(12)
    return {"seeds_ahead": int((gain > 0).sum()), "seeds_behind": int((gain < 0).sum())}


def interval(differences: np.ndarray, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Bootstrap interval of the mean over subjects, bias-corrected and accelerated.

    With few subjects it is too narrow: with 16 it holds the true mean in about 91 of 100 trials, with 8 in 88.

    Args:
        differences: one for each subject.
        resamples: number of bootstrap samples; the same differences get the same interval each time.

    Returns:
        limits; NaN for fewer than two subjects and where all differences are the same.
    """
    if len(differences) < 2 or np.ptp(differences) == 0:
        return math.nan, math.nan
    found = stats.bootstrap(
        (differences,), np.mean, confidence_level=CONFIDENCE, n_resamples=resamples, method="BCa", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def compare_pair(
    first: np.ndarray, second: np.ndarray, lower_is_better: bool, resamples: int = RESAMPLES
) -> dict[str, float]:
    """Compare the scores of the same subjects under two initialisations.

    Args:
        first: scores, one for each subject.
        second: scores of the other initialisation.
        lower_is_better: as for errors and losses; the tests ask whether ``first`` is better.
        resamples: see :func:`interval`.

    Returns:
        ``subjects``; ``mean`` and ``reference_mean``; ``difference`` of the means with ``low`` and ``high``;
        ``percent`` of the reference's mean; ``d_z``, the mean difference over the standard deviation of the
        differences; one-sided ``p_t`` (paired t-test) and ``p_wilcoxon`` (signed ranks); ``least_wilcoxon``, the
        smallest p that signed ranks can have with so many subjects. What cannot be computed is NaN.
    """
    count = len(first)
    differences = first - second
    low, high = interval(differences, resamples)
    varies = count > 1 and np.ptp(differences) > 0
    better = "less" if lower_is_better else "greater"
    mean = float(differences.mean()) if count else math.nan
    reference = float(second.mean()) if count else math.nan
    with warnings.catch_warnings():
        # scipy says that it takes the normal approximation where there are ties
        warnings.simplefilter("ignore")
        p_t = float(stats.ttest_rel(first, second, alternative=better).pvalue) if varies else math.nan
        p_wilcoxon = float(stats.wilcoxon(first, second, alternative=better).pvalue) if varies else math.nan
    return {
        "subjects": count,
        "mean": float(first.mean()) if count else math.nan,
        "reference_mean": reference,
        "difference": mean,
        "low": low,
        "high": high,
        "percent": 100 * mean / reference if reference else math.nan,
        "d_z": mean / float(differences.std(ddof=1)) if varies else math.nan,
        "p_t": p_t,
        "p_wilcoxon": p_wilcoxon,
        "least_wilcoxon": 0.5**count if count else math.nan,
    }


def contrasts(initialisations: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what is compared with what."""
    for one in initialisations:
        for other in REFERENCES.get(one, ("random",)):
            if one != other and other in initialisations:
                yield one, other


def compare(
    scores: pd.DataFrame,
    initialisations: Sequence[str],
    lower_is_better: dict[str, bool],
    leading: dict[str, str],
    resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Compare initialisations in each task, number of training subjects and metric.

    Args:
        scores: as :func:`subject_scores` gives them.
        initialisations: those that were asked for, whether or not they have scores.
        lower_is_better: by metric.
        leading: metric by task. The contrasts of these metrics are one family for Holm's correction of the t-tests;
            those of each other metric are a family of its own.
        resamples: see :func:`interval`.

    Returns:
        one row for each contrast, with what :func:`compare_pair` gives, ``p_holm``, ``family``, ``seeds`` (the fewest
        scores that were averaged in a subject), what :func:`count_seeds` gives, and ``sentence``.
    """
    rows: list[dict[str, Any]] = []
    for (task, train_size, metric), group in scores.groupby(SETTING, sort=True):
        for first, second in contrasts(initialisations):
            pairs = pair(group, first, second)
            rows.append(
                {
                    **{"task": task, "train_size": train_size, "metric": metric},
                    "family": "leading" if leading[task] == metric else metric,
                    **{"initialisation": first, "reference": second},
                    "seeds": int(pairs["seeds"].min()) if len(pairs) else 0,
                    **count_seeds(group, first, second, lower_is_better[metric]),
                    **compare_pair(
                        pairs["first"].to_numpy(), pairs["second"].to_numpy(), lower_is_better[metric], resamples
                    ),
                }
            )
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table["p_holm"] = table.groupby("family")["p_t"].transform(holm)
    table["tests"] = table.groupby("family")["p_t"].transform("count")
    table["sentence"] = [sentence(row, lower_is_better[row["metric"]]) for row in table.to_dict("records")]
    return table


def holm(p_values: pd.Series) -> pd.Series:
    """Correct the p-values of a family by Holm's method; NaN is no test and stays NaN."""
    tested = p_values.dropna()
    corrected = p_values.copy()
    if len(tested):
        corrected[tested.index] = multipletests(tested, alpha=ALPHA, method="holm")[1]
    return corrected


def sentence(row: dict[str, Any], lower_is_better: bool) -> str:
    """Say what a contrast shows, and what it cannot show.

    Args:
        row: of the table that :func:`compare` makes.
        lower_is_better: of its metric.
    """
    first, second, subjects = row["initialisation"], row["reference"], row["subjects"]
    if subjects == 0:
        return f"No subject has a score of both {first} and {second}: nothing can be said."
    if subjects == 1:
        return "One test subject: its difference says nothing about others, so there is no interval and no test."
    if not math.isfinite(row["difference"]):
        return f"A score of {first} or {second} is not finite: nothing can be said."
    if math.isnan(row["low"]):
        return f"All {subjects} subjects have the same difference, {row['difference']:+.4g}: there is nothing to test."
    better = (row["difference"] < 0) == lower_is_better and row["difference"] != 0
    excludes = row["low"] > 0 or row["high"] < 0
    if not excludes:
        found = f"No difference between {first} and {second} is shown: the interval holds 0."
    elif not better:
        found = (
            f"{first} is worse than {second} on these subjects: the interval is on that side of 0. "
            "The tests only ask whether it is better."
        )
    elif row["p_holm"] < ALPHA:
        found = (
            f"{first} is better than {second} on these subjects: "
            f"the interval excludes 0, and p after Holm is below {ALPHA}."
        )
    else:
        found = (
            f"{first} may be better than {second}: the interval excludes 0, "
            f"but after Holm's correction for {row['tests']} tests the t-test does not reach {ALPHA}."
        )
    against = row["seeds_behind"] if better else row["seeds_ahead"]
    if excludes and against and row["seeds"] > 1:
        found += f" In {against} of {row['seeds']} seeds {first} is {'worse' if better else 'better'} than {second}."
    if subjects < FEW:
        found += f" With {subjects} subjects the interval is narrower than it should be."
    if row["least_wilcoxon"] > ALPHA:
        found += (
            f" With {subjects} subjects the signed ranks cannot reach {ALPHA}: "
            f"their smallest p is {row['least_wilcoxon']:.3g}."
        )
    if row["seeds"] < 2:
        found += " One seed: another may give another result."
    return found
