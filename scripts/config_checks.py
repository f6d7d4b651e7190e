"""One check of a config before any work: what runs, its ids, and their values.

Each self-contained config calls :func:`check_config` in its ``initialize``. A new value gets its kind in ``VALUES``.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from scripts.cohort.prepared import KEYS_ON_DISK
from scripts.component_checks import check_components, make_without_data, nearest, references, try_network
from scripts.errors import is_true
from scripts.parsed_config import caller
from scripts.training.checkpoints import require_folder, require_resumable, restore
from scripts.training.schedule import DECAYS
from scripts.training.tracking_store import require_store
from transforms.artifacts import PRESETS, Artifact
from transforms.errors import InputError
from transforms.targets import CHANNELS

TASKS = ("segmentation", "crossings", "direction")
"""Tasks of a fine-tuning; each has a config overlay of its name."""

RUNS = ("run", "training", "evaluating", "inference")
"""Ids that a person runs."""

UNREFERRED = {
    *RUNS,
    *("_meta_", "imports", "initialize", "finalize", "bundle_root", "dataset_dir"),
    *("train", "train::trainer", "validate", "initialised", "metric_classes"),
}
"""Ids that nothing in a config may refer to: MONAI reads them, or an evaluation does."""

OF_PAPER = {"encoding", "direction_losses", "preset", "gain", "clean_share"}
"""Ids that ``paper.json`` sets or replaces for trainings of all kinds, and that one kind has no use for."""

MISSING = object()
"""A value that no config has."""

FIRST, LAST = "imports", "run"
"""Ids with which each self-contained config begins and ends."""

SECTIONS = {"train": "trainer", "validate": "evaluator"}
"""Ids that only hold other ids, and the last of these."""

HIGHEST_RATE = 1e6
"""Largest learning rate: far above any of use, and far below what overflows in float32."""


@dataclass(frozen=True)
class Kind:
    """What a value must be."""

    expected: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_list(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(fits, value))


def _whole(least: int) -> Kind:
    return Kind(f"a whole number of at least {least}", lambda v: _is_number(v) and isinstance(v, int) and v >= least)


def _one_of(*names: str | None) -> Kind:
    return Kind(f"one of {', '.join(map(str, filter(None, names)))}", lambda value: value in names)


COUNT, INDEX = _whole(1), _whole(0)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
RATE = Kind(f"a number above 0, up to {HIGHEST_RATE:g}", lambda value: _is_number(value) and 0 < value <= HIGHEST_RATE)
NOT_NEGATIVE = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
TEXT = Kind("a text", _is_text)
NAME = Kind("a text", lambda value: value is None or _is_text(value))
PATH = Kind("one path", lambda value: value is None or _is_text(value))
PLACE = Kind("one path", _is_text)
FOLDER = Kind("one path", lambda value: isinstance(value, str))
PATHS = Kind("paths", lambda value: value is None or _is_text(value) or _is_list(value, _is_text))

VALUES: dict[str, Kind] = {
    "task": _one_of(*TASKS, "restoration"),
    **dict.fromkeys(("output_dir", "evaluation_dir", "checkpoint"), PLACE),
    **dict.fromkeys(("pretrained", "dwi", "bval", "bvec", "brain_mask", "scheme"), PATH),
    # that of an inference is the folder of the scan, which may be the working directory
    "dataset_dir": FOLDER,
    "ensemble": PATHS,
    **dict.fromkeys(("tracking_uri", "experiment_name"), TEXT),
    "run_name": NAME,
    "pretext": TEXT,
    **dict.fromkeys(("max_epochs", "val_interval", "batch_size", "draws", "output_channels"), COUNT),
    "train_size": Kind(f"{COUNT.expected}, or nothing", lambda value: value is None or COUNT.fits(value)),
    **dict.fromkeys(("num_workers", "loader_workers", "seed", "validation_seed"), INDEX),
    "learning_rate": RATE,
    **dict.fromkeys(("bvalue", "voxel_size"), POSITIVE),
    **dict.fromkeys(("b0_max", "warmup_epochs", "new_epochs"), NOT_NEGATIVE),
    "transferred_rate": Kind(
        f"a number from 0 to {HIGHEST_RATE:g}", lambda value: _is_number(value) and 0 <= value <= HIGHEST_RATE
    ),
    "transferred_layers": Kind(
        "a list of layers, or nothing", lambda value: value is None or _is_list(value, _is_text)
    ),
    "label_keys": Kind(
        f"a list of some of {', '.join(KEYS_ON_DISK)}", lambda value: _is_list(value, KEYS_ON_DISK.__contains__)
    ),
    "clean_share": Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "decay": _one_of(*DECAYS),
    **dict.fromkeys(("resume", "log_paths", "system_metrics", "debug", "amp", "lower_is_better"), FLAG),
    "artifacts": Kind("a list of artifacts", lambda value: _is_list(value, lambda one: isinstance(one, Artifact))),
    "loader_artifacts": Kind("a list of transforms", lambda value: _is_list(value, callable)),
    "encoding": _one_of(*CHANNELS),
    "preset": _one_of(None, *PRESETS),
}
"""Kind of each value that a person sets, by its id; in this order they are checked."""


def check_config() -> None:
    """Refuse a config that would do nothing, do it to the wrong place, or end in the middle.

    Raises:
        InputError: one sentence with the id, what was found and what was expected.
    """
    parser, workflow = caller(ConfigParser), caller(ConfigWorkflow)
    if parser is None:
        raise RuntimeError("check_config is called by a config")
    config = parser.get()
    run = "" if workflow is None else str(workflow.run_id)
    if workflow is not None:
        _check_run(run, config)
    _check_files(config)
    check_components(parser, VALUES)
    _check_ids(config)
    _take_as_typed(parser)
    _check_references(parser)
    # whether mixed precision is used depends on the device
    for name in ("device", "cache_device"):
        if name in config:
            _check_device(name, parser.get_parsed_content(name))
    values = _check_values(parser)
    _check_place(Path(values.get("evaluation_dir") or values["output_dir"]))
    engines = re.findall("@(train::trainer|validate::evaluator)", json.dumps(config.get(run), default=str))
    if engines:
        require_store(values["tracking_uri"])
    if "train::trainer" in engines:
        require_folder(values["output_dir"], values["resume"])
    if not (Path(parser.get_parsed_content("bundle_root")) / "configs").is_dir():
        # monai.bundle.load takes the network alone, from wherever the program is: files of the bundle cannot be found
        return
    made = make_without_data(parser, run)
    if "train::trainer" in engines:
        try_network(made)
        if values["resume"]:
            objects = {name: made.get_parsed_content(name) for name in ("network", "optimizer")}
            parameters = made.get_parsed_content("tracker::parameters")
            path, checkpoint = require_resumable(values["output_dir"], list(objects), parameters, values["max_epochs"])
            for name, thing in objects.items():
                restore(thing, checkpoint[name], name, path)


def _check_run(run: str, config: Mapping[str, Any]) -> None:
    there = [name for name in RUNS if isinstance(config.get(name), list)]
    if run not in there:
        raise InputError(f"run {run}: expected one of {', '.join(there)} with these configs{nearest(run, there)}")


def _check_files(config: Mapping[str, Any]) -> None:
    """Refuse an overlay before its own config, which would undo it, and a fine-tuning without the overlay of its task.

    Ids keep the order of the files.
    """
    before = list(itertools.takewhile(lambda name: name != FIRST, (name for name in config if name != "_meta_")))
    if before and FIRST in config:
        raise InputError(
            f"--config_file: found {before[0]} before the {FIRST} of a whole config, which would undo it, "
            "expected the whole config first and overlays after it."
        )
    if config.get("task", "") is None:
        overlays = ", ".join(f"{task}.json" for task in TASKS)
        raise InputError(f"--config_file: found finetune.json without a task, expected one of {overlays} after it.")


def _check_ids(config: Mapping[str, Any]) -> None:
    """Refuse an id that nothing refers to: it would be ignored.

    Those of the self-contained config may be out of use, where a value takes the place of what referred to them.
    """
    used = UNREFERRED | (OF_PAPER if "paper_losses" in config else set())
    for reference in references(config):
        words = reference.split("::")
        used |= {"::".join(words[:count]) for count in range(1, len(words) + 1)}
    nested = [f"{section}::{name}" for section in SECTIONS for name in config.get(section) or ()]
    added = _after(LAST, config)
    for section, last in SECTIONS.items():
        added += [f"{section}::{name}" for name in _after(last, config.get(section) or ())]
    for name in added:
        if name not in used:
            known = sorted(used & {*config, *nested})
            raise InputError(f"--{name}: found an id that nothing in these configs uses{nearest(name, known)}")


def _check_references(parser: ConfigParser) -> None:
    """Refuse a reference to an id that no config has, as in an overlay after a config of another kind."""
    config = parser.get()
    for name, part in config.items():
        if name == "_meta_":  # texts for people
            continue
        for reference in dict.fromkeys(references(part)):
            if parser.get(reference, MISSING) is MISSING:
                raise InputError(
                    f"--{name}: found a reference to {reference}, an id that none of these configs has, expected one "
                    "that they have; an overlay is of use only after the config that it is made for."
                )


def _after(last: str, names: Iterable[str]) -> list[str]:
    """Ids that overlays and the command line add, in the order of a config; all of them where there is no last one."""
    given = [name for name in names if name != "_meta_"]
    return given[given.index(last) + 1 :] if last in given else given


def _take_as_typed(parser: ConfigParser) -> None:
    """Take values of the command line as a person means them.

    A path that begins with ``$`` or ``@`` is no code and no reference. ``true`` and ``false`` are no text, as which the
    command line of MONAI gives them.
    """
    typed = {word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]}
    paths = [name for name, kind in VALUES.items() if kind in (PLACE, FOLDER, PATH) and name in parser.get()]
    codes = [name for name in paths if str(parser[name]).startswith(("$", "@")) and parser[name] in typed]
    # such a path is relative, so this is the same one
    meant: dict[str, Any] = {name: os.path.join(".", parser[name]) for name in codes}
    flags = [name for name, kind in VALUES.items() if kind is FLAG and isinstance(parser.get().get(name), str)]
    meant |= {name: is_true(parser[name]) for name in flags if parser[name].lower() in ("true", "false")}
    for name, value in meant.items():
        parser[name] = value
    if meant:
        parser.parse(reset=True)


def _check_values(parser: ConfigParser) -> dict[str, Any]:
    """Check each value that a person may set, and return them; what a component makes is left to it."""
    values = {}
    for name, kind in VALUES.items():
        if name not in parser.get() or isinstance(parser[name], Mapping):
            continue
        value = values[name] = parser.get_parsed_content(name)
        if kind.fits(value):
            continue
        hint = ""
        if isinstance(value, str) and _reads_as_number(value):
            hint = "; in YAML, write 1.0e-4 and not 1e-4"
        elif _is_number(value) and kind in (TEXT, NAME, PATH, PLACE, FOLDER):
            hint = f"; double quotes make a text of it: \"'{value}'\""
        raise InputError(f"--{name}: found {value!r}, expected {kind.expected}{hint}.")
    return values


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_device(name: str, device: Any) -> None:
    try:
        torch.ones(1, device=device).cpu()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise InputError(
            f"--{name}: found {str(device)!r}, which cannot be used ({why}), expected cpu, or cuda where there is one."
        ) from None


def _check_place(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to; nothing is left there."""
    nearest = folder.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
    except OSError as error:
        raise InputError(f"{folder}: found that no path can be this ({error.strerror}), expected one.") from None
    if not nearest.is_dir():
        raise InputError(f"{folder}: found a file at {nearest}, expected a folder for the output.")
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"{folder}: found that {nearest} cannot be written to ({error.strerror}), expected a folder for the output."
        ) from None
