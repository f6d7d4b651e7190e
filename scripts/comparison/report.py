"""The report of a comparison: one page that needs nothing else, figures, and tables to compute with."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.figure import Figure

from scripts.comparison import figures
from scripts.comparison.results import PLACE, Results, read_results
from scripts.comparison.statistics import ALPHA, CONFIDENCE, compare, mean_of_scans, subject_scores
from scripts.comparison.store import open_store
from scripts.io.files import whole_file, write_text
from scripts.training.metrics import lower_is_better

PAPER = {
    "segmentation": ("test_macro_f1", "F1 1.4 % higher, p < 0.005"),
    "crossings": ("test_accuracy", "accuracy 0.3 % higher, p < 0.05"),
    "direction": ("test_angle_mse", "direction error 0.67 % lower, p < 0.05"),
}
"""Metric and result of artifact removal over random weights in Weninger et al., BVM 2022."""

PLACE_OF_SCAN = ["task", "train_size", "initialisation", "fold", "seed", "scan"]
PLACE_OF_BASELINE = ["task", "train_size", "fold", "scan"]
"""What tells the scores of a metric apart, of a network and of a method."""

FIGURES: dict[str, tuple[str, str, Callable[[Results], Figure]]] = {
    "validation_loss": (
        "Validation loss",
        "Mean over the runs of each initialisation; the band goes from the lowest run to the highest. A curve that "
        "rises again overfits.",
        figures.validation_loss,
    ),
    "test_scores": (
        "Test scores",
        "A point is a test subject, averaged over seeds. The line is the mean over subjects with its interval. "
        "Intervals of two initialisations may overlap although their paired difference is clear: the table decides.",
        figures.test_scores,
    ),
    "score_by_subjects": (
        "Score against training subjects",
        "Mean over test subjects with its interval. Look where the curves part.",
        figures.score_by_subjects,
    ),
    "score_by_step": (
        "Score against steps",
        "On the validation subjects. Fast learning shows at the left, what is reached in the end at the right.",
        figures.score_by_step,
    ),
    "loss_gap": (
        "Gap of validation and training loss",
        "A gap that grows with the steps is overfitting.",
        figures.loss_gap,
    ),
    "removal": (
        "Removal of each artifact by pretraining",
        "Error after the network over the error before, on the validation subjects of the pretraining. Below 1 it "
        "helps.",
        figures.removal,
    ),
}
"""Title, what to look for, and function of each figure, by the name of its file."""


def write_report(out: Path) -> Path:
    """Write ``report.html`` and, in ``report``, figures (SVG, PNG) and tables (CSV) of a comparison.

    Args:
        out: folder of the comparison.

    Returns:
        the page.

    Raises:
        InputError: there is no comparison.
    """
    results = read_results(open_store(out))
    scores = subject_scores(results.scans)
    lower = {metric: lower_is_better(metric) for _, metric in _metrics(results)}
    lower |= {metric: results.lower_is_better[task] for task, metric in results.tested.items()}
    statistics = _of_planned(compare(scores, results.initialisations, lower, results.tested), results.settings)
    tables = {
        "scans": results.scans,
        "subjects": scores,
        "statistics": statistics,
        "means": mean_scores(results, scores),
        "baselines": results.baselines,
        "baseline_means": baseline_means(results.baselines),
        "scans_by_truth": results.scans_by_truth,
        "baselines_by_truth": results.baselines_by_truth,
        "truth": truth_means(results),
        "curves": results.curves,
        "learning": learning(results),
        "rates": results.rates,
        "artifacts": results.artifacts,
        "settings": results.settings,
    }
    folder = out / "report"
    for name, table in tables.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    drawn = {
        name: (title, hint, Markup(save_figure(function(results), folder / name)))
        for name, (title, hint, function) in FIGURES.items()
        if name != "removal" or len(results.artifacts)
    }
    differences = None
    if len(statistics) and (statistics["family"] == "leading").any():
        differences = Markup(save_figure(figures.differences(results, statistics), folder / "differences"))
    for name in {*FIGURES, "differences"} - {*drawn, "differences" if differences else ""}:
        # an earlier report may have had more to draw
        for ending in (".svg", ".png"):
            (folder / f"{name}{ending}").unlink(missing_ok=True)
    environment = Environment(loader=PackageLoader("scripts.comparison", "."), autoescape=select_autoescape())
    environment.filters["number"] = number
    page = environment.get_template("report.html").render(
        results=results,
        tables=tables,
        figures=drawn,
        paper=PAPER,
        pictures={key: base64.b64encode(data).decode() for key, data in results.pictures.items()},
        alpha=ALPHA,
        confidence=CONFIDENCE,
        differences=differences,
        artifact_means=figures.artifact_means(results.artifacts),
    )
    write_text(out / "report.html", page)
    return out / "report.html"


def _of_planned(statistics: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """Leave out contrasts with an initialisation that nobody asked for in their task and number of subjects."""
    if statistics.empty:
        return statistics
    planned = set(settings[PLACE].itertuples(index=False, name=None))
    asked = [
        {(row["task"], row["train_size"], row[column]) for column in ("initialisation", "reference")} <= planned
        for _, row in statistics.iterrows()
    ]
    return statistics[asked].reset_index(drop=True)


def _metrics(results: Results) -> list[tuple[str, str]]:
    return list(results.scans[["task", "metric"]].drop_duplicates().itertuples(index=False, name=None))


def number(value: Any) -> str:
    """Write a number for a person; a text stays, and NaN is empty."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)


def save_figure(figure: Figure, path: Path) -> str:
    """Save a figure as SVG and PNG, the same bytes for the same results; return the SVG for a page."""
    buffer = io.StringIO()
    # the ids of a figure's parts must not meet those of another on the page
    with mpl.rc_context({"svg.hashsalt": path.name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_text(path.with_suffix(".svg"), buffer.getvalue())
    with whole_file(path.with_suffix(".png")) as partial:
        figure.savefig(partial, format="png", dpi=120)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def mean_scores(results: Results, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score over subjects of each setting, with the number of subjects and runs."""
    place = ["task", "train_size", "metric", "initialisation"]
    means = scores.groupby([*place, "subject"], as_index=False)["value"].mean().groupby(place)["value"]
    table = means.agg(["mean", "std", "count"]).rename(columns={"count": "subjects"}).reset_index()
    runs = scores.drop_duplicates([*place, "fold", "seed"]).groupby(place).size().rename("runs").reset_index()
    table = table.merge(runs, on=place)
    order = {name: index for index, name in enumerate(results.initialisations)}
    return table.sort_values(place, key=lambda column: column.map(order) if column.name == place[-1] else column)


def baseline_means(baselines: pd.DataFrame) -> pd.DataFrame:
    """Return the mean score over subjects of each method without training, ``BASELINES`` given."""
    columns = ["task", "train_size", "metric", "method"]
    others = baselines[baselines["method"] != "network"]
    by_subject = mean_of_scans(others, [*columns, "subject"])
    return by_subject.groupby(columns, as_index=False)["value"].mean().rename(columns={"value": "mean"})


def truth_means(results: Results) -> pd.DataFrame:
    """Return the mean score of methods and networks against the truth, beside that of the same maps by the labels."""
    columns = ["task", "train_size", "metric", "method"]
    scored = results.scans_by_truth[PLACE_OF_SCAN].drop_duplicates()
    by_network = [
        mean_scores(results, subject_scores(scans)).rename(columns={"initialisation": "method"})[[*columns, "mean"]]
        for scans in (results.scans.merge(scored, on=PLACE_OF_SCAN), results.scans_by_truth)
    ]
    scored = results.baselines_by_truth[PLACE_OF_BASELINE].drop_duplicates()
    by_method = [
        baseline_means(table)
        for table in (results.baselines.merge(scored, on=PLACE_OF_BASELINE), results.baselines_by_truth)
    ]
    of_labels, of_truth = (pd.concat(pair) for pair in zip(by_method, by_network, strict=True))
    for table in (of_labels, of_truth):
        # what made the labels says so in its name, and has made no truth
        table["method"] = table["method"].str.replace(r" \(label method.*\)$", "", regex=True)
    renamed = of_labels.rename(columns={"mean": "against_labels"})
    return of_truth.rename(columns={"mean": "against_truth"}).merge(renamed, on=columns, how="left")


def learning(results: Results) -> pd.DataFrame:
    """Return the leading metric on the validation subjects at the first validation, at the last, and at its best."""
    here = results.curves[results.curves["metric"] == results.curves["task"].map(results.leading)]
    rows = []
    for keys, group in here.groupby(["task", "train_size", "initialisation"], sort=False):
        by_step = group.groupby("step")["value"].mean()
        best = by_step.min() if results.lower_is_better[str(keys[0])] else by_step.max()
        first, last = by_step.index[0], by_step.index[-1]
        rows.append(
            {
                **dict(zip(["task", "train_size", "initialisation"], keys, strict=True)),
                "metric": group["metric"].iloc[0],
            }
            | {"first_step": first, "first": by_step[first], "last_step": last, "last": by_step[last], "best": best}
        )
    return pd.DataFrame(rows)
