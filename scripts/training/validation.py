"""The validation after the last epoch, so that each training leaves the model of a best validation."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class LastValidation:
    """Handler of a trainer: validate after the last epoch where MONAI's ``ValidationHandler`` does not.

    Args:
        validator: evaluator to run.
        interval: epochs between validations of the ``ValidationHandler``.
    """

    def __init__(self, validator: Evaluator, interval: int) -> None:
        self.validator = validator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer, before what uses the validation."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Validate if this was the last epoch and has no validation yet."""
        epoch = engine.state.epoch
        if epoch == engine.state.max_epochs and epoch % self.interval:
            self.validator.run(epoch)
