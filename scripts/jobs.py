"""One task per scan over processes, here or by a Dask scheduler, with a progress bar.

What fails is reported, the rest is done.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from threadpoolctl import threadpool_limits

from scripts.errors import reason
from transforms.errors import InputError

Item = TypeVar("Item")

KILLED = "its process was ended by the system, perhaps for want of memory; fewer --jobs need less"

CONNECTION_SECONDS = 20
"""After which a scheduler that does not answer is taken for absent."""

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


def run_jobs(
    task: Callable[[Item], Any], items: Sequence[Item], jobs: int, description: str, scheduler: str | None = None
) -> list[Outcome[Item]]:
    """Call ``task`` on each item.

    Args:
        task: picklable where ``jobs`` is above 1.
        items: what to work on; ``str(item)`` names one on the screen.
        jobs: processes; 1 works in this one.
        description: stands before the progress bar.
        scheduler: address of a Dask scheduler (``tcp://host:8786``) whose workers do the work instead of processes of
            this machine; they see the same files and have this package installed.

    Returns:
        outcomes in the order of ``items``.

    Raises:
        InputError: no scheduler answers at the address.
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

        if scheduler is not None:
            for index, outcome in _on_cluster(task, items, scheduler):
                done(index, outcome)
        elif jobs <= 1:
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


@contextmanager
def local_cluster(jobs: int) -> Iterator[str]:
    """Start Dask workers on this machine, one process and one thread each, and give their scheduler's address."""
    # what the workers say of their coming and going is of no use to who waits for labels; they inherit this
    quiet = dict.fromkeys(("distributed", "distributed.core", "distributed.nanny", "distributed.worker"), "critical")
    os.environ.setdefault("DASK_LOGGING", repr(quiet))
    from distributed import LocalCluster  # noqa: PLC0415

    for name in quiet:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with LocalCluster(
        n_workers=jobs,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=False,
    ) as cluster:
        yield cluster.scheduler_address


def _on_cluster(
    task: Callable[[Item], Any], items: Sequence[Item], scheduler: str
) -> Iterator[tuple[int, Outcome[Item]]]:
    """Call ``task`` on items by the workers of a Dask scheduler.

    Raises:
        InputError: no scheduler answers.
    """
    # Dask takes a second to import, and most commands do without it
    import distributed  # noqa: PLC0415

    try:
        client = distributed.Client(scheduler, timeout=CONNECTION_SECONDS)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler: found no Dask scheduler at {scheduler!r} ({reason(error)}), expected tcp://host:8786."
        ) from None
    with client:
        futures = {client.submit(_attempt, task, item, pure=False): index for index, item in enumerate(items)}
        try:
            for future in distributed.as_completed(list(futures)):
                index = futures[future]
                raised = future.exception()
                killed = isinstance(raised, distributed.KilledWorker)
                failure = KILLED if killed else reason(raised) if raised else None
                yield index, Outcome(items[index], failure=failure) if failure else future.result()
        finally:
            client.cancel(list(futures))


def _attempt(task: Callable[[Item], Any], item: Item) -> Outcome[Item]:
    try:
        return Outcome(item, result=task(item))
    except Exception as error:
        return Outcome(item, failure=reason(error))
