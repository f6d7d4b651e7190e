"""NaN and infinity end a training or an evaluation with a sentence, and are never kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, Trainer

from transforms.errors import InputError


def require_finite_weights(name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that hold NaN or infinity.

    Args:
        name: where they come from, for the message.
        tensors: weights by name.

    Raises:
        InputError: names the first tensor that is not finite.
    """
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{name}: found weights that are NaN or infinite ({key}), expected numbers.")


class RequireFinite:
    """Handler: the loss of a trainer must be finite, and so must what the network of an evaluator returns.

    MONAI's metrics leave a scan out whose value is NaN, so that a network that returns NaN would look perfect. Attach
    it to a trainer before the handlers that validate and save.
    """

    def __init__(self) -> None:
        self.finite = torch.tensor(True)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer or an evaluator."""
        if isinstance(engine, Trainer):
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._note_loss)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._check_losses)
        else:
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._check_output)

    def _start(self) -> None:
        self.finite = torch.tensor(True)

    def _note_loss(self, engine: Engine) -> None:
        # read once an epoch: reading it in each step would make the CPU wait for the GPU
        output: Any = engine.state.output
        loss = output["loss"].detach()
        self.finite = self.finite.to(loss.device) & torch.isfinite(loss).all()

    def _check_losses(self, engine: Engine) -> None:
        if not self.finite:
            raise InputError(
                f"training: found a loss that is NaN or infinite in epoch {engine.state.epoch}, expected a number; "
                "what was saved before is kept, and a smaller --learning_rate may help."
            )

    @staticmethod
    def _check_output(engine: Engine) -> None:
        output: Any = engine.state.output
        if not torch.isfinite(output["pred"]).all():
            batch: Any = engine.state.batch
            scans = ", ".join(map(str, batch["scan"])) if "scan" in batch else "validation"
            raise InputError(f"{scans}: found NaN or infinity in the network's output, expected numbers.")
