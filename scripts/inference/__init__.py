"""Inference on one raw scan: results on the scan's own grid, with names of BIDS."""

from scripts.inference.classes import SaveCrossings, SaveTissue
from scripts.inference.direction import SaveDirection
from scripts.inference.ensemble import MeanAxesd, MeanProbabilitiesd, load_networks
from scripts.inference.restoration import SaveRestoration

__all__ = [
    "MeanAxesd",
    "MeanProbabilitiesd",
    "SaveCrossings",
    "SaveDirection",
    "SaveRestoration",
    "SaveTissue",
    "load_networks",
]
