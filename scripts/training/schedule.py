"""Learning rates over a training: warm-up, decay, and new layers that learn first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from transforms.errors import InputError

DECAYS = ("polynomial", "cosine", "none")
"""How a learning rate falls from its highest value."""

POWER = 0.9
"""Exponent of the polynomial decay, the value of nnU-Net (Isensee et al., Nature Methods 18:203, 2021)."""


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    transferred: Sequence[str] = (),
    transferred_rate: float = 1.0,
) -> list[dict[str, Any]]:
    """Split the parameters of a network for an optimizer: those that start at random, and those taken over.

    Args:
        network: network.
        learning_rate: highest learning rate of parameters that start at random.
        transferred: names of the tensors taken over, as ``scripts.training.weights.transferred`` gives them.
        transferred_rate: highest learning rate of parameters taken over, as a factor of ``learning_rate``.

    Returns:
        one or two groups with ``params``, ``lr`` and ``name``: ``new``, and ``transferred`` if there are any.
    """
    taken_over = set(transferred)
    groups: dict[str, list[nn.Parameter]] = {"new": [], "transferred": []}
    for name, parameter in network.named_parameters():
        groups["transferred" if name in taken_over else "new"].append(parameter)
    rates = {"new": learning_rate, "transferred": learning_rate * transferred_rate}
    return [{"params": params, "lr": rates[name], "name": name} for name, params in groups.items() if params]


class LearningRate:
    """Handler of a trainer: set the learning rate of each step.

    The rate rises linearly from 0 during the warm-up and falls from there to 0 at the end of the last epoch. It is a
    function of the step alone, so a resumed training has the rates of one without a break, and a training resumed with
    another number of epochs or another rate has those of its config. If a trainer goes on beyond the last epoch, as in
    the rounds of federated learning, the schedule starts again.

    Args:
        optimizer: optimizer; the rates that its groups have now are the highest ones.
        max_epochs: number of epochs of the whole training.
        warmup_epochs: length of the warm-up in epochs; may be a fraction.
        decay: ``polynomial`` (power 0.9), ``cosine`` or ``none``.
        new_epochs: number of epochs in which only the group ``new`` of :func:`parameter_groups` learns. The other group
            begins with a warm-up of its own after them (Kumar et al., arXiv:2202.10054: an output layer that fits first
            keeps the rest from being distorted).

    Raises:
        InputError: a value is out of its limits.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        max_epochs: int,
        warmup_epochs: float = 0.0,
        decay: str = "polynomial",
        new_epochs: float = 0.0,
    ) -> None:
        if decay not in DECAYS:
            raise InputError(f"decay: found {decay!r}, expected one of {', '.join(DECAYS)}.")
        if not 0 <= warmup_epochs <= warmup_epochs + new_epochs < max_epochs:
            raise InputError(
                f"warmup_epochs and new_epochs: found {warmup_epochs:g} and {new_epochs:g}, "
                f"expected 0 or more, and less than the {max_epochs} epochs of the training together."
            )
        self.optimizer = optimizer
        self.highest = [group["lr"] for group in optimizer.param_groups]
        self.max_epochs = max_epochs
        self.warmup_epochs = warmup_epochs
        self.decay = decay
        self.new_epochs = new_epochs

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the rates of the step that starts."""
        per_epoch = int(engine.state.epoch_length or 1)
        done = (engine.state.iteration - 1) % (self.max_epochs * per_epoch)
        for group, highest in zip(self.optimizer.param_groups, self.highest, strict=True):
            first = 0.0 if group.get("name") == "new" else self.new_epochs
            group["lr"] = highest * self.factor(done, per_epoch, first)

    def factor(self, done: int, steps_per_epoch: int, first_epoch: float = 0.0) -> float:
        """Return the rate after ``done`` steps of what learns from ``first_epoch`` on, as a part of the highest."""
        step = done - first_epoch * steps_per_epoch
        if step < 0:
            return 0.0
        # the first step has a rate above 0, and the last one too
        warmup = min(1.0, (step + 1) / (self.warmup_epochs * steps_per_epoch)) if self.warmup_epochs else 1.0
        return warmup * self._decayed(done / (self.max_epochs * steps_per_epoch))

    def _decayed(self, progress: float) -> float:
        if self.decay == "polynomial":
            return max(0.0, 1.0 - progress) ** POWER
        if self.decay == "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
        return 1.0
