"""Checks of a training's values before any work is done."""

from __future__ import annotations

from transforms.errors import InputError

TASKS = ("segmentation", "crossings", "direction")
"""Tasks of a fine-tuning; each has an overlay of its name."""


def require_task(task: str | None) -> None:
    """Refuse a fine-tuning without the overlay of a task.

    Raises:
        InputError: there is none.
    """
    if task is None:
        overlays = ", ".join(f"{name}.json" for name in TASKS)
        raise InputError(f"--config_file: found finetune.json without a task, expected one of {overlays} after it.")
