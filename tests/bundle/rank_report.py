"""A handler that says what each process of a training did: scans, files that it wrote, and weights at the end."""

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from ignite.engine import Events


class RankReport:
    """Write ``<folder>/<rank>.json`` after a training.

    Args:
        network: that is trained.
        folder: gets the report.
        output_dir: of the training; what is opened there to be written is reported.
    """

    def __init__(self, network, folder, output_dir):
        self.network, self.folder, self.output_dir = network, Path(folder), os.path.abspath(output_dir)
        self.scans, self.written, self.seeds = [], [], []
        sys.addaudithook(self._audit)

    def _audit(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and flags & (os.O_WRONLY | os.O_RDWR) and path.startswith(self.output_dir):
                self.written.append(Path(path).name)

    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self):
        self.scans.append([])
        self.seeds.append(torch.initial_seed())

    def _note(self, engine):
        # MONAI keeps the batch of a step as a list of scans, or as a dictionary
        batch = engine.state.batch
        self.scans[-1] += batch["scan"] if isinstance(batch, dict) else [item["scan"] for item in batch]

    def _write(self, engine):
        weights = hashlib.sha256()
        for value in self.network.state_dict().values():
            weights.update(value.numpy().tobytes())
        report = {
            "scans": self.scans,
            "weights": weights.hexdigest(),
            "written": self.written,
            "loss": float(engine.state.metrics["train_loss"]),
            "seeds": self.seeds,
        }
        (self.folder / f"{dist.get_rank()}.json").write_text(json.dumps(report))
