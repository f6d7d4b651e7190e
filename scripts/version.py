"""Version of this code."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def code_version() -> str:
    """Version of the installed package, or ``"unknown"`` where the sources are used without installing them."""
    try:
        return version("dmri-pretraining")
    except PackageNotFoundError:
        return "unknown"


def code_state() -> str:
    """Version of the code and, where it is a git checkout, its commit; ``+`` marks uncommitted changes."""
    root = Path(__file__).parents[1]
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return code_version()
    return f"{code_version()} {commit}"
