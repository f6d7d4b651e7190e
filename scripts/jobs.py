"""One task per scan over processes of this machine, with a progress bar; what fails is reported, the rest is done."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.errors import reason

Item = TypeVar("Item")

console = Console(stderr=True)


@dataclass(frozen=True)
class Outcome(Generic[Item]):
    """What became of one item: its result, or the reason why there is none."""

    item: Item
    result: Any = None
    failure: str | None = None


def _start_worker(threads: int) -> None:
    torch.set_num_threads(threads)
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
            pool = ProcessPoolExecutor(
                jobs,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(max(1, (os.cpu_count() or 1) // jobs),),
            )
            try:
                futures = {pool.submit(_attempt, task, item): index for index, item in enumerate(items)}
                for future in as_completed(futures):
                    error = future.exception()
                    index = futures[future]
                    done(index, Outcome(items[index], failure=reason(error)) if error else future.result())
            finally:
                pool.shutdown(cancel_futures=True)
    return [outcomes[index] for index in range(len(items))]


def _attempt(task: Callable[[Item], Any], item: Item) -> Outcome[Item]:
    try:
        return Outcome(item, result=task(item))
    except Exception as error:
        return Outcome(item, failure=reason(error))
