"""Checkpoints of a training: the model of the best validation, and the latest epoch to resume from."""

from __future__ import annotations

import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from ignite.engine import Engine, Events
from torch import nn

from scripts.io.files import sweep_partials, whole_file
from scripts.training.finite import require_finite_weights
from scripts.training.processes import rank
from scripts.training.weights import read_checkpoint, transfer_weights
from transforms.errors import InputError, counted

MAX_KEPT = 2
"""Number of checkpoints that a training keeps: if the machine fails while it writes one, the previous one is there."""

LARGEST = "largest_over_scans"
"""Key of a checkpoint's origin: the largest value over the scans of the validation, by metric."""

LOCK = "training.lock"
"""File in an output folder that the training in it holds locked; the system unlocks it where a process ends."""

SAME = ("task", "cohort")
"""Parameters of a training that a resumed one must share."""

logger = logging.getLogger(__name__)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Of a training in several processes, the first one writes.

    Args:
        path: of the file.
        content: plain values and tensors; ``network`` holds the weights by name.

    Raises:
        InputError: a weight is not finite; what was there stays.
    """
    require_finite_weights(str(path), content.get("network", {}))
    if rank():
        return
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
        largest: metrics whose largest value over the scans of the validation is kept with the weights.
    """

    def __init__(
        self,
        network: nn.Module,
        path: str,
        metric: str,
        lower_is_better: bool,
        origin: Callable[[], dict[str, Any]] | None = None,
        largest: Sequence[str] = (),
    ) -> None:
        self.network = network
        self.path = Path(path)
        self.metric = metric
        self.sign = -1.0 if lower_is_better else 1.0
        self.origin = origin
        self.largest = list(largest)
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the weights if the metric is better than ever before.

        Raises:
            InputError: the metric or a weight is not finite.
        """
        if self.metric not in engine.state.metrics:
            known = ", ".join(engine.state.metrics)
            raise InputError(f"best_model: found no metric {self.metric} in the validation, expected one of {known}.")
        value = float(engine.state.metrics[self.metric])
        if not math.isfinite(value):
            raise InputError(
                f"validation: found {self.metric} = {value}, expected a number; has it a scan with labelled voxels?"
            )
        if self.best is not None and self.sign * value <= self.sign * self.best:
            return
        self.best = value
        origin = {"epoch": engine.state.epoch, self.metric: value, **(self.origin() if self.origin else {})}
        if self.largest:
            state: Any = engine.state
            origin[LARGEST] = {name: float(torch.as_tensor(state.metric_details[name]).max()) for name in self.largest}
        # weights of a GPU's memory cannot be loaded where there is none
        weights = {name: values.cpu() for name, values in self.network.state_dict().items()}
        write_checkpoint(self.path, {"network": weights, "origin": origin})
        logger.info("best %s so far: %.5f, saved to %s", self.metric, value, self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to know."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the best value of an earlier training: that of its file, which may be lost or newer than a state.

        A file that is lost must not stay lost because no later validation is as good.
        """
        try:
            self.best = float(read_checkpoint(self.path)["origin"][self.metric])
        except (InputError, KeyError):
            self.best = None
            if state["best"] is not None:
                logger.warning("%s is gone or damaged: the next validation counts as the best", self.path)


def epoch_checkpoints(folder: str | Path) -> dict[int, Path]:
    """Find the checkpoints of completed epochs, by epoch, the latest last."""
    epochs = {
        int(match[1]): path
        for path in Path(folder).glob("checkpoint_epoch=*.pt")
        if (match := re.fullmatch(r"checkpoint_epoch=(\d+)\.pt", path.name))
    }
    return dict(sorted(epochs.items()))


def latest_checkpoint(folder: str | Path) -> str:
    """Find the checkpoint of the last completed epoch, ``checkpoint_epoch=<n>.pt``.

    Raises:
        InputError: there is none.
    """
    found = epoch_checkpoints(folder)
    if not found:
        raise InputError(f"{folder}: found no checkpoint_epoch=<n>.pt, expected the output of a training cut off.")
    return str(found[max(found)])


def read_latest_checkpoint(folder: str | Path) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint of the last completed epoch; one that is damaged gives way to the one before.

    Raises:
        InputError: there is none that can be read.
    """
    damaged = latest_checkpoint(folder)
    for path in reversed(epoch_checkpoints(folder).values()):
        try:
            return path, read_checkpoint(path)
        except InputError as error:
            logger.warning("%s It is passed over.", error)
            damaged = str(path)
    raise InputError(f"{damaged}: found a damaged checkpoint and none before it, expected one to go on from.")


def lock_folder(folder: str | Path) -> FileLock:
    """Keep a folder for the trainings of this process, until the lock is released or the process ends.

    Raises:
        InputError: a training of another process is at work there.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(folder) / LOCK, timeout=0, thread_local=False, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: found a training at work there, expected an --output_dir of its own.") from None
    return lock


def require_folder(folder: str | Path, resume: bool) -> None:
    """Refuse an output folder in which a training cannot begin, or a resumed one go on.

    Raises:
        InputError: another training is at work there, there is no checkpoint to resume from, or there is one and
            ``resume`` is not set.
    """
    if rank():
        # the folder is that of the first process
        return
    if (Path(folder) / LOCK).is_file():
        lock_folder(folder).release()
    if resume:
        latest_checkpoint(folder)
    elif epoch_checkpoints(folder):
        raise InputError(
            f"{latest_checkpoint(folder)}: found the checkpoint of an earlier training, "
            "expected an --output_dir without one, or resume.json to go on with it."
        )


def require_resumable(
    folder: str | Path,
    objects: Sequence[str],
    parameters: Mapping[str, Any] | None,
    max_epochs: int | None,
) -> tuple[Path, dict[str, Any]]:
    """Read the checkpoint that a resumed training goes on from, and refuse that of another training.

    Args:
        folder: of the checkpoints.
        objects: names of what the training restores.
        parameters: those of the training, of which ``SAME`` are compared; None for a training that has none.
        max_epochs: epochs of the training, or None.

    Returns:
        the path of the checkpoint, and what it holds.

    Raises:
        InputError: there is none that can be read, or it is that of another training.
    """
    path, checkpoint = read_latest_checkpoint(folder)
    origin = checkpoint.get("origin", {})
    if missing := [name for name in (*objects, "epoch") if name not in {**checkpoint, **origin}]:
        raise InputError(f"{path}: found no {missing[0]}, expected the checkpoint of an epoch of this training.")
    found = origin.get("parameters", {})
    for name in SAME if parameters is not None else ():
        # as tracking keeps them
        expected = str(parameters[name]) if parameters is not None and name in parameters else None
        if found.get(name) != expected:
            raise InputError(
                f"{path}: found a training with another {name} ({found.get(name)}), expected {expected}; "
                "a training goes on with what it began with."
            )
    if max_epochs is not None and origin["epoch"] > max_epochs:
        done = counted(origin["epoch"], "epoch")
        raise InputError(f"{path}: found {done} done, expected --max_epochs of at least as many.")
    return path, checkpoint


class TrainingCheckpoint:
    """Handler of a trainer: save a checkpoint after each epoch, and resume from the latest one on request.

    A resumed training takes the epoch, and the state of its objects, from the checkpoint, and everything else from its
    config: the batch size, and so the steps of an epoch, and the settings of the optimizer.

    Args:
        folder: folder of the checkpoints ``checkpoint_epoch=<n>.pt``; the last two stay there.
        objects: objects to save, with ``state_dict`` and ``load_state_dict``, by name.
        resume: whether to load the latest checkpoint of the folder before the first epoch.
        origin: function called when saving; see :class:`BestModel`. A resumed training must have its task and cohort.
    """

    def __init__(
        self,
        folder: str,
        objects: Mapping[str, Any],
        resume: bool = False,
        origin: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.objects = dict(objects)
        self.resume = resume
        self.origin = origin

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer.

        Raises:
            InputError: see :func:`require_folder`; or the checkpoint is that of another training.
        """
        if rank() == 0:
            lock = lock_folder(self.folder)
            require_folder(self.folder, self.resume)
            sweep_partials(self.folder)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
            engine.add_event_handler(Events.COMPLETED, lambda: lock.release(force=True))
        if self.resume:
            parameters = self.origin()["parameters"] if self.origin else None
            found = require_resumable(self.folder, list(self.objects), parameters, engine.state.max_epochs)
            engine.add_event_handler(Events.STARTED, self._load, *found)

    def _load(self, engine: Engine, path: Path, checkpoint: Mapping[str, Any]) -> None:
        epoch, state = checkpoint["origin"]["epoch"], engine.state
        for name, thing in self.objects.items():
            restore(thing, checkpoint[name], name, path)
        engine.load_state_dict({"epoch": epoch, "epoch_length": state.epoch_length, "max_epochs": state.max_epochs})
        if epoch == state.max_epochs:
            logger.warning("nothing left to do: all epochs (%d) are in %s", epoch, path)
        else:
            logger.info("going on after epoch %d, from %s", epoch, path)

    def _save(self, engine: Engine) -> None:
        path = self.folder / f"checkpoint_epoch={engine.state.epoch}.pt"
        origin = {"epoch": engine.state.epoch, **(self.origin() if self.origin else {})}
        states = {name: thing.state_dict() for name, thing in self.objects.items()}
        write_checkpoint(path, {**states, "trainer": engine.state_dict(), "origin": origin})
        for old in list(epoch_checkpoints(self.folder).values())[:-MAX_KEPT]:
            old.unlink()


def restore(thing: Any, state: Mapping[str, Any], name: str, path: Path) -> None:
    """Restore what an object has learned, and leave what its config says of it.

    Args:
        thing: network, optimizer, or anything with ``load_state_dict``.
        state: its ``state_dict`` in a checkpoint.
        name: of the object, for messages.
        path: of the checkpoint, for messages.

    Raises:
        InputError: the state is that of another object.
    """
    try:
        if isinstance(thing, nn.Module):
            transfer_weights(thing, state, str(path))
        elif isinstance(thing, torch.optim.Optimizer):
            settings = [{k: v for k, v in group.items() if k != "params"} for group in thing.param_groups]
            thing.load_state_dict(dict(state))
            for group, own in zip(thing.param_groups, settings, strict=True):
                group.update(own)
        else:
            thing.load_state_dict(state)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: found another {name} ({error}), expected that of this config.") from None
