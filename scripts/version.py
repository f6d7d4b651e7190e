"""Version of this code."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Folder of the packages ``scripts`` and ``transforms``."""

METADATA = ROOT / "configs" / "metadata.json"
"""Stands beside this code in an exported bundle only."""


def code_version() -> str:
    """Version of an exported bundle, else of the installed package, else ``"unknown"``."""
    if METADATA.is_file():
        return str(json.loads(METADATA.read_text(encoding="utf-8"))["version"])
    try:
        return version("dmri-pretraining")
    except PackageNotFoundError:
        return "unknown"


def code_state() -> str:
    """Version of the code and, where it is a git checkout, its commit; ``+`` marks uncommitted changes."""
    if METADATA.is_file():
        # a checkout around an exported bundle is that of somebody else
        return code_version()
    try:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return code_version()
    return f"{code_version()} {commit}"
