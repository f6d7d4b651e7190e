"""Targets of the tasks, made from the label images of a cohort.

Each task but restoration has a pair of classes. The encoder makes ``label``, the target of the network. The decoder
turns the network's output into what is saved. NaN in a target means that the voxel does not count in the loss and the
metrics.
"""

from transforms.targets.direction import (
    CHANNELS,
    DYAD_ORDER,
    DecodeDirectiond,
    EncodeDirectiond,
    decode_direction,
    encode_direction,
    to_hemisphere,
)
from transforms.targets.nufo import DecodeNuFOd, EncodeNuFOd
from transforms.targets.restoration import CleanTargetd
from transforms.targets.tissue import DecodeTissued, EncodeTissued

__all__ = [
    "CHANNELS",
    "DYAD_ORDER",
    "CleanTargetd",
    "DecodeDirectiond",
    "DecodeNuFOd",
    "DecodeTissued",
    "EncodeDirectiond",
    "EncodeNuFOd",
    "EncodeTissued",
    "decode_direction",
    "encode_direction",
    "to_hemisphere",
]
