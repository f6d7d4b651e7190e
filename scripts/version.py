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


def code_commit() -> str:
    """Commit of the code where it is a git checkout, else an empty text."""
    return _git("rev-parse", "HEAD")


def code_state() -> str:
    """Version of the code and, where it is a git checkout, its commit; ``+`` marks uncommitted changes."""
    return f"{code_version()} {_git('describe', '--always', '--dirty=+')}".strip()


def _git(*words: str) -> str:
    """What git says of this code; nothing where it is no checkout."""
    if METADATA.is_file():
        # a checkout around an exported bundle is that of somebody else
        return ""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
