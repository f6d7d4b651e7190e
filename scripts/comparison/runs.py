"""One run of a comparison: its configs and values, and the key that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from scripts.io.files import sha256
from scripts.version import ROOT

CONFIGS = ROOT / "bundle" / "configs"

CODE = (
    *("transforms", "scripts/training", "scripts/network.py", "scripts/engines.py", "scripts/cohort/datalist.py"),
    *("bundle/configs/evaluate.json", "bundle/configs/evaluate_restoration.json"),
)
"""Code that decides what a training and its evaluation give."""

KEY_LENGTH = 16
"""Letters of a key that name its folder, and that a setting lists."""

Setting = tuple[str, str, str]
"""Task, initialisation and number of training subjects."""

WITHOUT_EFFECT = {"num_workers", "loader_workers", "device", "cache_device", "log_paths", "debug"}
"""Values that do not change what a training gives, and so do not tell runs apart."""


def code_checksum() -> str:
    """Checksum of the code that decides what a training gives, wherever it is checked out and whatever is committed."""
    files = [path for place in CODE for path in ((ROOT / place).rglob("*.py") if "." not in place else [ROOT / place])]
    return sha256(*sorted(files))


def checksum(content: Any) -> str:
    """Checksum of plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def config_files(names: Sequence[str]) -> list[str]:
    """Return the files of configs of the bundle."""
    return [str(CONFIGS / f"{name}.json") for name in names]


def parsed(names: Sequence[str], values: Mapping[str, Any]) -> ConfigParser:
    """Parse configs of the bundle with values of one's own; nothing is made of them."""
    parser = ConfigParser()
    parser.read_config(config_files(names))
    parser.update(dict(values))
    return parser


class Truth(NamedTuple):
    """The cohort of a fine-tuning with other labels: what its phantoms were made of.

    Attributes:
        dataset_dir: prepared cohort.
        cohort: its checksum.
    """

    dataset_dir: Path
    cohort: str


@dataclass(frozen=True, eq=False)
class Run:
    """A training with its evaluation.

    Attributes:
        stage: ``pretraining`` or ``fine-tuning``.
        tags: what tells the run apart for a person: ``initialisation``, ``task``, ``train_size``, ``fold``, ``seed``.
        configs: names of configs of the bundle; later ones override earlier ones.
        values: values of one's own.
        dataset_dir: prepared cohort.
        cohort: its checksum.
        epochs: length of the training.
        batch_size: scans of a step.
        key: identifies the run by its full config, the code, the cohort, and the key of the run of its weights.
        weights: key of the run of its weights, or None.
        baselines: whether the evaluation scores the baselines too.
        truth: against which the network is scored as well, or None; it has no part in the key.
    """

    stage: str
    tags: Mapping[str, str]
    configs: Sequence[str]
    values: Mapping[str, Any]
    dataset_dir: Path
    cohort: str
    epochs: int
    batch_size: int
    key: str = field(repr=False)
    weights: str | None = None
    baselines: bool = False
    truth: Truth | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        if self.stage == "pretraining":
            return f"pretraining {self.tags['initialisation']}"
        fold = f", fold {self.tags['fold']}" if self.tags["fold"] != "0" else ""
        return (
            f"{self.tags['task']}, {self.tags['initialisation']}, train size {self.tags['train_size']}"
            f"{fold}, seed {self.tags['seed']}, rate {self.values['learning_rate']:g}"
        )

    @property
    def setting(self) -> Setting:
        """What its parent run stands for."""
        return self.tags["task"], self.tags["initialisation"], self.tags["train_size"]

    @property
    def repetition(self) -> str:
        """Which run of its setting it is: fold and seed, as ``0.3``."""
        return f"{self.tags['fold']}.{self.tags['seed']}"

    def folder(self, out: Path) -> Path:
        """Folder of its checkpoints."""
        return folder_of(out, self.key)


def folder_of(out: Path, key: str) -> Path:
    """Folder of the checkpoints of a run."""
    return out / "runs" / key[:KEY_LENGTH]


def make_run(
    stage: str,
    tags: Mapping[str, str],
    configs: Sequence[str],
    values: Mapping[str, Any],
    dataset_dir: Path,
    cohort: str,
    code: str,
    weights: str | None = None,
    baselines: bool = False,
    truth: Truth | None = None,
) -> Run:
    """Make a run, with its key.

    Args:
        stage: see :class:`Run`.
        tags: see :class:`Run`.
        configs: see :class:`Run`.
        values: see :class:`Run`.
        dataset_dir: see :class:`Run`.
        cohort: see :class:`Run`.
        code: as :func:`code_checksum` gives it.
        weights: see :class:`Run`.
        baselines: see :class:`Run`.
        truth: see :class:`Run`.
    """
    parser = parsed(configs, values)
    content = {key: value for key, value in parser.get().items() if key not in WITHOUT_EFFECT}
    key = checksum([content, code, cohort, weights])
    epochs, batch = (int(parser.get_parsed_content(name)) for name in ("max_epochs", "batch_size"))
    return Run(
        *(stage, dict(tags), tuple(configs), dict(values), dataset_dir, cohort, epochs, batch, key),
        *(weights, baselines, truth),
    )
