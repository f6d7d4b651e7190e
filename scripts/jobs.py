"""One task for many items, in processes of this machine or by a Dask scheduler, with a progress bar.

Items that fail are reported, and the work goes on with the others.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.errors import reason
from transforms.errors import InputError

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

Item = TypeVar("Item")
Result = TypeVar("Result")

KILLED = "its process was ended by the system, perhaps for want of memory; fewer --jobs need less"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables with the number of threads; PyTorch, NumPy, SciPy and DIPY read them when they are loaded."""

CONNECTION_SECONDS = 20
"""Seconds after which a scheduler that does not answer counts as absent."""

CONTEXT = multiprocessing.get_context("forkserver")
"""Way to start processes: fork one without threads. A fork of the command would inherit the locks of its threads."""

console = Console(stderr=True)

_worker = 0


def worker_number() -> int:
    """Return which of the processes of :func:`run_jobs` this is, from 0 on; 0 where there is one alone."""
    return _worker


@dataclass(frozen=True)
class Outcome(Generic[Item, Result]):
    """What became of one item: its result, or the reason why there is none."""

    item: Item
    result: Result | None = None
    failure: str | None = None


def _start_worker(level: int, started: Synchronized[int]) -> None:
    global _worker  # noqa: PLW0603
    with started:
        _worker = started.value
        started.value += 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(format="%(message)s", level=level)


def _attempt_in_worker(task: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    """Call ``task``; a process that is told to end meanwhile first removes its half-written files."""
    signal.signal(signal.SIGTERM, _interrupt_once)
    try:
        return _attempt(task, item)
    except KeyboardInterrupt:
        # run what a process runs at its regular end, which a task of a pool cannot bring about
        atexit._run_exitfuncs()
        os._exit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt_once(number: int, frame: object) -> None:
    # the pool and the end of the parent process may both tell this process to end; the second signal must not disturb
    # the work that the first has begun
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    # a worker would otherwise wait for work forever after its parent process was killed
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _for_workers(jobs: int) -> Iterator[None]:
    """Divide the cores among the processes that the block starts, and keep Ctrl-C from them.

    A Ctrl-C reaches every process of a terminal. The parent process reports it and ends the others.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    previous = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    # a Ctrl-C within the block reaches this process at the end of the block
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def warm_up(module: str, jobs: int) -> None:
    """Begin to import ``module``, which takes seconds, in the process from which ``run_jobs`` forks its own.

    The command calls this before its own imports, so that both imports run at the same time.
    """
    if jobs > 1:
        CONTEXT.set_forkserver_preload([module])
        with _for_workers(jobs):
            forkserver.ensure_running()


def run_jobs(
    task: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    description: str,
    scheduler: str | None = None,
    board: Callable[[Sequence[Outcome[Item, Result]]], RenderableType] | None = None,
) -> list[Outcome[Item, Result]]:
    """Call ``task`` on each item.

    Args:
        task: function of one item, picklable if ``jobs`` is above 1.
        items: items to work on; ``str(item)`` names one on the screen.
        jobs: number of processes; with 1, this process does the work.
        description: text before the progress bar.
        scheduler: address of a Dask scheduler (``tcp://host:8786``) whose workers do the work instead of processes of
            this machine. The workers need the same files and this package.
        board: what stands above the progress bar, made of the outcomes so far.

    Returns:
        outcomes in the order of ``items``.

    Raises:
        InputError: no scheduler answers at the address.
    """
    outcomes: dict[int, Outcome[Item, Result]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns)
    bar = progress.add_task(description, total=len(items))

    def shown_now() -> RenderableType:
        return Group(board(list(outcomes.values())), progress) if board else progress

    # a task may redirect the streams of this process
    screen = Console(file=sys.stderr)
    with Live(console=screen, get_renderable=shown_now) as live:
        try:
            with closing(_outcomes(task, items, jobs, scheduler)) as found:
                for index, outcome in found:
                    outcomes[index] = outcome
                    if outcome.failure:
                        shown = f"left out {items[index]}: {outcome.failure}"
                        live.console.print(shown, highlight=False, markup=False, soft_wrap=True)
                    progress.advance(bar)
        except KeyboardInterrupt:
            shown = f"stopped: {len(outcomes)} of {len(items)} are done and kept, the same command goes on from there"
            live.console.print(shown, highlight=False, markup=False, soft_wrap=True)
            raise
    if not screen.is_interactive:
        # the last line of a bar has no end there
        screen.print()
    return [outcomes[index] for index in range(len(items))]


def _outcomes(
    task: Callable[[Item], Result], items: Sequence[Item], jobs: int, scheduler: str | None
) -> Generator[tuple[int, Outcome[Item, Result]], None, None]:
    """Call ``task`` on each item, and yield its index and outcome as soon as it is done."""
    if scheduler is not None:
        yield from _on_cluster(task, items, scheduler)
    elif jobs <= 1:
        for index, item in enumerate(items):
            yield index, _attempt(task, item)
    else:
        left = dict(enumerate(items))
        for index, outcome in _in_processes(task, dict(left), jobs):
            yield index, outcome
            del left[index]
        # a process that the system ends takes its whole pool down; the items that are left run one by one
        for index, item in left.items():
            found = dict(_in_processes(task, {index: item}, 1))
            yield index, found.get(index, Outcome(item, failure=KILLED))


def _in_processes(
    task: Callable[[Item], Result], items: Mapping[int, Item], jobs: int
) -> Iterator[tuple[int, Outcome[Item, Result]]]:
    """Call ``task`` on items in processes, and yield index and outcome of each.

    Items whose process was ended from outside are missing.
    """
    others = set(multiprocessing.active_children())
    level = logging.getLogger().level
    pool = ProcessPoolExecutor(
        jobs, mp_context=CONTEXT, initializer=_start_worker, initargs=(level, CONTEXT.Value("i", 0))
    )
    try:
        with _for_workers(jobs):
            futures = {pool.submit(_attempt_in_worker, task, item): index for index, item in items.items()}
        for future in as_completed(futures):
            if not isinstance(error := future.exception(), BrokenProcessPool):
                index = futures[future]
                yield index, Outcome(items[index], failure=reason(error)) if error else future.result()
    except BaseException:
        # the user has stopped the command
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(
    task: Callable[[Item], Result], items: Sequence[Item], scheduler: str
) -> Iterator[tuple[int, Outcome[Item, Result]]]:
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


def _attempt(task: Callable[[Item], Result], item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, result=task(item))
    except Exception as error:
        return Outcome(item, failure=reason(error))
