"""Checkpoints of a training: the model of the best validation, and the latest epoch to resume from."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from torch import nn

from scripts.io.files import whole_file
from scripts.training.finite import require_finite_weights
from transforms.errors import InputError

MAX_KEPT = 2
"""Number of checkpoints that a training keeps: if the machine fails while it writes one, the previous one is there."""

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: of the file.
        content: plain values and tensors; ``network`` holds the weights by name.

    Raises:
        InputError: a weight is not finite; what was there stays.
    """
    require_finite_weights(str(path), content.get("network", {}))
    # torch writes to a file by itself, and its error says nothing of a full disk
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with whole_file(path) as partial:
        partial.write_bytes(buffer.getvalue())


class BestModel:
    """Handler of an evaluator: keep the weights of the best validation in a file.

    The checkpoints of a training hold the state of this handler, so that a resumed training knows the best value so
    far.

    Args:
        network: network whose weights are kept.
        path: path of the file, with ``network`` and ``origin`` (epoch, value of the metric, and what ``origin``
            returns).
        metric: name of a metric in the evaluator's state.
        lower_is_better: whether lower values are better, as those of losses.
        origin: function called when saving; it returns plain values that say where the weights come from.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str,
        metric: str,
        lower_is_better: bool,
        origin: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.sign = -1.0 if lower_is_better else 1.0
        self.origin = origin
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the weights if the metric is better than ever before.

        Raises:
            InputError: the metric or a weight is not finite.
        """
        value = float(engine.state.metrics[self.metric])
        if not math.isfinite(value):
            raise InputError(
                f"validation: found {self.metric} = {value}, expected a number; has it a scan with labelled voxels?"
            )
        if self.best is not None and self.sign * value <= self.sign * self.best:
            return
        self.best = value
        origin = {"epoch": engine.state.epoch, self.metric: value, **(self.origin() if self.origin else {})}
        write_checkpoint(self.path, {"network": self.network.state_dict(), "origin": origin})
        logger.info("best %s so far: %.5f, saved to %s", self.metric, value, self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the best value of an earlier training."""
        self.best = state["best"]


def _checkpoints(folder: str | Path) -> list[Path]:
    """Find the checkpoints of completed epochs, the latest last."""
    epochs = {
        int(match[1]): path
        for path in Path(folder).glob("checkpoint_epoch=*.pt")
        if (match := re.fullmatch(r"checkpoint_epoch=(\d+)\.pt", path.name))
    }
    return [epochs[epoch] for epoch in sorted(epochs)]


def latest_checkpoint(folder: str | Path) -> str:
    """Find the checkpoint of the last completed epoch, ``checkpoint_epoch=<n>.pt``.

    Raises:
        InputError: there is none.
    """
    found = _checkpoints(folder)
    if not found:
        raise InputError(f"{folder}: found no checkpoint_epoch=<n>.pt, expected the output of a training cut off.")
    return str(found[-1])


class TrainingCheckpoint:
    """Handler of a trainer: save a checkpoint after each epoch, and resume from the latest one on request.

    The handler adds the trainer itself to the checkpoint, because a config cannot name the trainer in the trainer's own
    handlers. A resumed training has the learning rate of its config, not that of the checkpoint, so a user can lower
    it.

    Args:
        folder: folder of the checkpoints ``checkpoint_epoch=<n>.pt``; the last two stay there.
        objects: objects to save, with ``state_dict`` and ``load_state_dict``, by name.
        resume: whether to load the latest checkpoint of the folder before the first epoch.
        map_location: device to load to.
    """

    def __init__(
        self, folder: str, objects: Mapping[str, Any], resume: bool = False, map_location: torch.device | None = None
    ) -> None:
        self.folder = Path(folder)
        self.objects = objects
        self.resume = resume
        self.map_location = map_location

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer.

        Raises:
            InputError: there is no checkpoint to resume from, or there is one and ``resume`` is not set.
        """
        objects = {**self.objects, "trainer": engine}
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save, objects)
        if self.resume:
            latest = latest_checkpoint(self.folder)
            optimizers = [thing for thing in objects.values() if isinstance(thing, torch.optim.Optimizer)]
            rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
            CheckpointLoader(latest, objects, map_location=self.map_location).attach(engine)  # type: ignore[arg-type]
            engine.add_event_handler(Events.STARTED, self._set_rates, optimizers, rates)
        elif found := _checkpoints(self.folder):
            raise InputError(
                f"{found[-1]}: found the checkpoint of an earlier training, "
                "expected an --output_dir without one, or resume.json to go on with it."
            )

    @staticmethod
    def _set_rates(optimizers: list[torch.optim.Optimizer], rates: list[list[float]]) -> None:
        for optimizer, its_rates in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, its_rates, strict=True):
                group["lr"] = rate

    def _save(self, engine: Engine, objects: Mapping[str, Any]) -> None:
        path = self.folder / f"checkpoint_epoch={engine.state.epoch}.pt"
        write_checkpoint(path, {name: value.state_dict() for name, value in objects.items()})
        for old in _checkpoints(self.folder)[:-MAX_KEPT]:
            old.unlink()
