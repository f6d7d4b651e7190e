"""Run an engine of a config."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer


def run(engine: Engine) -> None:
    """Run a MONAI trainer or evaluator to its end.

    Raises:
        SystemExit: the user interrupted it.
    """
    if isinstance(engine, Trainer):
        engine.add_event_handler(Events.STARTED, _without_loss_scaling)
    try:
        engine.run()
    except KeyboardInterrupt:
        raise SystemExit("stopped; a training goes on from its last epoch with resume.json") from None


def _without_loss_scaling(trainer: Trainer) -> None:
    """Undo MONAI's scaling of the loss in mixed precision, which makes the CPU wait for the GPU in each step.

    It keeps float16 from underflow; bfloat16 has the range of float32.
    """
    if trainer.scaler is not None:
        trainer.scaler = torch.amp.GradScaler(enabled=False)  # type: ignore[assignment]
