"""The matrix of a comparison at work: what is missing is done, what failed is reported, and a table shows it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import torch
from mlflow.entities import Run as TrackedRun
from rich.console import Console
from rich.table import Table

from scripts.comparison.arms import ARMS
from scripts.comparison.estimate import estimate
from scripts.comparison.execute import Job, perform
from scripts.comparison.plan import Plan, Settings, candidates, group, leading_metric, make_plan, trials
from scripts.comparison.runs import KEY_LENGTH, Run, Setting, checksum
from scripts.comparison.store import Store
from scripts.jobs import Outcome, run_jobs
from scripts.training.tracking import name_of
from scripts.training.tracking_store import run_table

console = Console()


def run_comparison(settings: Settings, jobs: int = 1, scheduler: str | None = None) -> dict[str, str]:
    """Do what is missing of a comparison.

    Args:
        settings: what is compared.
        jobs: processes on this machine.
        scheduler: address of a Dask scheduler, in place of ``jobs``.

    Returns:
        why runs failed, by run; empty where all are complete.
    """
    plan = make_plan(settings)
    work = Work(settings, plan, Store(settings.out), jobs, scheduler)
    work.forget_lost_weights()
    work.do([*dict.fromkeys(plan.pretrainings.values())], "pretraining")
    runs, waiting = [], {}
    for run in plan.fine_tunings:
        if run.weights is None or run.weights in work.done:
            runs.append(run)
        else:
            waiting[run.key] = f"its pretraining failed: {work.failures.get(run.weights, 'it is not there')}"
    if settings.rates:
        runs = work.try_rates(runs)
    work.failures |= waiting
    work.do(runs, "fine-tuning")
    work.close([*runs, *(run for run in plan.fine_tunings if run.key in waiting)])
    console.print(f"MLflow: {run_table(work.store.uri, work.store.experiment_id)}", highlight=False, soft_wrap=True)
    return {str(run): work.failures[run.key] for run in [*plan.fine_tunings, *runs] if run.key in work.failures}


class Work:
    """The runs of a comparison that are done, and those that are left.

    Args:
        settings: what is compared.
        plan: its runs.
        store: its MLflow.
        jobs: see :func:`run_comparison`.
        scheduler: see :func:`run_comparison`.
    """

    def __init__(self, settings: Settings, plan: Plan, store: Store, jobs: int, scheduler: str | None) -> None:
        self.settings, self.plan, self.store = settings, plan, store
        self.jobs, self.scheduler = jobs, scheduler
        self.failures: dict[str, str] = {}
        self.complete = store.complete()
        self.done = plan.done(self.complete)
        self.runs = with_best_rates(settings, plan, plan.fine_tunings, store)
        self.parents: dict[Setting, str] = {}
        # while a rate is looked for, a report goes on showing what an earlier command has chosen
        self.note_runs(update=not settings.rates)

    def note_runs(self, update: bool = True) -> None:
        """Say in the parent run of each setting which runs belong to it, so that a report sees what is missing."""
        for setting, runs in by_setting(self.runs).items():
            rates = dict.fromkeys(f"{run.values['learning_rate']:g}" for run in runs)
            tags = {
                **{key: runs[0].tags[key] for key in ("task", "initialisation", "train_size")},
                **leading_metric(runs[0]),
                **{"setting": checksum([self.plan.protocol, setting]), "protocol": self.plan.protocol},
                **{"order": str(list(ARMS).index(setting[1])), "rate": ", ".join(rates)},
                "tried": json.dumps(self._tried(runs)),
                "runs": json.dumps({run.repetition: run.key[:KEY_LENGTH] for run in runs}),
            }
            self.parents[setting] = self.store.parent(name_of(tags), tags, update)
        self.store.set_protocol(self.plan.protocol, self.plan.truths)

    def _tried(self, runs: Sequence[Run]) -> dict[str, dict[str, str]]:
        """Return the runs by which a rate is chosen, by fold and rate."""
        return {
            fold: {f"{run.values['learning_rate']:g}": run.key[:KEY_LENGTH] for run in several}
            for (*_, fold), several in candidates(self.plan, runs, self.settings.rates).items()
        }

    def forget_lost_weights(self) -> None:
        """Have a pretraining done again whose weights are gone, if a run needs them."""
        needed = {run.weights for run in self.runs if run.key not in self.complete}
        self.done -= {
            run.key
            for run in self.plan.pretrainings.values()
            if run.key in needed and not (run.folder(self.settings.out) / "model.pt").is_file()
        }

    def do(self, runs: Sequence[Run], description: str, evaluate: bool = True) -> None:
        """Do the runs that are missing, over processes or a cluster."""
        missing = [run for run in runs if run.key not in self.done] if evaluate else list(runs)
        devices = torch.cuda.device_count()
        items = [
            Job(
                run,
                self.settings.out,
                self.parents.get(run.setting) if run.stage == "fine-tuning" else None,
                devices if devices > 1 and self.scheduler is None else 0,
                evaluate,
            )
            for run in missing
        ]

        def board(outcomes: Sequence[Outcome[Job, str]]) -> Table:
            done = {outcome.item.run.key for outcome in outcomes if outcome.result and evaluate}
            failed = {outcome.item.run.key for outcome in outcomes if outcome.failure}
            return self.table(done, failed)

        for outcome in run_jobs(perform, items, self.jobs, description, self.scheduler, board):
            if outcome.failure:
                self.failures[outcome.item.run.key] = outcome.failure
            elif evaluate:
                self.done.add(outcome.item.run.key)

    def try_rates(self, runs: Sequence[Run]) -> list[Run]:
        """Try the rates with the first seed, and give all seeds the one that validates best."""
        trained = self.store.trained()
        tried = trials(self.plan, runs, self.settings.rates)
        self.do([run for run in tried if run.key not in trained], "rates", evaluate=False)
        self.runs = with_best_rates(self.settings, self.plan, runs, self.store)
        self.note_runs()
        return self.runs

    def table(self, done: set[str], failed: set[str]) -> Table:
        """Return the table of what is done: a row for each task and number of training subjects."""
        done, failed = done | self.done, failed | set(self.failures)
        table = Table("task", "training subjects", *self.settings.arms)
        for task in self.settings.tasks:
            for size in map(str, self.settings.train_sizes):
                cells = []
                for arm in self.settings.arms:
                    keys = [run.key for run in self.runs if run.setting == (task, arm, size)]
                    text = f"{len(done & set(keys))}/{len(keys)}"
                    if lost := len(failed & set(keys)):
                        text += f" [red]{lost} failed[/red]"
                    cells.append(text)
                table.add_row(task, size, *cells)
        return table

    def close(self, runs: Sequence[Run]) -> None:
        """Note in the parent run of each setting which of its runs failed."""
        for setting, parent in self.parents.items():
            failed = {
                run.repetition: self.failures[run.key]
                for run in runs
                if run.setting == setting and run.key in self.failures
            }
            self.store.note_failures(parent, failed)


def with_best_rates(settings: Settings, plan: Plan, runs: Sequence[Run], store: Store) -> list[Run]:
    """Give each run the rate whose best validation is the best in its setting and fold, of those that are trained.

    Where none is, it is the first rate.
    """
    if not settings.rates:
        return list(runs)
    trained = store.trained()
    best = {
        where: _best_rate(several, trained, store) for where, several in candidates(plan, runs, settings.rates).items()
    }
    return [plan.with_rate(run, best[group(run)]) for run in runs]


def _best_rate(runs: Sequence[Run], trained: Mapping[str, TrackedRun], store: Store) -> float:
    """Return the rate of the best validation, the first of equals; the first of all where none is trained."""
    leading = leading_metric(runs[0])
    lower = leading["lower_is_better"] == "true"
    scores = {}
    for run in runs:
        best = store.best(trained[run.key], leading["metric"], lower) if run.key in trained else math.nan
        scores[float(run.values["learning_rate"])] = -math.inf if math.isnan(best) else -best if lower else best
    return max(scores, key=lambda rate: scores[rate])


def by_setting(runs: Sequence[Run]) -> dict[Setting, list[Run]]:
    """Group fine-tunings, settings in the order of their first run."""
    found: dict[Setting, list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return found


def show_plan(settings: Settings, jobs: int) -> None:
    """Print the matrix of a comparison, and an estimate of the time of what is missing."""
    plan = make_plan(settings)
    store = Store(settings.out)
    complete, trained = store.complete(), store.trained()
    done = plan.done(complete)
    pretrainings = list(dict.fromkeys(plan.pretrainings.values()))
    runs = with_best_rates(settings, plan, plan.fine_tunings, store)
    of_rates = trials(plan, runs, settings.rates)
    table = Table("stage", "task", "initialisation", "training subjects", "runs", "complete", "epochs")
    for run in pretrainings:
        table.add_row(
            "pretraining", "", run.tags["initialisation"], "", "1", str(int(run.key in done)), str(run.epochs)
        )
    if of_rates:
        tried = str(sum(run.key in trained for run in of_rates))
        table.add_row("rates", "", "", "", str(len(of_rates)), tried, "")
    for (task, arm, size), of_setting in by_setting(runs).items():
        finished = str(sum(run.key in done for run in of_setting))
        table.add_row("fine-tuning", task, arm, size, str(len(of_setting)), finished, str(of_setting[0].epochs))
    console.print(table)
    # a trial that wins is one of the runs; what only lacks its score against the truth takes seconds
    missing = [run for run in [*pretrainings, *runs] if run.key not in complete]
    missing += [run for run in of_rates if run.key not in trained and run not in missing]
    estimate(missing, jobs)
