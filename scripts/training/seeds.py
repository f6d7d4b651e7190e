"""Randomness as a function of the epoch, so that a resumed training draws what an unbroken one would."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import Dataset


class EpochSeed:
    """Handler of a trainer: seed the order of the data and the random transforms at the start of each epoch.

    Args:
        dataset: its random transforms are seeded.
        seed: of the whole training.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        # SeedSequence-like spread: neighbouring seeds and epochs must not share their numbers
        seed = (self.seed * 1_000_003 + engine.state.epoch) % 2**31
        # the loader draws its order, and the seeds of its workers, from torch's global generator
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed)
