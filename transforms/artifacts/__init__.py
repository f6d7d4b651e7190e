"""Simulated dMRI artifacts: one file per origin, sampling and applying as two steps."""

from transforms.artifacts.base import ArtifactParams, RandArtifact, RandArtifactd
from transforms.artifacts.eddy import EddyParams, RandEddy, RandEddyd
from transforms.artifacts.torchio import (
    BiasFieldParams,
    GhostingParams,
    MotionParams,
    NoiseParams,
    RandBiasField,
    RandBiasFieldd,
    RandGhosting,
    RandGhostingd,
    RandMotion,
    RandMotiond,
    RandNoise,
    RandNoised,
)

__all__ = [
    "ArtifactParams",
    "BiasFieldParams",
    "EddyParams",
    "GhostingParams",
    "MotionParams",
    "NoiseParams",
    "RandArtifact",
    "RandArtifactd",
    "RandBiasField",
    "RandBiasFieldd",
    "RandEddy",
    "RandEddyd",
    "RandGhosting",
    "RandGhostingd",
    "RandMotion",
    "RandMotiond",
    "RandNoise",
    "RandNoised",
]
