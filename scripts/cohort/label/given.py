"""Tissue segmentations that the user has, brought to the grid of the prepared scans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from scripts.files import read_json
from transforms.errors import InputError
from transforms.scan import DAMAGE, open_nifti
from transforms.spatial import ResampleToGrid
from transforms.targets import TISSUE_ABBREVIATIONS, TISSUES

LEAST_COVERED = 0.5
"""Share of the brain in which a segmentation has tissue; below it, it lies elsewhere."""

FREESURFER = {
    1: (3, 8, 9, 10, 11, 12, 13, 17, 18, 19, 20, 26, 27, 28, 42, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 58, 59, 60),
    2: (2, 7, 16, 41, 46, 77, 78, 79, 85, 192, 250, 251, 252, 253, 254, 255),
    3: (4, 5, 14, 15, 24, 31, 43, 44, 63, 72, 213, 221),
}
"""Labels of FreeSurfer's ``aseg`` by the index of their tissue; those of the cortex's parts (1000 to 2999) are gray."""

FREESURFER_REST = (30, 62, 80, 81, 82)
"""Vessels and hypointensities: no tissue."""


def find_given(derivatives: Path, participant: str, scan: str) -> list[Path]:
    """Find the tissue segmentation of a scan among BIDS derivatives.

    In this order of preference: ``<scan>[_*]_label-{GM,WM,CSF}_probseg.nii.gz``, three files; one file
    ``<scan>[_space-*][_res-*][_desc-*]_probseg.nii.gz`` with a volume per tissue; and such a ``_dseg.nii.gz``. One with
    ``desc-tissue`` is preferred.

    Raises:
        InputError: there is none, or more than one.
    """
    files = sorted((derivatives / participant).rglob("*seg.nii.gz"))
    optional = r"(_space-[^_]+)?(_res-[^_]+)?"
    by_tissue = [
        [
            file
            for file in files
            if re.fullmatch(rf"{re.escape(scan)}{optional}_label-{name}_probseg\.nii\.gz", file.name)
        ]
        for name in TISSUE_ABBREVIATIONS[1:]
    ]
    if all(len(found) == 1 for found in by_tissue):
        return [found[0] for found in by_tissue]
    preferred: list[Path] = []
    for suffix in ("probseg", "dseg"):
        name = re.compile(rf"{re.escape(scan)}{optional}(_desc-[^_]+)?_{suffix}\.nii\.gz")
        found = [file for file in files if name.fullmatch(file.name)]
        preferred = [file for file in found if "_desc-tissue_" in file.name] or found
        if preferred:
            break
    if len(preferred) != 1:
        names = ", ".join(file.name for file in preferred) or "none"
        raise InputError(
            f"{derivatives / participant}: found {names}, expected one file {scan}_desc-tissue_dseg.nii.gz."
        )
    return preferred


def read_labels(path: Path) -> MetaTensor:
    """Read a segmentation as one channel per tissue, 0 or 1, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: a label that is neither the index of a tissue nor, where it is ``aseg`` or ``aparcaseg``, a
            label of FreeSurfer.
    """
    image = open_nifti(path, ndim=3)
    try:
        labels = np.asarray(image.dataobj)
    except DAMAGE as error:
        raise InputError(f"{path}: found a damaged file ({error}), expected a whole NIfTI image.") from None
    if re.search(r"_desc-(aseg|aparcaseg)_", path.name) and labels.max() > len(TISSUES):
        labels = from_freesurfer(labels, path)
    values = np.unique(labels)
    if not np.isin(values, range(len(TISSUES))).all():
        expected = ", ".join(f"{index} ({name})" for index, name in enumerate(TISSUES))
        raise InputError(f"{path}: found the labels {', '.join(f'{v:g}' for v in values[:10])}, expected {expected}.")
    channels = np.stack([labels == index for index in range(len(TISSUES))]).astype(np.float32)
    return MetaTensor(torch.from_numpy(channels), affine=torch.as_tensor(image.affine, dtype=torch.float64))


def from_freesurfer(labels: np.ndarray, path: Path) -> np.ndarray:
    """Turn labels of FreeSurfer into indices of ``TISSUES``.

    Raises:
        InputError: a label that FreeSurfer does not have.
    """
    tissue = np.where((labels >= 1000) & (labels < 3000), 1, 0).astype(np.uint8)
    known = (labels == 0) | (tissue > 0) | np.isin(labels, FREESURFER_REST)
    for index, members in FREESURFER.items():
        tissue[np.isin(labels, members)] = index
        known |= np.isin(labels, members)
    if not known.all():
        found = ", ".join(f"{value:g}" for value in np.unique(labels[~known])[:10])
        raise InputError(f"{path}: found the labels {found}, expected those of FreeSurfer's aseg or aparc+aseg.")
    return tissue


def read_shares(paths: Sequence[Path]) -> MetaTensor:
    """Read probabilities of tissues, shape ``(4, X, Y, Z)``; background is what is missing to 1.

    Args:
        paths: three images, of gray matter, white matter and cerebrospinal fluid; or one with a volume per tissue,
            in the order that ``LabelMap`` of its JSON gives (by default GM, WM, CSF).

    Raises:
        InputError: not one volume per tissue, or no probabilities.
    """
    if len(paths) > 1:
        images = [open_nifti(path, ndim=3) for path in paths]
        for path, image in zip(paths[1:], images[1:], strict=True):
            if image.shape != images[0].shape or not np.allclose(image.affine, images[0].affine, atol=1e-3):
                raise InputError(f"{path}: found another grid than that of {paths[0].name}, expected the same.")
        volumes = dict(zip(TISSUE_ABBREVIATIONS[1:], (np.asarray(image.dataobj) for image in images), strict=True))
        affine = images[0].affine
    else:
        image = open_nifti(paths[0], ndim=4)
        sidecar = Path(str(paths[0]).removesuffix(".nii.gz") + ".json")
        names = list(read_json(sidecar).get("LabelMap", [])) if sidecar.is_file() else []
        names = names or list(TISSUE_ABBREVIATIONS[-image.shape[3] :])
        if len(names) != image.shape[3] or not set(TISSUE_ABBREVIATIONS[1:]) <= set(names):
            raise InputError(
                f"{paths[0]}: found {image.shape[3]} volumes named {', '.join(names)}, expected GM, WM and CSF."
            )
        array = np.asarray(image.dataobj)
        volumes = {name: array[..., names.index(name)] for name in TISSUE_ABBREVIATIONS[1:]}
        affine = image.affine
    shares = np.stack([volumes[name] for name in TISSUE_ABBREVIATIONS[1:]]).astype(np.float32)
    if not np.isfinite(shares).all() or shares.min() < -1e-3 or shares.max() > 1 + 1e-3:
        raise InputError(f"{paths[0]}: found values from {shares.min():g} to {shares.max():g}, expected 0 to 1.")
    background = np.clip(1 - shares.sum(axis=0, keepdims=True), 0, 1)
    return MetaTensor(
        torch.from_numpy(np.concatenate([background, shares])), affine=torch.as_tensor(affine, dtype=torch.float64)
    )


def given_tissue(paths: Sequence[Path], mask: MetaTensor) -> np.ndarray:
    """Bring a segmentation to the grid of a prepared scan, whose world space it shares.

    Args:
        paths: as :func:`find_given` gives them.
        mask: brain mask of the prepared scan, shape ``(1, X, Y, Z)``.

    Returns:
        share of each of ``TISSUES``, float32, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: no segmentation of tissues, or one that covers less than half of the brain.
    """
    # fractions are resampled: labels themselves have no values in between
    source = read_labels(paths[0]) if paths[0].name.endswith("_dseg.nii.gz") else read_shares(paths)
    shares = ResampleToGrid()(source, mask).numpy()
    inside = mask[0].numpy() > 0
    covered = float((shares.argmax(axis=0) > 0)[inside].mean()) if inside.any() else 0.0
    if covered < LEAST_COVERED:
        raise InputError(
            f"{paths[0]}: found tissue in {covered:.0%} of the brain, expected at least half; is it aligned?"
        )
    # where the brain mask is wider than the segmentation, background stays the label
    shares[1:, ~inside] = 0
    shares[0, ~inside] = 1
    outside = shares.sum(axis=0) <= 0
    shares[0, outside] = 1
    return (shares / shares.sum(axis=0)).astype(np.float32)
