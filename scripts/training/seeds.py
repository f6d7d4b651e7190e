"""Seeds of each epoch: a resumed training draws the same random numbers as one without a break."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import Dataset

from scripts.training.processes import rank


class EpochSeed:
    """Handler of a trainer: seed the order of the data and the random transforms at the start of each epoch.

    Args:
        dataset: data set whose random transforms are seeded.
        seed: seed of the whole training.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        # the large factors keep neighbouring seeds, processes and epochs from sharing their numbers
        seed = (self.seed * 1_000_003 + rank() * 10_007 + engine.state.epoch) % 2**31
        # the loader draws its order, and the seeds of its workers, from torch's global generator
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed)
