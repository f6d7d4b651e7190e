"""The matrix of a comparison: which runs it consists of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Run as TrackedRun

from scripts.cohort.datalist import SPLITS, cohort_checksum, describe_input, load_entries, read_cohort
from scripts.cohort.prepared import label_records
from scripts.comparison.arms import ARMS, DEFAULT_ARMS, Arm
from scripts.comparison.folds import make_folds
from scripts.comparison.runs import Run, Truth, checksum, code_checksum, make_run, parsed
from scripts.comparison.store import TRUTH
from scripts.config_checks import TASKS
from transforms.errors import InputError

OWN = {"dataset_dir", "output_dir", "tracking_uri", "experiment_name", "pretrained"}
"""Values of trainings that follow from a comparison."""

Group = tuple[str, str, str, str]
"""Task, initialisation, number of training subjects, and fold."""


@dataclass(frozen=True)
class Settings:
    """What is compared, and how.

    Attributes:
        auxiliary: prepared cohort of the pretraining.
        clinical: prepared and labelled cohort of the tasks.
        out: folder of the comparison.
        tasks: tasks.
        arms: names of initialisations, see ``scripts.comparison.arms``.
        seeds: number of fine-tunings of each setting; their seeds are 0, 1, ...
        train_sizes: numbers of training participants.
        folds: number of folds; 1 for the cohort's own splits.
        steps: length of a fine-tuning, whatever the number of training participants.
        validations: validations of a fine-tuning, evenly over its steps.
        rates: learning rates that are tried on validation subjects; empty for that of the config.
        paper: whether to use the network, losses and rates of the paper.
        pretraining: values of all pretrainings that differ from the config.
        fine_tuning: values of all fine-tunings that differ from the config.
        truth: the clinical cohort labelled by the truth of its phantoms, against which all is scored as well; or None.
    """

    auxiliary: Path
    clinical: Path
    out: Path
    tasks: Sequence[str] = TASKS
    arms: Sequence[str] = DEFAULT_ARMS
    seeds: int = 4
    train_sizes: Sequence[int] = (1, 4)
    folds: int = 1
    steps: int = 400
    validations: int = 10
    rates: Sequence[float] = ()
    paper: bool = False
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    fine_tuning: Mapping[str, Any] = field(default_factory=dict)
    truth: Path | None = None

    def __post_init__(self) -> None:
        for option, values in (("--pretraining", self.pretraining), ("--fine-tuning", self.fine_tuning)):
            if wrong := sorted(OWN & set(values)):
                raise InputError(f"{option}: found {wrong[0]}, which 'compare' itself sets, expected another value.")
        for option, found, known in (("--tasks", self.tasks, TASKS), ("--arms", self.arms, tuple(ARMS))):
            if wrong := [name for name in found if name not in known]:
                raise InputError(f"{option}: found {wrong[0]!r}, expected some of {', '.join(known)}.")

    @property
    def overlays(self) -> list[str]:
        """Overlays of all trainings."""
        return ["paper"] if self.paper else []


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    Attributes:
        pretrainings: by initialisation; those that share a pretraining share its run.
        fine_tunings: of the first rate; see :meth:`with_rate`.
        protocol: identifies what all runs share: code, cohorts, length and values. Only runs of one protocol may be
            compared.
        code: see ``scripts.comparison.runs.code_checksum``.
    """

    pretrainings: Mapping[str, Run]
    fine_tunings: Sequence[Run]
    protocol: str
    code: str

    def with_rate(self, run: Run, rate: float) -> Run:
        """Return a fine-tuning with another learning rate."""
        values = {**run.values, "learning_rate": rate}
        return make_run(
            *(run.stage, run.tags, run.configs, values, run.dataset_dir, run.cohort, self.code),
            *(run.weights, run.baselines, run.truth),
        )

    @property
    def truths(self) -> set[str]:
        """Checksums of the cohorts against whose truth the fine-tunings are scored, one for each fold."""
        return {run.truth.cohort for run in self.fine_tunings if run.truth}

    def done(self, complete: Mapping[str, TrackedRun]) -> set[str]:
        """Return the keys of the runs of which nothing is left to do.

        Args:
            complete: runs that are trained and evaluated, by key.
        """
        truths = self.truths
        return {
            key
            for key, run in complete.items()
            if not truths or run.data.tags["stage"] == "pretraining" or run.data.tags.get(TRUTH) in truths
        }


def make_plan(settings: Settings) -> Plan:
    """List the runs of a comparison, the most important ones first.

    Raises:
        InputError: a cohort lacks what the settings ask for.
    """
    code = code_checksum()
    read_cohort(settings.auxiliary)
    cohorts = make_folds(settings.clinical, settings.out / "folds", settings.folds)
    truths = _truths(settings, cohorts)
    # each reads all masks and labels of a cohort
    checksums = {folder: cohort_checksum(str(folder)) for folder in {settings.auxiliary, settings.clinical, *cohorts}}
    pretrainings = {
        name: _pretraining(settings, name, ARMS[name], checksums, code)
        for name in settings.arms
        if ARMS[name].overlays is not None
    }
    reference = _pretraining(settings, "artifact_removal", Arm(), checksums, code)
    fine_tunings = [
        _fine_tuning(
            *(settings, task, name, size, fold, seed, cohorts[fold], checksums),
            *(pretrainings.get(name), reference, code, truths[fold]),
        )
        for seed, fold, size, task, name in itertools.product(
            range(settings.seeds), range(settings.folds), settings.train_sizes, settings.tasks, settings.arms
        )
    ]
    shared = {
        **{key: getattr(settings, key) for key in ("steps", "validations", "rates", "paper", "folds")},
        "values": [dict(settings.pretraining), dict(settings.fine_tuning)],
        "cohorts": [checksums[folder] for folder in (settings.auxiliary, settings.clinical)],
    }
    return Plan(pretrainings, fine_tunings, checksum([shared, code]), code)


def _truths(settings: Settings, cohorts: Sequence[Path]) -> list[Truth | None]:
    """Return the truth of each fold of the clinical cohort.

    Raises:
        InputError: it has other scans than the clinical cohort, other splits, labels of other test scans, or labels
            that are no truth.
    """
    if settings.truth is None:
        return [None] * settings.folds
    scans, preparations = [], []
    for folder in (settings.clinical, settings.truth):
        listed = read_cohort(folder)
        scans.append({split: sorted((scan.name, scan.checksum) for scan in listed[split]) for split in SPLITS})
        preparations.append({**describe_input(str(folder)), "version": None})
    if scans[0] != scans[1] or preparations[0] != preparations[1]:
        raise InputError(
            f"--truth: found other scans, splits or another preparation in {settings.truth} than in "
            f"{settings.clinical}, expected a copy of it that is labelled by the truth."
        )
    routes = {str(record.get("Route")) for record in label_records(settings.truth)}
    if routes != {"truth"}:
        found = f"labels by {', '.join(sorted(routes))}" if routes else "no record of labels"
        raise InputError(f"--truth: found {found} in {settings.truth}, expected those of 'label --truth'.")
    folds = make_folds(settings.truth, settings.out / "folds_of_truth", settings.folds)
    for (cohort, truth), task in itertools.product(zip(cohorts, folds, strict=True), settings.tasks):
        keys = ["image", "mask", *parsed(["finetune", task], {})["label_keys"]]
        labelled = [{entry["scan"] for entry in load_entries(str(place), "test", keys)} for place in (cohort, truth)]
        if odd := sorted(labelled[0] ^ labelled[1]):
            raise InputError(
                f"--truth: found labels for {task} of {odd[0]} in one of {cohort} and {truth}, expected them in both."
            )
    return [Truth(folder, cohort_checksum(str(folder))) for folder in folds]


def _pretraining(settings: Settings, name: str, arm: Arm, checksums: Mapping[Path, str], code: str) -> Run:
    configs = ["pretrain", *(arm.overlays or ()), *settings.overlays]
    values = {**settings.pretraining, **arm.pretraining}
    folder = settings.auxiliary
    return make_run("pretraining", {"initialisation": name}, configs, values, folder, checksums[folder], code)


def _fine_tuning(
    settings: Settings,
    task: str,
    name: str,
    size: int,
    fold: int,
    seed: int,
    cohort: Path,
    checksums: Mapping[Path, str],
    pretraining: Run | None,
    reference: Run,
    code: str,
    truth: Truth | None,
) -> Run:
    arm = ARMS[name]
    configs = ["finetune", task, *settings.overlays]
    values = {**settings.fine_tuning, **arm.fine_tuning, "seed": seed, "train_size": size}
    parser = parsed(configs, values)
    entries = load_entries(str(cohort), "training", ["image", "mask", *parser["label_keys"]], participants=size)
    batch = int(parser.get_parsed_content("batch_size"))
    per_epoch = math.ceil(len(entries) / batch)
    steps = settings.steps
    if arm.long:
        # the pretraining's compute is the number of scans that it saw
        scans = reference.epochs * len(load_entries(str(settings.auxiliary), "training"))
        steps += math.ceil(scans / min(batch, len(entries)))
    epochs = math.ceil(steps / per_epoch)
    values |= {
        "max_epochs": epochs,
        "val_interval": max(1, epochs // settings.validations),
        "learning_rate": settings.rates[0] if settings.rates else parser.get_parsed_content("learning_rate"),
    }
    tags = {"task": task, "initialisation": name, "train_size": size, "fold": fold, "seed": seed}
    return make_run(
        "fine-tuning",
        {key: str(value) for key, value in tags.items()},
        configs,
        values,
        cohort,
        checksums[cohort],
        code,
        None if pretraining is None else pretraining.key,
        # baselines are the same for all seeds and initialisations
        baselines=seed == 0 and name == settings.arms[0],
        truth=truth,
    )


def leading_metric(run: Run) -> dict[str, str]:
    """Tags that say which metric leads a task, and which way it and the other metrics of the task are better."""
    parser = parsed(run.configs, run.values)
    return {"metric": str(parser["key_metric_name"]), "lower_is_better": str(parser["lower_is_better"]).lower()}


def group(run: Run) -> Group:
    """Return what shares a rate: the runs of a setting in a fold, whose test participants are in no other's choice."""
    return *run.setting, run.tags["fold"]


def candidates(plan: Plan, runs: Sequence[Run], rates: Sequence[float]) -> dict[Group, list[Run]]:
    """Return the fine-tunings by which a rate is chosen: those of the first seed, with each rate."""
    first = [run for run in runs if run.tags["seed"] == "0"]
    return {group(run): [plan.with_rate(run, rate) for rate in rates] for run in first}


def trials(plan: Plan, runs: Sequence[Run], rates: Sequence[float]) -> list[Run]:
    """Return all :func:`candidates` in one list."""
    return [run for several in candidates(plan, runs, rates).values() for run in several]
