"""Checks of a training's values before it starts."""

from __future__ import annotations

from transforms.errors import InputError

TASKS = ("segmentation", "crossings", "direction")
"""Tasks of a fine-tuning; each has a config overlay of its name."""


def require_task(task: str | None) -> None:
    """Refuse a fine-tuning without the overlay of a task.

    Raises:
        InputError: there is no task.
    """
    if task is None:
        overlays = ", ".join(f"{name}.json" for name in TASKS)
        raise InputError(f"--config_file: found finetune.json without a task, expected one of {overlays} after it.")
