"""Targets of the tasks: from label images of a cohort to what a network is trained on, and back.

A pair of classes a task: the encoder makes ``label``, the decoder turns the network's output into what is saved. NaN in
a target means that the voxel does not count, for the loss and for the metrics.
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
