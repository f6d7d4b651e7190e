"""MONAI dictionary transforms for diffusion MRI. Nothing here knows of engines, cohorts or tracking."""

from importlib import import_module
from typing import Any

_HOMES = {
    "Attenuation": "attenuation",
    "Attenuationd": "attenuation",
    "BrainMaskd": "scan",
    "CleanTargetd": "targets",
    "DecodeDirectiond": "targets",
    "DecodePeakCountd": "targets",
    "DecodeTissued": "targets",
    "EncodeDirectiond": "targets",
    "EncodePeakCountd": "targets",
    "EncodeTissued": "targets",
    "FiniteSignald": "scan",
    "InputError": "errors",
    "InterpolateQSpace": "qspace",
    "InterpolateQSpaced": "qspace",
    "LoadScand": "scan",
    "ResampleToGrid": "spatial",
    "ResampleToGridd": "spatial",
    "ResampleToSpacing": "spatial",
    "ResampleToSpacingd": "spatial",
    "ScanToInput": "scan",
    "WhiteMatterd": "tensor",
    "decode_direction": "targets",
    "encode_direction": "targets",
}
"""Module of each name that the package gives.

It is imported at the name's first use: MONAI takes seconds to import, and the phantoms, for one, read and write
gradient files without it.
"""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
