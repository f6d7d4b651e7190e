"""Options that stand before the command: the version, and what is logged."""

import logging
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from scripts.__main__ import app
from scripts.version import code_state


@pytest.fixture
def root_level():
    """Keep the level of the root logger."""
    level = logging.getLogger().level
    yield logging.getLogger()
    logging.getLogger().setLevel(level)


def test_the_version_needs_no_command():
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"{code_state()}\n")


@pytest.mark.parametrize(("options", "level"), [([], logging.WARNING), (["-q"], logging.ERROR), (["-v"], logging.INFO)])
def test_more_or_less_is_logged_and_errors_stay(options, level, root_level, tmp_path):
    root_level.setLevel(logging.WARNING)
    done = CliRunner().invoke(app, [*options, "report", "--out", str(tmp_path)])
    assert "found no mlflow.db" in str(done.exception)
    assert root_level.level == level


@pytest.mark.parametrize(
    ("words", "offered"), [("dmri-pretraining pre", "prepare"), ("dmri-pretraining export --t", "--task")]
)
def test_a_shell_can_complete_commands_and_options(words, offered):
    environment = {"_DMRI_PRETRAINING_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split()) - 1)
    done = CliRunner().invoke(app, [], prog_name="dmri-pretraining", env=environment)
    assert offered in done.output.split()


def test_phantoms_are_made_without_monai_which_takes_seconds_to_import():
    code = "import sys, scripts.phantom; print(sorted({'monai', 'torch'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
