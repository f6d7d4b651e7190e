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
from transforms.targets.peak_count import MAX_PEAKS, DecodePeakCountd, EncodePeakCountd
from transforms.targets.restoration import CleanTargetd
from transforms.targets.tissue import DecodeTissued, EncodeTissued
from transforms.tissues import TISSUE_ABBREVIATIONS, TISSUES

__all__ = [
    "CHANNELS",
    "DYAD_ORDER",
    "MAX_PEAKS",
    "TISSUES",
    "TISSUE_ABBREVIATIONS",
    "CleanTargetd",
    "DecodeDirectiond",
    "DecodePeakCountd",
    "DecodeTissued",
    "EncodeDirectiond",
    "EncodePeakCountd",
    "EncodeTissued",
    "decode_direction",
    "encode_direction",
    "to_hemisphere",
]
