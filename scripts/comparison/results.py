"""The results of a comparison, read from MLflow alone: tables of scores and curves, and what is missing of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from mlflow.entities import Run as TrackedRun

from scripts.comparison.runs import KEY_LENGTH
from scripts.comparison.store import TRUTH, Store
from scripts.config_checks import TASKS
from scripts.training.metrics import name_on_test
from transforms.errors import InputError, counted

PLACE = ["task", "train_size", "initialisation"]
"""Columns that name a setting."""

SCANS = ["task", "train_size", "initialisation", "fold", "seed", "subject", "scan", "metric", "class", "value"]
BASELINES = ["task", "train_size", "fold", "method", "subject", "scan", "metric", "class", "value"]
CURVES = ["task", "train_size", "initialisation", "fold", "seed", "epoch", "step", "metric", "value"]
RATES = ["task", "train_size", "initialisation", "fold", "rate", "metric", "value", "chosen"]
ARTIFACTS = ["initialisation", "artifact", "scan", "error_before", "error_after"]

TABLES = {
    **{"scans": SCANS, "baselines": BASELINES, "scans_by_truth": SCANS, "baselines_by_truth": BASELINES},
    **{"curves": CURVES, "rates": RATES, "artifacts": ARTIFACTS},
}
"""Columns of each table."""


@dataclass
class Results:
    """What a comparison found.

    Attributes:
        settings: one row for each setting: ``PLACE``, ``metric`` (the leading one), ``lower_is_better``, ``rate``,
            ``planned`` and ``complete`` runs; initialisations in the order of ``scripts.comparison.arms``.
        scans: score of each test scan, metric and class under each run, ``SCANS``.
        baselines: the same of methods without training, ``BASELINES``.
        scans_by_truth: as ``scans``, against the truth; empty where it was not asked for.
        baselines_by_truth: as ``baselines``, against the truth.
        curves: losses and metrics by epoch, ``CURVES``; the metrics are those of validation subjects.
        rates: best validation of the first seed at each learning rate that was tried, ``RATES``.
        artifacts: errors of the pretrained networks before and after, ``ARTIFACTS``.
        pictures: PNG of one test subject by task and initialisation.
        missing: a sentence for all that was planned and is not there.
        codes: versions of the code that trained.
    """

    settings: pd.DataFrame
    scans: pd.DataFrame
    baselines: pd.DataFrame
    scans_by_truth: pd.DataFrame
    baselines_by_truth: pd.DataFrame
    curves: pd.DataFrame
    rates: pd.DataFrame
    artifacts: pd.DataFrame
    pictures: dict[tuple[str, str], bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    @property
    def initialisations(self) -> list[str]:
        """Names of the initialisations, in order."""
        return list(dict.fromkeys(self.settings["initialisation"]))

    @property
    def lower_is_better(self) -> dict[str, bool]:
        """Whether lower values are better, by task."""
        return {str(task): bool(rows["lower_is_better"].iloc[0]) for task, rows in self.settings.groupby("task")}

    @property
    def tested(self) -> dict[str, str]:
        """Leading metric on the test scans by task."""
        return {task: name_on_test(metric) for task, metric in self.leading.items()}

    @property
    def leading(self) -> dict[str, str]:
        """Leading metric of the validation by task."""
        return {str(task): str(rows["metric"].iloc[0]) for task, rows in self.settings.groupby("task")}


def subject_of(scan: str) -> str:
    """Return the participant of a scan, the first BIDS entity of its name."""
    return scan.partition("_")[0]


def read_results(store: Store) -> Results:
    """Read the last comparison of a store; runs of other values or another code are not looked at.

    Raises:
        InputError: there is none.
    """
    parents = store.runs(stage="setting", protocol=store.protocol())
    if not parents:
        raise InputError(f"{store.uri}: found no comparison, expected that of 'python -m scripts compare'.")
    parents.sort(key=lambda run: _order(run.data.tags))
    reader = _Reader(store)
    for parent in parents:
        reader.add(parent.data.tags)
    reader.add_artifacts()
    return reader.results()


def _order(tags: Mapping[str, str]) -> tuple[int, int, int]:
    return TASKS.index(tags["task"]), int(tags["train_size"]), int(tags["order"])


def _repetition(seed: int, fold: int) -> str:
    return f"seed {seed}" + (f" of fold {fold}" if fold else "")


class _Reader:
    """Collect the rows of the tables, setting by setting."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.complete = {key[:KEY_LENGTH]: run for key, run in store.complete().items()}
        self.trained = {key[:KEY_LENGTH]: run for key, run in store.trained().items()}
        self.truths = store.truths()
        self.settings: list[dict[str, Any]] = []
        self.tables: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
        self.pictures: dict[tuple[str, str], bytes] = {}
        self.missing: list[str] = []
        self.codes: set[str] = set()
        self.weights: dict[str, str] = {}
        self.limits: dict[tuple[str, float], list[str]] = {}

    def add(self, tags: Mapping[str, str]) -> None:
        """Add a setting, by the tags of its parent run."""
        place = {"task": tags["task"], "train_size": int(tags["train_size"]), "initialisation": tags["initialisation"]}
        planned = json.loads(tags["runs"])
        name = f"{tags['task']}, {tags['initialisation']}, train size {tags['train_size']}"
        found = 0
        for place_of, key in planned.items():
            fold, seed = map(int, place_of.split("."))
            run = self.complete.get(key)
            if run is None:
                why = tags.get(f"failure.{place_of}", "it has not been completed")
                self.missing.append(f"{name}: {_repetition(seed, fold)} is missing: {why}")
                continue
            found += 1
            by_truth = run.data.tags.get(TRUTH) in self.truths
            if self.truths and not by_truth:
                self.missing.append(f"{name}: {_repetition(seed, fold)} is not scored against the truth yet.")
            self._add_run(run, {**place, "fold": fold, "seed": seed}, by_truth)
        if not found:
            self.missing.append(f"{name}: no run is complete, so it is left out of all tables.")
        lower = tags["lower_is_better"] == "true"
        rates = self._add_rates(tags, planned, place)
        if found and rates["rate"].nunique() > 1:
            for which, limit in (("lowest", rates["rate"].min()), ("highest", rates["rate"].max())):
                if rates["chosen"][rates["rate"] == limit].any():
                    self.limits.setdefault((which, limit), []).append(name)
        self.settings.append(
            {**place, "metric": tags["metric"], "lower_is_better": lower, "rate": tags["rate"]}
            | {"planned": len(planned), "complete": found}
        )

    def _add_rates(self, tags: Mapping[str, str], planned: Mapping[str, str], place: Mapping[str, Any]) -> pd.DataFrame:
        """Add the rates of a setting that were tried, and return them; one whose run did not end has no value."""
        metric, lower = tags["metric"], tags["lower_is_better"] == "true"
        rows = []
        for fold, keys in json.loads(tags.get("tried", "{}")).items():
            for rate, key in keys.items():
                value = self.store.best(self.trained[key], metric, lower) if key in self.trained else math.nan
                row = {**place, "fold": int(fold), "rate": float(rate), "metric": metric, "value": value}
                rows.append({**row, "chosen": key in planned.values()})
        table = pd.DataFrame(rows, columns=RATES)
        if rows:
            self.tables["rates"].append(table)
        return table

    def _add_run(self, run: TrackedRun, place: Mapping[str, Any], by_truth: bool) -> None:
        run_id, tags = run.info.run_id, run.data.tags
        self.codes.add(run.data.params.get("code", "unknown"))
        if "weights_run" in tags:
            self.weights.setdefault(tags["weights_run"], place["initialisation"])
        places_of = {"scans": "scans.csv", "baselines": "baselines.csv"}
        if by_truth:
            places_of |= {f"{name}_by_truth": f"{TRUTH}/{file}" for name, file in places_of.items()}
        for name, file in places_of.items():
            table = self.store.table(run_id, file)
            if table is not None:
                table["class"] = table["class"].fillna("")
                # a comparison made before the metrics of test scans had names of their own
                table["metric"] = table["metric"].map(name_on_test)
                self.tables[name].append(table.assign(**place, subject=table["scan"].map(subject_of)))
        steps = int(run.data.params.get("epoch_length", 1))
        for metric in sorted(run.data.metrics):
            if "/" in metric or not metric.startswith(("train_", "val_")):
                continue
            history = self.store.history(run, metric)
            rows = {"epoch": list(history), "step": [steps * epoch for epoch in history], "value": history.values()}
            self.tables["curves"].append(pd.DataFrame({**rows, "metric": metric}).assign(**place))
        key = (place["task"], place["initialisation"])
        if key not in self.pictures:
            picture = self.store.file(tags["evaluation_run"], "pictures/epoch_0001.png")
            if picture is not None:
                self.pictures[key] = picture

    def add_artifacts(self) -> None:
        """Add what the pretrained networks remove of each artifact."""
        for run_id, name in self.weights.items():
            table = self.store.table(run_id, "artifacts.csv")
            if table is not None:
                self.tables["artifacts"].append(table.assign(initialisation=name))

    def results(self) -> Results:
        """Return the tables, in an order that does not depend on when the runs were done."""
        tables = {
            name: pd.concat(parts, ignore_index=True)[TABLES[name]] if parts else pd.DataFrame(columns=TABLES[name])
            for name, parts in self.tables.items()
        }
        for name in ("baselines", "baselines_by_truth"):
            # a later command that begins with another initialisation scores the same methods once more
            tables[name] = tables[name].drop_duplicates([column for column in BASELINES if column != "value"])
        for (which, limit), names in self.limits.items():
            self.missing.append(
                f"{limit:g} is the {which} of the rates that were tried, and the best in "
                f"{counted(len(names), 'setting')} ({'; '.join(names)}): beyond it may be a better one."
            )
        scans = tables["scans"]
        for task, rows in scans.groupby("task"):
            everyone = set(rows["subject"])
            for (size, arm), of_arm in rows.groupby(["train_size", "initialisation"]):
                if absent := sorted(everyone - set(of_arm["subject"])):
                    self.missing.append(f"{task}, {arm}, train size {size}: no scores of {', '.join(absent)}.")
            if not len(tables["baselines"]) or task not in set(tables["baselines"]["task"]):
                self.missing.append(f"{task}: no baselines; the run that scores them is not complete.")
        settings = pd.DataFrame(self.settings)
        return Results(settings, **tables, pictures=self.pictures, missing=self.missing, codes=sorted(self.codes))
