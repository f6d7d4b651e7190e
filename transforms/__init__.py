"""MONAI dictionary transforms for diffusion MRI. Nothing here knows of engines, cohorts or tracking."""

from transforms.attenuation import Attenuation, Attenuationd
from transforms.errors import InputError
from transforms.qspace import InterpolateQSpace, InterpolateQSpaced
from transforms.scan import BrainMaskd, LoadScand, ScanToInput
from transforms.spatial import ResampleToGrid, ResampleToGridd, ResampleToSpacing, ResampleToSpacingd
from transforms.targets import CleanTargetd, DecodeTissued, EncodeTissued

__all__ = [
    "Attenuation",
    "Attenuationd",
    "BrainMaskd",
    "CleanTargetd",
    "DecodeTissued",
    "EncodeTissued",
    "InputError",
    "InterpolateQSpace",
    "InterpolateQSpaced",
    "LoadScand",
    "ResampleToGrid",
    "ResampleToGridd",
    "ResampleToSpacing",
    "ResampleToSpacingd",
    "ScanToInput",
]
