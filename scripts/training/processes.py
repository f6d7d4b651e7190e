"""One training in several processes, one for each GPU: the first one alone writes and reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from ignite.handlers import ProgressBar
from monai.handlers import MLFlowHandler, StatsHandler

from transforms.errors import InputError

REPORTS = (MLFlowHandler, ProgressBar, StatsHandler)
"""Handlers of others that write or print what all processes know; ours see to it themselves."""

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun gives to each process."""


def rank() -> int:
    """Return the number of this process among those of its training, 0 where it is the only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def join_processes(device: str | torch.device) -> None:
    """Let this process take part in a training of several: by NCCL on GPUs, by Gloo on a CPU.

    Args:
        device: device of this process.

    Raises:
        InputError: torchrun did not start this process.
    """
    if missing := [name for name in VARIABLES if name not in os.environ]:
        raise InputError(f"multi_gpu: found no {missing[0]}, expected torchrun --nproc_per_node=N -m monai.bundle run.")
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo")
    if rank():
        logging.getLogger().setLevel(logging.WARNING)


def handlers_of_process(handlers: Sequence[Any]) -> list[Any]:
    """Return the handlers of this process: all of them in the first one, those that do not report in the others."""
    return [handler for handler in handlers if rank() == 0 or not isinstance(handler, REPORTS)]
