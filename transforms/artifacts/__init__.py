"""Simulated dMRI artifacts, one per file: each draws its parameters first, and then applies them."""

from transforms.artifacts.acquisition import Acquisition, AcquisitionParams
from transforms.artifacts.base import Artifact, ArtifactParams, ScanInfo
from transforms.artifacts.bias_field import BiasField, BiasFieldParams
from transforms.artifacts.corruption import PRESETS, apply_artifacts, preset, sample_artifacts
from transforms.artifacts.eddy import Eddy, EddyParams
from transforms.artifacts.ghosting import Ghosting, GhostingParams
from transforms.artifacts.motion import Motion, MotionParams
from transforms.artifacts.noise import Noise, NoiseParams
from transforms.artifacts.undersampling import Undersampling, UndersamplingParams

__all__ = [
    "PRESETS",
    "Acquisition",
    "AcquisitionParams",
    "Artifact",
    "ArtifactParams",
    "BiasField",
    "BiasFieldParams",
    "Eddy",
    "EddyParams",
    "Ghosting",
    "GhostingParams",
    "Motion",
    "MotionParams",
    "Noise",
    "NoiseParams",
    "ScanInfo",
    "Undersampling",
    "UndersamplingParams",
    "apply_artifacts",
    "preset",
    "sample_artifacts",
]
