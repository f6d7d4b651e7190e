"""Figures of a comparison: each takes the results and returns a figure, with one panel for each task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.comparison.results import Results
from scripts.comparison.statistics import interval, subject_scores

WIDTH, HEIGHT = 3.6, 2.8
"""Size of a panel in inches."""

LETTER, LINE = 0.075, 0.65
"""Width of a letter of a legend, and of the line before a name, in inches."""


def colours(results: Results) -> dict[str, tuple[float, float, float]]:
    """Return one colour for each initialisation, the same in all figures."""
    return dict(zip(results.initialisations, colormaps["tab20"].colors[::2] * 2, strict=False))  # type: ignore[attr-defined]


def panels(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Return a figure with panels: tasks side by side, numbers of training subjects below each other."""
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _legend(figure: Figure, axes: np.ndarray) -> None:
    found = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if found:
        # as many beside each other as there is room for the longest name, with its line
        widest = max(map(len, found)) * LETTER + LINE
        columns = max(1, min(len(found), int(figure.get_figwidth() // widest)))
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def _curves(results: Results, curves: pd.DataFrame, ylabel: Callable[[str], str]) -> Figure:
    """Draw the mean over runs and the spread from the lowest to the highest, by step."""
    tasks, sizes = results.settings["task"].unique(), sorted(results.settings["train_size"].unique())
    figure, axes = panels(len(sizes), len(tasks))
    for line, task in zip(axes.T, tasks, strict=True):
        for axis, size in zip(line, sizes, strict=True):
            here = curves[(curves["task"] == task) & (curves["train_size"] == size)]
            for name, colour in colours(results).items():
                spread = here[here["initialisation"] == name].groupby("step")["value"].agg(["mean", "min", "max"])
                if len(spread):
                    axis.plot(spread.index, spread["mean"], color=colour, label=name, marker=".")
                    axis.fill_between(spread.index, spread["min"], spread["max"], color=colour, alpha=0.15, linewidth=0)
            axis.set(title=f"{task}, train size {size}", xlabel="step", ylabel=ylabel(task))
    _legend(figure, axes)
    return figure


def validation_loss(results: Results) -> Figure:
    """Draw the validation loss over the steps."""
    return _curves(results, results.curves[results.curves["metric"] == "val_loss"], lambda task: "validation loss")


def score_by_step(results: Results) -> Figure:
    """Draw the leading metric on the validation subjects over the steps."""
    leading = results.curves["task"].map(results.leading)
    return _curves(results, results.curves[results.curves["metric"] == leading], lambda task: results.leading[task])


def loss_gaps(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the validation loss minus the training loss, at the epochs that have both."""
    index = ["task", "train_size", "initialisation", "fold", "seed", "epoch", "step"]
    losses = curves[curves["metric"].isin(["train_loss", "val_loss"])]
    if losses.empty:
        return pd.DataFrame(columns=[*index, "value"])
    both = losses.pivot(index=index, columns="metric", values="value").dropna()
    return (both["val_loss"] - both["train_loss"]).rename("value").reset_index()


def loss_gap(results: Results) -> Figure:
    """Draw the gap of validation and training loss over the steps."""
    return _curves(results, loss_gaps(results.curves), lambda task: "validation - training loss")


def _leading_scores(results: Results) -> pd.DataFrame:
    scores = subject_scores(results.scans)
    return scores[scores["metric"] == scores["task"].map(results.tested)]


def test_scores(results: Results) -> Figure:
    """Draw the score of each test subject, and the mean over subjects with its interval."""
    scores = _leading_scores(results)
    tasks, sizes = results.settings["task"].unique(), sorted(results.settings["train_size"].unique())
    figure, axes = panels(len(sizes), len(tasks))
    for line, task in zip(axes.T, tasks, strict=True):
        for axis, size in zip(line, sizes, strict=True):
            here = scores[(scores["task"] == task) & (scores["train_size"] == size)]
            for place, (name, colour) in enumerate(colours(results).items()):
                of_subject = here[here["initialisation"] == name].groupby("subject")["value"].mean().dropna()
                _points(axis, place, of_subject.to_numpy(), colour)
            axis.set_xticks(range(len(results.initialisations)), results.initialisations, rotation=25, ha="right")
            axis.set(title=f"{task}, train size {size}", ylabel=results.tested[task])
    return figure


def _points(axis: Axes, place: float, values: np.ndarray, colour: tuple[float, float, float]) -> None:
    if not len(values):
        return
    spread = place + 0.25 * np.linspace(-1, 1, len(values)) * (len(values) > 1)
    axis.plot(spread, values, ".", color=colour, alpha=0.5)
    low, high = interval(values)
    errors = np.nan_to_num([[values.mean() - low], [high - values.mean()]])
    axis.errorbar([place], [values.mean()], errors, fmt="_", color="black", capsize=3, markersize=14)


def differences(results: Results, statistics: pd.DataFrame) -> Figure:
    """Draw the paired difference of each contrast of the leading metrics with its interval, where there is one.

    Args:
        results: of the comparison.
        statistics: contrasts, as ``scripts.comparison.statistics.compare`` gives them.
    """
    tasks, sizes = results.settings["task"].unique(), sorted(results.settings["train_size"].unique())
    leading = statistics[statistics["family"] == "leading"]
    leading = leading.set_index(["initialisation", "reference"])
    # an initialisation may have been asked for with some numbers of training subjects alone
    names = {size: list(dict.fromkeys(leading.index[leading["train_size"] == size])) for size in sizes}
    heights = [0.3 * max(1, len(of_size)) + 1 for of_size in names.values()]
    figure = Figure(figsize=(WIDTH * (len(tasks) + 0.5), sum(heights)), layout="constrained")
    axes = figure.subplots(
        len(sizes), len(tasks), squeeze=False, sharex="col", sharey="row", gridspec_kw={"height_ratios": heights}
    )
    for line, task in zip(axes.T, tasks, strict=True):
        for axis, (size, of_size) in zip(line, names.items(), strict=True):
            here = leading[(leading["task"] == task) & (leading["train_size"] == size)].reindex(of_size)
            for place, (_, row) in enumerate(here.iterrows()):
                clear = row["low"] > 0 or row["high"] < 0
                axis.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1)
                axis.plot(row["difference"], place, "o", color="black", markerfacecolor="black" if clear else "white")
            axis.axvline(0, color="grey", linewidth=0.8)
            axis.set_yticks(range(len(of_size)), [f"{first} - {second}" for first, second in of_size])
            axis.set_ylim(max(1, len(of_size)) - 0.5, -0.5)
            better = "left" if results.lower_is_better[task] else "right"
            axis.set(title=f"{task}, train size {size}", xlabel=f"{results.tested[task]}: better to the {better}")
    return figure


def score_by_subjects(results: Results) -> Figure:
    """Draw the mean test score with its interval against the number of training subjects."""
    scores = _leading_scores(results)
    tasks = results.settings["task"].unique()
    figure, axes = panels(1, len(tasks))
    for axis, task in zip(axes.flat, tasks, strict=True):
        for name, colour in colours(results).items():
            here = scores[(scores["task"] == task) & (scores["initialisation"] == name)]
            means = here.groupby(["train_size", "subject"])["value"].mean().dropna()
            sizes = sorted(means.index.unique("train_size"))
            if sizes:
                values = [means[size].to_numpy() for size in sizes]
                middle = np.array([of_size.mean() for of_size in values])
                limits = np.array([interval(of_size) for of_size in values]).T
                errors = np.nan_to_num([middle - limits[0], limits[1] - middle])
                axis.errorbar(sizes, middle, errors, color=colour, label=name, marker="o", capsize=3)
        axis.set_xscale("log", base=2)
        sizes = sorted(results.settings["train_size"].unique())
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set(title=task, xlabel="training subjects", ylabel=results.tested[task])
    _legend(figure, axes)
    return figure


def artifact_means(artifacts: pd.DataFrame) -> pd.DataFrame:
    """Return the mean errors over scans before and after each pretrained network, by artifact."""
    columns = ["error_before", "error_after"]
    return artifacts.groupby(["initialisation", "artifact"], sort=False, as_index=False)[columns].mean()


def removal(results: Results) -> Figure:
    """Draw what is left of the error of each artifact after the pretrained network; 1 is the error of the input."""
    figure = Figure(figsize=(2 * WIDTH, HEIGHT), layout="constrained")
    axis = figure.subplots()
    means = artifact_means(results.artifacts).set_index(["initialisation", "artifact"])
    left = (means["error_after"] / means["error_before"]).where(means["error_before"] > 0).dropna()
    artifacts = list(dict.fromkeys(left.index.get_level_values("artifact")))
    names = list(dict.fromkeys(left.index.get_level_values("initialisation")))
    for index, name in enumerate(names):
        here = left[name].reindex(artifacts)
        width = 0.8 / len(names)
        axis.bar(np.arange(len(artifacts)) + index * width, here, width, label=name, color=colours(results).get(name))
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_xticks(np.arange(len(artifacts)), artifacts, rotation=25, ha="right")
    axis.set(ylabel="error after / before")
    if names:
        axis.legend(fontsize="small")
    return figure
