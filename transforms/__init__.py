"""MONAI dictionary transforms for diffusion MRI. Nothing here knows of engines, cohorts or tracking."""

from transforms.attenuation import Attenuation, Attenuationd
from transforms.errors import InputError
from transforms.qspace import InterpolateQSpace, InterpolateQSpaced
from transforms.scan import BrainMaskd, LoadScand, ScanToInput
from transforms.spatial import ResampleToGrid, ResampleToGridd, ResampleToSpacing, ResampleToSpacingd
from transforms.targets import (
    CleanTargetd,
    DecodeDirectiond,
    DecodePeakCountd,
    DecodeTissued,
    EncodeDirectiond,
    EncodePeakCountd,
    EncodeTissued,
    decode_direction,
    encode_direction,
)
from transforms.tensor import WhiteMatterd

__all__ = [
    "Attenuation",
    "Attenuationd",
    "BrainMaskd",
    "CleanTargetd",
    "DecodeDirectiond",
    "DecodePeakCountd",
    "DecodeTissued",
    "EncodeDirectiond",
    "EncodePeakCountd",
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
    "WhiteMatterd",
    "decode_direction",
    "encode_direction",
]
