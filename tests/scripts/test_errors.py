"""An error leaves the program as one sentence, at the edge; with ``--debug`` it shows where it comes from."""

import errno
import os
import subprocess

import pytest
import typer

from scripts.__main__ import Commands
from scripts.errors import input_error, reason, sentence
from transforms.errors import InputError


def command_that(function):
    """Command line whose one command calls a function; the group is that of ``python -m scripts``."""

    def call(*arguments):
        app = typer.Typer(cls=Commands)
        app.command("other")(lambda: None)
        app.command("call")(lambda: function(*arguments))
        return app(["call"], standalone_mode=False)

    return call


def _wrapped(depth, explicit):
    """Raise an InputError from inside layers of RuntimeError, as MONAI's Compose and ConfigParser do."""
    if depth == 0:
        raise InputError("scan.nii.gz: found nothing, expected something.")
    try:
        _wrapped(depth - 1, explicit)
    except Exception as error:
        if explicit:
            raise RuntimeError(f"layer {depth}") from error
        raise RuntimeError(f"layer {depth}")  # noqa: B904


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_the_sentence_is_found_through_layers_of_other_errors(depth, explicit):
    with pytest.raises((InputError, RuntimeError)) as raised:
        _wrapped(depth, explicit)
    assert reason(raised.value) == "scan.nii.gz: found nothing, expected something."
    # a text as exit code is printed to stderr, and the process ends with 1
    with pytest.raises(SystemExit) as left:
        command_that(_wrapped)(depth, explicit)
    assert left.value.code == "error: scan.nii.gz: found nothing, expected something."


def test_other_errors_say_their_type_in_one_line():
    with pytest.raises(SystemExit) as left:
        command_that(lambda: 1 / 0)()
    assert left.value.code == "error: ZeroDivisionError: division by zero (--debug shows where it comes from)"
    assert input_error(left.value.__cause__) is None
    assert reason(ValueError("two\nlines")) == "ValueError: two"
    wrapped = RuntimeError("applying transform <object at 0x7f>")
    wrapped.__cause__ = ValueError("a broken header")
    assert reason(wrapped) == "ValueError: a broken header"


def test_a_command_shows_where_an_error_comes_from_on_request(python):
    done = subprocess.run(
        [python, "-m", "scripts", "--debug", "prepare", "--layout", "bids", "--input", "x", "--out", "y"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    wrong = subprocess.run([python, "-m", "scripts", "lable"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENOSPC, "No space left on device"),
        (errno.EISDIR, "Is a directory"),
        (errno.ENOTDIR, "Not a directory"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_sentence(number, why):
    def full():
        raise OSError(number, os.strerror(number), "out/[1]/sub-01_dwi.nii.gz")

    expected = f"out/[1]/sub-01_dwi.nii.gz: found that it cannot be used ({why}), expected a place that can."
    with pytest.raises(SystemExit) as left:
        command_that(full)()
    assert left.value.code == f"error: {expected}"
    with pytest.raises(OSError, match="out") as raised:
        full()
    assert reason(raised.value) == sentence(raised.value) == expected


def test_an_error_of_the_system_without_a_place_is_named():
    def broken():
        raise OSError(errno.EIO, "Input/output error", "file")

    with pytest.raises(SystemExit, match=r"OSError.*Input/output"):
        command_that(broken)()
    assert sentence(OSError("no number")) is None


PROGRAM = """
from monai.bundle import ConfigWorkflow
workflow = ConfigWorkflow("bundle/configs/inference_segmentation.json", logging_file=False, dwi="none.nii.gz")
workflow.initialize()
{}
"""


@pytest.mark.parametrize("handled", [True, False])
def test_a_program_that_runs_a_config_gets_an_exception_and_a_person_a_sentence(handled, python):
    """The scan of the config is not there. ``SystemExit`` would end a program that can go on without it."""
    attempt = "workflow.run()"
    if handled:
        attempt = "try:\n    workflow.run()\nexcept Exception as error:\n    print('goes on without', error.__cause__)"
    done = subprocess.run([python, "-c", PROGRAM.format(attempt)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    sentence = "none.nii.gz: no such file, expected a NIfTI image."
    if handled:
        assert done.returncode == 0
        assert "goes on without" in done.stdout
    else:
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"error: {sentence}"


@pytest.mark.parametrize("debug", [False, True, "false", "true"])
def test_another_error_of_a_config_is_one_line_unless_debugged(debug, python):
    code = f"from scripts.errors import explain_errors as explain\nexplain({debug!r})\nexplain({debug!r})\n1 / 0"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == (str(debug).lower() == "true")
    last = "error: ZeroDivisionError: division by zero (--debug shows where it comes from)"
    assert done.stderr.splitlines()[-1] == last
