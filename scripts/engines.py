"""Run an engine of a config."""

from __future__ import annotations

import signal
import sys
import threading

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer


class Terminated(KeyboardInterrupt):
    """The system asked this process to end (SIGTERM), as a batch system does before it takes a machine away."""


def run(engine: Engine) -> None:
    """Run a MONAI trainer or evaluator to its end.

    Raises:
        SystemExit: the user interrupted it (exit code 130), or the system asked it to end (143).
    """
    if isinstance(engine, Trainer):
        engine.add_event_handler(Events.STARTED, _without_loss_scaling)
    # only the main thread may say what a signal does
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if main else None
    try:
        engine.run()
    except KeyboardInterrupt as error:
        stopped = SystemExit("stopped; a training goes on from its last epoch with resume.json")
        print(stopped, file=sys.stderr)
        stopped.code = 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
        raise stopped from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    raise Terminated


def _without_loss_scaling(trainer: Trainer) -> None:
    """Undo MONAI's scaling of the loss in mixed precision, which makes the CPU wait for the GPU in each step.

    It keeps float16 from underflow; bfloat16 has the range of float32.
    """
    if trainer.scaler is not None:
        trainer.scaler = torch.amp.GradScaler(enabled=False)  # type: ignore[assignment]
