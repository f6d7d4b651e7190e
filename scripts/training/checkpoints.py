"""Checkpoints: the best model, the latest one to go on from, and the transfer of weights to another task."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointLoader
from monai.networks import copy_model_state
from torch import nn

from scripts.errors import exits_on_input_error
from scripts.files import whole_file
from transforms.errors import InputError
from transforms.scheme import DEFAULT_SCHEME, load_scheme

SCHEME_TOLERANCE = 1e-4
"""Largest difference of a component of two unit vectors that are the same but for their text."""

KEPT = 2
"""Checkpoints kept of a training: should the machine fail while one is written, there is the one before."""

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain Python values.

    Args:
        path: file with the network's tensors, themselves or under ``network``.

    Returns:
        a dictionary with ``network``, the tensors by name, and whatever else the file holds.

    Raises:
        InputError: the file is missing, is no checkpoint, holds other objects, or no tensors.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError, ValueError):
        raise InputError(f"{path}: found no checkpoint of tensors and plain values, expected one.") from None
    if isinstance(checkpoint, Mapping) and "network" not in checkpoint:
        checkpoint = {"network": checkpoint}
    tensors = checkpoint["network"] if isinstance(checkpoint, Mapping) else None
    if not isinstance(tensors, Mapping) or not tensors or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{path}: found no tensors of a network, expected a checkpoint made by a training.")
    return dict(checkpoint)


def transfer_weights(
    network: nn.Module, source: Mapping[str, torch.Tensor], name: str, exclude: str | None = None
) -> int:
    """Copy all tensors, or all but those of one layer, into a network.

    Args:
        network: receives the tensors.
        source: tensors by name.
        name: of the source, for messages.
        exclude: name of the layer that keeps its own tensors, or None.

    Returns:
        the number of tensors copied.

    Raises:
        InputError: a tensor is missing, unexpected or of another shape; nothing is copied then.
    """

    def taken(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: value for key, value in tensors.items() if exclude is None or not key.startswith(f"{exclude}.")}

    wanted, offered = taken(network.state_dict()), taken(source)
    missing, unexpected = sorted(wanted.keys() - offered.keys()), sorted(offered.keys() - wanted.keys())
    if missing or unexpected:
        raise InputError(
            f"{name}: found {len(offered.keys() & wanted.keys())} of {len(wanted)} expected tensors"
            + (f", none named {missing[0]}" if missing else "")
            + (f", and {len(unexpected)} unexpected ones such as {unexpected[0]}" if unexpected else "")
            + "; is it the checkpoint of another network?"
        )
    for key, value in wanted.items():
        if offered[key].shape != value.shape:
            raise InputError(
                f"{name}: found {key} of shape {tuple(offered[key].shape)}, expected {tuple(value.shape)}."
            )
    _, copied, _ = copy_model_state(network, offered)
    if set(copied) != set(wanted):
        raise InputError(f"{name}: {len(copied)} tensors were transferred, expected {len(wanted)}.")
    return len(copied)


@exits_on_input_error
def initialise(network: nn.Module, pretrained: str | None = None, exclude: str = "output_block") -> nn.Module:
    """Give a network its first weights: all of a pretrained one's but the output layer's, or its own random ones.

    Args:
        network: receives the weights.
        pretrained: checkpoint of a network that differs in the output layer alone, or None.
        exclude: name of the output layer.

    Returns:
        the network.

    Raises:
        SystemExit: the checkpoint does not hold exactly the expected tensors; the sentence says what is wrong.
    """
    if pretrained is None:
        logger.info("initialisation: random")
        return network
    copied = transfer_weights(network, read_checkpoint(pretrained)["network"], str(pretrained), exclude)
    total = len(network.state_dict())
    logger.info(
        "initialisation: %d of %d tensors from %s, %d of %s random", copied, total, pretrained, total - copied, exclude
    )
    return network


def start_at_zero(network: nn.Module, layer: str = "output_block") -> nn.Module:
    """Set the output layer to zero, so that a training for restoration begins with no output rather than a random one.

    64 nearly equal volumes are far from random mixtures of the output layer's inputs, and a training has to take these
    mixtures away first (``docs/artifacts.md`` has the effect). Residual networks are started likewise, with zeros in
    the last normalisation of each block (Goyal et al., arXiv:1706.02677, section 5.1).

    Args:
        network: whose layer is changed.
        layer: its name; all its parameters become 0.

    Returns:
        the network.
    """
    for parameter in network.get_submodule(layer).parameters():
        nn.init.zeros_(parameter)
    return network


@exits_on_input_error
def describe_origin(pretrained: str | None) -> dict[str, str]:
    """Say what a training starts from.

    Args:
        pretrained: checkpoint, or None.

    Returns:
        ``initialisation``: ``random``, or what the checkpoint was pretrained to do (``artifact_removal`` or
        ``autoencoder``; of a fine-tuned one, what it started from); and ``run``: the MLflow run that the checkpoint
        comes from, where it says so.
    """
    if pretrained is None:
        return {"initialisation": "random", "run": ""}
    origin = read_checkpoint(pretrained).get("origin", {})
    parameters = origin.get("parameters", {})
    start = parameters.get("pretext") or parameters.get("initialisation", "pretrained")
    return {"initialisation": start, "run": origin.get("mlflow_run", "")}


@exits_on_input_error
def load_network(
    network: nn.Module, checkpoint: str, preparation: Mapping[str, Any] | None = None, task: str | None = None
) -> nn.Module:
    """Load all weights of a trained network.

    Args:
        network: receives the weights.
        checkpoint: made by a training.
        preparation: how the scans are prepared that it will be applied to: ``bvalue``, ``voxel_size`` and ``scheme``,
            unit vectors ``(C, 3)``, a path or None for the default one.
        task: what it will be applied for: ``restoration``, ``segmentation``, ``crossings`` or ``direction``.

    Returns:
        the network.

    Raises:
        SystemExit: the checkpoint does not hold exactly the network's tensors, or says that it was trained for another
            task or on scans that were prepared in another way; the sentence says what is wrong.
    """
    content = read_checkpoint(checkpoint)
    origin = content.get("origin", {})
    trained_for = origin.get("parameters", {}).get("task", task)
    # networks for tissue and for crossings have the same tensors
    if task is not None and trained_for != task:
        raise InputError(f"{checkpoint}: found a network for {trained_for}, expected one for {task}.")
    trained_on = origin.get("preparation")
    if preparation is not None and trained_on:
        for name in ("bvalue", "voxel_size"):
            if float(trained_on[name]) != float(preparation[name]):
                raise InputError(
                    f"{checkpoint}: found a network trained at {name} {trained_on[name]:g}, "
                    f"expected {preparation[name]:g}; prepare the scans with {name} {trained_on[name]:g}."
                )
        found = np.array(trained_on["scheme"])
        scheme = DEFAULT_SCHEME if preparation["scheme"] is None else preparation["scheme"]
        expected = load_scheme(scheme) if isinstance(scheme, (str, Path)) else np.array(scheme)
        if found.shape != expected.shape or not np.allclose(found, expected, atol=SCHEME_TOLERANCE):
            raise InputError(
                f"{checkpoint}: found a network trained on another scheme of {len(found)} directions, "
                "expected that of the scans; prepare them with --scheme scheme.bvec of its cohort."
            )
    transfer_weights(network, content["network"], str(checkpoint))
    return network


class BestModel:
    """Handler of an evaluator: keep the weights of the best validation in a file.

    Its own state goes into the checkpoints of a training, so that a resumed one knows what it has to beat.

    Args:
        network: whose weights are kept.
        path: of the file, with ``network`` and ``origin`` (epoch, value of the metric, and what ``origin`` returns).
        metric: name of a metric in the evaluator's state.
        lower_is_better: for losses.
        origin: called when saving; plain values that say where the weights come from.
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
        """Save the weights where the metric is better than ever."""
        value = float(engine.state.metrics[self.metric])
        if math.isnan(value) or (self.best is not None and self.sign * value <= self.sign * self.best):
            return
        self.best = value
        origin = {"epoch": engine.state.epoch, self.metric: value, **(self.origin() if self.origin else {})}
        with whole_file(self.path) as partial:
            torch.save({"network": self.network.state_dict(), "origin": origin}, partial)
        logger.info("best %s so far: %.5f, saved to %s", self.metric, value, self.path)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training has to know."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over from an earlier training."""
        self.best = state["best"]


def _checkpoints(folder: str | Path) -> list[Path]:
    """Checkpoints of completed epochs, the latest last."""
    epochs = {
        int(match[1]): path
        for path in Path(folder).glob("checkpoint_epoch=*.pt")
        if (match := re.fullmatch(r"checkpoint_epoch=(\d+)\.pt", path.name))
    }
    return [epochs[epoch] for epoch in sorted(epochs)]


@exits_on_input_error
def latest_checkpoint(folder: str | Path) -> str:
    """Find the checkpoint of the last completed epoch, ``checkpoint_epoch=<n>.pt``.

    Raises:
        SystemExit: there is none.
    """
    found = _checkpoints(folder)
    if not found:
        raise InputError(f"{folder}: found no checkpoint_epoch=<n>.pt, expected the output of a training cut off.")
    return str(found[-1])


class TrainingCheckpoint:
    """Handler of a trainer: keep what is needed to go on after each epoch, and go on where asked to.

    The trainer itself is one of the things kept; a config cannot name it in the trainer's own handlers. A training that
    goes on has the learning rate of its config, not that of the checkpoint, so that it can be lowered.

    Args:
        folder: where ``checkpoint_epoch=<n>.pt`` goes, the last two of them.
        objects: with ``state_dict`` and ``load_state_dict``, by name.
        resume: load the latest checkpoint of the folder before the first epoch.
        map_location: device to load to.
    """

    def __init__(
        self, folder: str, objects: Mapping[str, Any], resume: bool = False, map_location: torch.device | None = None
    ) -> None:
        self.folder = Path(folder)
        self.objects = objects
        self.resume = resume
        self.map_location = map_location

    @exits_on_input_error
    def attach(self, engine: Engine) -> None:
        """Attach to a trainer.

        Raises:
            SystemExit: there is nothing to go on with, or the folder holds a training that is not to be gone on with.
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
        with whole_file(path) as partial:
            torch.save({name: value.state_dict() for name, value in objects.items()}, partial)
        for old in _checkpoints(self.folder)[:-KEPT]:
            old.unlink()
