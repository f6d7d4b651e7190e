"""The figures of a test, and of time and memory, for the model card: those of an evaluation of the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from scripts.comparison.statistics import FEW, interval, mean_of_scans
from scripts.io.files import read_json, sha256
from scripts.training.evaluation_record import RECORD_FILE
from scripts.training.metrics import lower_is_better
from transforms.errors import InputError


@dataclass(frozen=True)
class Scores:
    """What a model card says of a test.

    Attributes:
        test: scans, table and worst scans, in Markdown.
        system: time and memory, a sentence.
    """

    test: str
    system: str


def read_scores(folder: Path, checkpoint: Path) -> Scores:
    """Read the folder of an evaluation.

    Args:
        folder: what ``evaluating`` wrote: ``evaluation.json``, and ``scans.csv`` and ``baselines.csv`` of a task or
            ``artifacts.csv`` of a restoration.
        checkpoint: weights of the bundle.

    Raises:
        InputError: it is no evaluation, or that of other weights.
    """
    record = read_json(folder / RECORD_FILE)
    if record["checkpoint"] != sha256(checkpoint):
        raise InputError(f"{folder}: found the evaluation of other weights, expected one of {checkpoint}.")
    participants: Mapping[str, str] = record["participants"]
    restores = (folder / "artifacts.csv").is_file()
    table = _errors(folder, participants) if restores else _scores(folder, participants)
    people = len(set(participants.values()))
    of_people = f", one each of {people} participants" if people == len(participants) else f" of {people} participants"
    lines = [
        f"Of a test: {len(participants)} scans{of_people}, the split `{record['split']}` of the cohort",
        f"`{record['cohort'][:12]}`. The interval is that of the mean over participants (bootstrap, 95 %).",
        *(["With so few participants it is too narrow."] if people < FEW else []),
        "",
        *table,
        "",
        "Failure cases: the worst scan of each line is named. Why it is the worst was not looked into.",
    ]
    system = record["system"]
    grid = " x ".join(map(str, system["grid"]))
    threads = f"{system['threads']} thread{'s' if system['threads'] > 1 else ''}"
    place = f"{threads} of a CPU" if system["device"] == "CPU" else system["device"]
    whose = "the whole process" if system["device"] == "CPU" else "the GPU"
    return Scores(
        "\n".join(lines),
        f"A pass over {grid} voxels took {system['seconds']:g} s on {place}; the peak memory of {whose} in the "
        f"evaluation was {system['memory_gib']:g} GiB.",
    )


def _scores(folder: Path, participants: Mapping[str, str]) -> list[str]:
    scans = _read(folder / "scans.csv", ("scan", "metric", "class", "value"))
    rows = ["| metric | class | mean | interval | worst scan |", "|---|---|---|---|---|"]
    for (metric, kind), scores in scans.groupby(["metric", "class"], sort=False):
        rows.append(f"| {metric} | {kind} | {_cells(scores, participants, metric)} |")
    if (folder / "baselines.csv").is_file():
        others = _read(folder / "baselines.csv", ("method", "scan", "metric", "class", "value"))
        leading = scans["metric"].iloc[0]
        others = others[others["metric"] == leading].assign(subject=others["scan"].map(participants))
        means = mean_of_scans(others, ["method", "subject"]).groupby("method")["value"].mean()
        rows += ["", f"| method, on the same scans | {leading} |", "|---|---|"]
        rows += [f"| {method} | {means[method]:.4g} |" for method in dict.fromkeys(others["method"])]
    return rows


def _errors(folder: Path, participants: Mapping[str, str]) -> list[str]:
    errors = _read(folder / "artifacts.csv", ("artifact", "scan", "error_before", "error_after"))
    rows = ["| artifact | error before | error after | interval | worst scan |", "|---|---|---|---|---|"]
    for artifact, of_artifact in errors.groupby("artifact", sort=False):
        after = of_artifact.rename(columns={"error_after": "value"})
        before = after["error_before"].mean()
        rows.append(f"| {artifact} | {before:.4g} | {_cells(after, participants, 'error')} |")
    return rows


def _cells(scores: pd.DataFrame, participants: Mapping[str, str], metric: str) -> str:
    """Mean over participants, its interval, and the worst scan with its value; scans without the class do not count."""
    scores = scores.dropna(subset="value")
    if scores.empty:
        return "no scan has it | |"
    means = scores.groupby(scores["scan"].map(participants))["value"].mean()
    low, high = interval(means.to_numpy())
    worst = scores["value"].idxmax() if lower_is_better(metric) else scores["value"].idxmin()
    limits = "too few scans" if math.isnan(low) else f"{low:.4g} to {high:.4g}"
    return f"{means.mean():.4g} | {limits} | {scores.loc[worst, 'scan']} ({scores.loc[worst, 'value']:.4g})"


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(("scan", "class", "method"), str), keep_default_na=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: found no table ({error}), expected one of an evaluation.") from None
    if list(table.columns) != list(columns):
        raise InputError(f"{path}: found the columns {', '.join(table.columns)}, expected {', '.join(columns)}.")
    return table.fillna({"class": ""}) if "class" in table else table
