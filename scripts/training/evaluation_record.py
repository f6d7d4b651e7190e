"""What an evaluation was made of, and what its network needs: a model card states both."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from scripts.io.files import sha256, write_json

RECORD_FILE = "evaluation.json"
"""Name of the record in the folder of an evaluation."""

PASSES = 3
"""Timed passes of the network, after one that is not timed."""


def record_evaluation(
    folder: str,
    checkpoint: str,
    cohort: str,
    split: str,
    network: nn.Module,
    dataset: Dataset[Mapping[str, Any]],
    device: torch.device | str = "cpu",
) -> None:
    """Write ``<folder>/evaluation.json``, when the evaluation is done.

    It has ``checkpoint``, the SHA-256 of the file of the weights; ``cohort`` and ``split``; ``participants`` by scan;
    and ``system``. That is one pass of the network over the largest scan: ``device``, ``threads`` of the CPU, ``grid``
    (voxels along each axis, padded), ``seconds`` (median of ``PASSES``), and ``memory_gib``: the peak of the GPU's
    memory so far, or that of the whole process on a CPU.

    Args:
        folder: of the evaluation.
        checkpoint: file of the weights that were evaluated.
        cohort: checksum of the cohort.
        split: part of the cohort.
        network: network on ``device``.
        dataset: scans of the evaluation: ``image`` ``(C, X, Y, Z)``, ``scan`` and ``participant``.
        device: device of the evaluation.
    """
    items = [dataset[index] for index in range(len(dataset))]  # type: ignore[arg-type]
    device = torch.device(device)
    image = max((item["image"] for item in items), key=torch.numel)[None].to(device, torch.float32)
    network.eval()
    seconds = []
    for _ in range(PASSES + 1):
        start = time.perf_counter()
        with torch.no_grad():
            network(image)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        name, memory = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device)
    else:
        # Linux counts in KiB, macOS in bytes
        unit = 1 if sys.platform == "darwin" else 1024
        name, memory = "CPU", unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record = {
        "checkpoint": sha256(Path(checkpoint)),
        "cohort": cohort,
        "split": split,
        "participants": {item["scan"]: item["participant"] for item in items},
        "system": {
            "device": name,
            "threads": torch.get_num_threads(),
            "grid": list(image.shape[2:]),
            "seconds": round(statistics.median(seconds[1:]), 3),
            "memory_gib": round(memory / 2**30, 2),
        },
    }
    write_json(Path(folder) / RECORD_FILE, record)
