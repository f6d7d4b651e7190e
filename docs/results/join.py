"""Join the reports of several comparisons into the tables of docs/results, and print those of docs/results.md.

python docs/results/join.py 100=report_a 200=report_b 200=report_c=direction ...

Each argument is the name of a comparison, the folder of tables of its report, and a task if it alone is meant.
Reports of one name are parts of one comparison, with one family of contrasts. Without arguments the tables of the page
alone are printed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from scripts.comparison.arms import DEFAULT_ARMS
from scripts.comparison.statistics import ALPHA, RUN, SETTING, compare
from scripts.training.metrics import lower_is_better, name_on_test

FOLDER = Path(__file__).parent
DIGITS = 6
"""Digits of a score that are kept after the point: far more than are of use."""

TASKS = {
    "segmentation": ("tissue, macro F1", 3),
    "crossings": ("crossings, balanced accuracy", 3),
    "direction": ("direction, degrees", 2),
}
"""Title and digits of each task's leading metric."""

SCORE = [*SETTING, "initialisation", *RUN]
"""Columns that tell scores apart."""


def join(parts: Sequence[str]) -> None:
    """Write the tables of docs/results from those of reports.

    Args:
        parts: names of comparisons, each with ``=`` and a folder, and maybe ``=`` and a task.
    """
    settings = _read(parts, "settings")
    scores = _once(_read(parts, "subjects")[["comparison", *SCORE, "value"]], ["comparison", *SCORE])
    # statistics are those of the digits that are kept, so that anyone gets the same
    scores = scores.round({"value": DIGITS}).sort_values(["comparison", *SCORE])
    leading = dict(zip(settings["task"], settings["metric"].map(name_on_test), strict=True))
    lower = {metric: lower_is_better(metric) for metric in scores["metric"].unique()}
    found = []
    for name, rows in scores.groupby("comparison"):
        order = list(dict.fromkeys(settings[settings["comparison"] == name]["initialisation"]))
        table = compare(rows, order, lower, leading)
        table.insert(0, "comparison", name)
        found.append(table[table["subjects"] > 0])
    rates = _read(parts, "rates")
    baselines = _read(parts, "baseline_means")
    tables = {
        "scores": scores,
        "statistics": pd.concat(found),
        "rates": _once(rates, ["comparison", "task", "train_size", "initialisation", "fold", "rate"]),
        "baselines": _once(baselines, ["comparison", *SETTING, "method"]),
    }
    for name, rows in tables.items():
        rows.to_csv(FOLDER / f"{name}.csv", index=False, float_format=f"%.{DIGITS}g" if name != "scores" else None)


def _read(parts: Sequence[str], table: str) -> pd.DataFrame:
    found = []
    for part in parts:
        name, folder, *task = part.split("=")
        rows = pd.read_csv(Path(folder) / f"{table}.csv")
        rows = rows[rows["task"].isin(task or TASKS)]
        rows.insert(0, "comparison", name)
        found += [rows] if len(rows) else []
    return pd.concat(found, ignore_index=True)


def _once(rows: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Drop what several reports have; it must be the same in all."""
    rows = rows.drop_duplicates()
    twice = rows[rows.duplicated(key)]
    if len(twice):
        raise ValueError(f"found different values for {twice.iloc[0][key].to_dict()}")
    return rows


def lines() -> Iterator[str]:
    """Yield the lines of the tables of docs/results.md."""
    scores, statistics, baselines = (
        pd.read_csv(FOLDER / f"{name}.csv", dtype={"comparison": str}) for name in ("scores", "statistics", "baselines")
    )
    leading = statistics[statistics["family"] == "leading"].copy()
    metrics = dict(zip(leading["task"], leading["metric"], strict=True))
    scores, baselines = (rows[rows["metric"] == rows["task"].map(metrics)] for rows in (scores, baselines))
    means = scores.groupby(["comparison", "task", "train_size", "initialisation"], as_index=False)["value"].mean()
    methods = baselines.rename(columns={"method": "initialisation", "mean": "value"})
    leading["initialisation"] = leading["initialisation"] + " - " + leading["reference"]
    leading["value"] = [_difference(row) for _, row in leading.iterrows()]
    for table in (means, methods):
        table["value"] = [_form(row["task"], row["value"]) for _, row in table.iterrows()]
    # comparisons have the same test subjects, so methods without training stand under the first
    methods = methods.drop_duplicates(["task", "train_size", "initialisation", "value"])
    same = methods.groupby(["task", "initialisation"])["value"].transform("nunique") == 1
    methods["train_size"] = methods["train_size"].astype(object).mask(same, "any")
    methods = methods.drop_duplicates(["task", "train_size", "initialisation"])
    for name in dict.fromkeys(scores["comparison"]):
        for title, table in (("start", means), ("method", methods), ("contrast", leading)):
            if len(rows := table[table["comparison"] == name]):
                yield from ("", f"{name}, {title}", "", *_table(title, rows))


def _table(title: str, rows: pd.DataFrame) -> Iterator[str]:
    """Yield a table with a column for each task; default initialisations come first."""
    tasks = [task for task in TASKS if task in set(rows["task"])]
    wide = rows.pivot(index=["train_size", "initialisation"], columns="task", values="value").fillna("-")
    order = {name: place for place, name in enumerate(dict.fromkeys([*DEFAULT_ARMS, *rows["initialisation"]]))}
    cells = [["training subjects", title, *(TASKS[task][0] for task in tasks)], ["---"] * (2 + len(tasks))]
    for size, name in sorted(wide.index, key=lambda place: (place[0] == "any", place[0], order[place[1]])):
        cells.append([str(size), name.replace("_", " "), *wide.loc[(size, name), tasks]])
    yield from ("| " + " | ".join(line) + " |" for line in cells)


def _form(task: str, value: float, sign: str = "") -> str:
    digits = TASKS[task][1]
    # the sign of a limit near 0 must be seen
    return f"{value:{sign}.{digits + (abs(value) < 0.5 * 10**-digits)}f}"


def _difference(row: pd.Series) -> str:
    """Write a difference with its interval; a star says that the t-test is below 0.05 after Holm."""
    value, low, high = (_form(row["task"], row[name], "+") for name in ("difference", "low", "high"))
    return f"{value}{'*' if row['p_holm'] < ALPHA else ''} ({low} to {high})"


if __name__ == "__main__":
    if sys.argv[1:]:
        join(sys.argv[1:])
    print("\n".join(lines()))
