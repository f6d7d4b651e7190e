"""Names of the tissues, for those who write files of them too."""

TISSUES = ("background", "gray matter", "white matter", "cerebrospinal fluid")
"""Classes of ``segmentation``. The indices are those that BIDS gives to common image-derived labels."""

TISSUE_ABBREVIATIONS = ("BG", "GM", "WM", "CSF")
