"""Whole paths, run from the shell as a user does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "bids"

FIRST = (
    "test_demo.py",
    "test_labels.py",
    "test_cut_off.py",
    "test_comparison.py",
    "test_readme.py",
    "test_real_scans.py",
    "test_restoration.py",
)
"""Files that two processes take in this order: long ones first, so that both end at about the same time; and while one
makes the demo, the other has enough to do that needs none."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.slow)

    def place(item):
        if folder not in item.path.parents:
            return len(FIRST) + 1
        return FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST)

    items.sort(key=place)


def bundle_command(run, configs, **overrides):
    """Words after ``python`` that run configs of the bundle."""
    files = repr([f"bundle/configs/{name}.json" for name in configs])
    words = [str(word) for key, value in overrides.items() for word in (f"--{key}", value)]
    return ["-m", "monai.bundle", "run", run, "--config_file", files, *words]


@pytest.fixture(scope="session")
def bundle_words():
    """Words after ``python`` that run configs of the bundle, for a test that starts the process itself."""
    return bundle_command


@pytest.fixture(scope="session")
def bundle(shell):
    """Run configs of the bundle."""
    return lambda run, configs, check=True, **overrides: shell(*bundle_command(run, configs, **overrides), check=check)


def made_once(tmp_path_factory, name, make):
    """Folder that ``make`` fills, and what it printed; one for all processes of pytest."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, output = root / name, root / f"{name}.txt"
    with FileLock(root / f"{name}.lock"):
        # where it failed in one process it is made again, and fails, in the other
        if not output.is_file():
            output.write_text(make(folder))
    return folder, output.read_text()


@pytest.fixture(scope="session")
def demo(tmp_path_factory, shell):
    """Folder that the demo filled, and what it printed."""
    # one process: the other tests have work for the other cores
    return made_once(
        tmp_path_factory, "demo", lambda folder: shell("-m", "scripts", "demo", "--out", folder, "--jobs", 1).stdout
    )


@pytest.fixture(scope="session")
def auxiliary(tmp_path_factory, shell):
    """Folder of an auxiliary phantom cohort, ``raw`` in HCP layout and ``prepared``."""

    def make(folder):
        raw, prepared = folder / "raw", folder / "prepared"
        made = shell("-m", "scripts", "phantom", "--kind", "auxiliary", "--subjects", 3, "--out", raw)
        places = ["--input", raw, "--out", prepared]
        return made.stdout + shell("-m", "scripts", "prepare", "--layout", "hcp", *places).stdout

    return made_once(tmp_path_factory, "auxiliary", make)[0]


@pytest.fixture(scope="session")
def real():
    """Raw BIDS dataset of real scans."""
    if not REAL.is_dir():
        pytest.skip(f"the real scans are not at {REAL}")
    return REAL


@pytest.fixture
def clone(tmp_path):
    """Copy of the repository's files, as in a fresh clone."""
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


@pytest.fixture
def environment(python):
    """Variables with this interpreter first in the path, as in an activated environment."""
    folders = (python.parent, Path(sys.executable).parent, os.environ["PATH"])
    return {**os.environ, "PATH": os.pathsep.join(map(str, folders))}
