"""TorchIO in the loader; a module of its own, so that a training without it does not load it."""

from __future__ import annotations

from scripts.errors import exits_on_input_error
from transforms.artifacts.torchio import TorchIOArtifactsd

torchio_artifacts = exits_on_input_error(TorchIOArtifactsd)
"""For configs: an artifact that TorchIO does not have ends the program with one sentence."""
