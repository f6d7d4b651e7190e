"""One task per scan over processes of this machine, with a progress bar; what fails is reported, the rest is done."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from scripts.errors import reason

Item = TypeVar("Item")

KILLED = "its process was ended by the system, perhaps for want of memory; fewer --jobs need less"

console = Console(stderr=True)


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: its result, or the reason why there is none."""

    item: Item
    result: Any = None
    failure: str | None = None


def _start_worker(threads: int) -> None:
    # Ctrl-C reaches every process of a terminal; the first one says what there is to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    # NumPy's matrix products would use all cores in each process, and wait for each other
    threadpool_limits(threads)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


def run_jobs(task: Callable[[Item], Any], items: Sequence[Item], jobs: int, description: str) -> list[Outcome[Item]]:
    """Call ``task`` on each item.

    Args:
        task: picklable where ``jobs`` is above 1.
        items: what to work on; ``str(item)`` names one on the screen.
        jobs: processes; 1 works in this one.
        description: stands before the progress bar.

    Returns:
        outcomes in the order of ``items``.
    """
    outcomes: dict[int, Outcome[Item]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(description, total=len(items))

        def done(index: int, outcome: Outcome[Item]) -> None:
            outcomes[index] = outcome
            if outcome.failure:
                progress.console.print(f"left out {items[index]}: {outcome.failure}", highlight=False, soft_wrap=True)
            progress.advance(bar)

        if jobs <= 1:
            for index, item in enumerate(items):
                done(index, _attempt(task, item))
        else:
            for index, outcome in _in_processes(task, dict(enumerate(items)), jobs):
                done(index, outcome)
            # a process that the system ends takes its whole pool down; what it left is done one by one
            for index in [index for index in range(len(items)) if index not in outcomes]:
                found = dict(_in_processes(task, {index: items[index]}, 1))
                done(index, found.get(index, Outcome(items[index], failure=KILLED)))
    return [outcomes[index] for index in range(len(items))]


def _in_processes(
    task: Callable[[Item], Any], items: Mapping[int, Item], jobs: int
) -> Iterator[tuple[int, Outcome[Item]]]:
    """Call ``task`` on items in processes; items whose process was ended from outside are missing in what it yields."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(threads,))
    try:
        futures = {pool.submit(_attempt, task, item): index for index, item in items.items()}
        for future in as_completed(futures):
            if not isinstance(error := future.exception(), BrokenProcessPool):
                index = futures[future]
                yield index, Outcome(items[index], failure=reason(error)) if error else future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(task: Callable[[Item], Any], item: Item) -> Outcome[Item]:
    try:
        return Outcome(item, result=task(item))
    except Exception as error:
        return Outcome(item, failure=reason(error))
