"""Jobs: results in order, failures with their reason; and how an InputError leaves the program."""

import functools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.io.files import read_json, write_json
from scripts.jobs import run_jobs, worker_number


@pytest.fixture
def documents(tmp_path):
    """Five JSON files, of which the second is missing and the fourth is damaged."""
    paths = [tmp_path / f"{index}.json" for index in range(5)]
    for index in (0, 2, 4):
        write_json(paths[index], {"index": index})
    paths[3].write_text("{")
    return paths


def _read_slowly(path, slow):
    time.sleep(0.5 * (path == slow))
    return read_json(path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_item_has_its_result_or_its_reason_in_order(documents, jobs, capfd):
    # two processes finish in another order, for the first item takes longest
    outcomes = run_jobs(functools.partial(_read_slowly, slow=documents[0]), documents, jobs, "reading")
    assert [outcome.item for outcome in outcomes] == documents
    assert [outcome.result for outcome in outcomes] == [{"index": 0}, None, {"index": 2}, None, {"index": 4}]
    assert [outcome.failure is None for outcome in outcomes] == [True, False, True, False, True]
    assert outcomes[1].failure == f"{documents[1]}: no such file, expected JSON."
    assert outcomes[3].failure.startswith(f"{documents[3]}: found text that is not JSON")
    screen = capfd.readouterr().err
    for index in (1, 3):
        assert f"left out {documents[index]}: {outcomes[index].failure}" in screen
    assert f"left out {documents[0]}" not in screen


def _levels_that_are_logged(_):
    return [level for level in (logging.WARNING, logging.ERROR) if logging.getLogger("scripts.x").isEnabledFor(level)]


def test_processes_log_from_the_level_of_the_command(monkeypatch):
    for level, logged in ((logging.WARNING, [logging.WARNING, logging.ERROR]), (logging.ERROR, [logging.ERROR])):
        monkeypatch.setattr(logging.getLogger(), "level", level)
        outcomes = run_jobs(_levels_that_are_logged, [1, 2], 2, "working")
        assert [outcome.result for outcome in outcomes] == [logged, logged]


def test_an_interruption_is_no_failure_of_an_item():
    def interrupted(item):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(interrupted, [1, 2], 1, "working")


def test_no_items_give_no_outcomes():
    assert run_jobs(read_json, [], 1, "reading") == []


def _end_yourself(path, victim):
    if path == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_json(path)["index"]


def test_a_process_that_the_system_ends_costs_its_own_item_alone(documents):
    paths = [documents[0], documents[2], documents[4]]
    outcomes = run_jobs(functools.partial(_end_yourself, victim=paths[1]), paths, 2, "reading")
    assert [outcome.result for outcome in outcomes] == [0, None, 4]
    assert "ended by the system" in outcomes[1].failure


def _number(_):
    time.sleep(0.3)
    return worker_number()


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_process_has_a_number_of_its_own(jobs):
    outcomes = run_jobs(_number, list(range(6)), jobs, "counting")
    assert {outcome.result for outcome in outcomes} == set(range(jobs))


def _threads_of_libraries(index):
    import scipy.linalg  # noqa: F401
    import torch
    from threadpoolctl import threadpool_info

    return max(torch.get_num_threads(), *(library["num_threads"] for library in threadpool_info()))


def test_processes_share_the_cores_and_leave_the_environment_as_it_was(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    found = [outcome.result for outcome in run_jobs(_threads_of_libraries, [0, 1], 2, "counting")]
    assert found == [1, 1]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "OPENBLAS_NUM_THREADS" not in os.environ


PROGRAM = """
import sys, time
from pathlib import Path

from scripts.jobs import run_jobs


def write_slowly(path):
    partial = path.with_name("." + path.name)
    partial.touch()
    try:
        time.sleep(0 if path.name == "0" else 60)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    run_jobs(write_slowly, [Path(sys.argv[1]) / str(n) for n in range(6)], int(sys.argv[2]), "writing")
"""


def _wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("number", "jobs"), [("SIGINT", 1), ("SIGINT", 2), ("SIGKILL", 2)])
def test_a_stopped_command_leaves_no_process_and_no_half_written_file(tmp_path, number, jobs):
    program, out = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    out.mkdir()
    running = subprocess.Popen(
        [sys.executable, program, out, str(jobs)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell that runs the tests in the background has its children ignore the signal
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    _wait_for(lambda: (out / "0").is_file() and len(list(out.iterdir())) == 1 + jobs)
    # Ctrl-C goes to all processes of the terminal, other signals to the command alone
    (os.killpg if number == "SIGINT" else os.kill)(running.pid, getattr(signal, number))
    errors = running.communicate(timeout=30)[1]
    assert running.returncode == -getattr(signal, number)
    if number == "SIGINT":
        assert "stopped: 1 of 6 are done and kept, the same command goes on from there" in errors
        assert errors.count("Traceback") == 1  # of this program, which does not catch it

    def no_process_is_left():
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            return True
        return False

    _wait_for(no_process_is_left, 20)
    assert [path.name for path in out.iterdir()] == ["0"]


def test_a_process_that_is_told_to_end_twice_takes_its_files_away_in_peace(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        """
import os, signal, sys, time
from pathlib import Path
from scripts.jobs import _attempt_in_worker

def task(path):
    path.touch()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
        path.unlink()

_attempt_in_worker(task, Path(sys.argv[1]))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, program, tmp_path / "half"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == ""
    assert not (tmp_path / "half").exists()
