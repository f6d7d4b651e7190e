"""Classes of the labels: names of the tissues, and the largest number of fibre orientations."""

TISSUES = ("background", "gray matter", "white matter", "cerebrospinal fluid")
"""Classes of ``segmentation``. The indices are those that BIDS gives to common image-derived labels."""

TISSUE_ABBREVIATIONS = ("BG", "GM", "WM", "CSF")
"""Abbreviations of ``TISSUES``, in the same order."""

MAX_NUFO = 3
"""Largest number of fibre orientations (NuFO) of a voxel, as in Weninger et al., BVM 2022; ``crossings`` has the
classes 0 to 3."""
