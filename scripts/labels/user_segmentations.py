"""Tissue segmentations that the user has (BIDS, FAST, FreeSurfer), brought to the grid of the prepared scans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from nibabel.filebasedimages import ImageFileError

from scripts.io.bids import session_of, sidecar
from scripts.io.files import read_json
from scripts.io.nifti import read_voxels
from scripts.io.volume import as_volume
from scripts.labels.alignment import with_affine
from transforms.damage import DAMAGE
from transforms.errors import InputError, counted
from transforms.label_classes import TISSUE_ABBREVIATIONS, TISSUES
from transforms.resampling import ResampleToGrid

MIN_COVERED = 0.5
"""Smallest fraction of the brain in which a segmentation has tissue; a segmentation with less lies elsewhere."""

FREESURFER = {
    1: (3, 8, 9, 10, 11, 12, 13, 17, 18, 19, 20, 26, 27, 28, 42, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 58, 59, 60),
    2: (2, 7, 16, 41, 46, 77, 78, 79, 85, 192, 250, 251, 252, 253, 254, 255),
    3: (4, 5, 14, 15, 24, 31, 43, 44, 63, 72, 213, 221),
}
"""Labels of FreeSurfer's ``aseg`` by the index of their tissue; cortex parts (1000 to 2999) are gray matter."""

FREESURFER_REST = (30, 62, 80, 81, 82)
"""Labels of vessels and hypointensities, which are no tissue."""


FAST = {1: 3, 2: 1, 3: 2}
"""Index of the tissue of each label of FSL FAST on a T1. Labels go from dark to bright: fluid, gray, white matter."""

# FAST counts its files from 0 and its labels from 1
TOOLS = [
    [rf".*_pve_{label - 1}" for label in sorted(FAST, key=FAST.__getitem__)],
    *([name] for name in (".*_pveseg", ".*_seg", r"aparc\+aseg", "aseg")),
]
"""Patterns of the files of FAST and FreeSurfer, preferred ones first."""

STANDARD_SPACE = re.compile(r"MNI|ICBM|Talairach|OASIS|fsaverage|fsLR")
"""Parts of the path of a file that lies in a template's space and not in that of a participant."""

ENDINGS = r"\.(nii\.gz|nii|mgz)"

FREESURFER_FILE = re.compile(rf"(aparc\+)?aseg{ENDINGS}|.*_desc-(aseg|aparcaseg)_.*")


def find_segmentation(derivatives: Path, participant: str, scan: str) -> list[Path]:
    """Find the tissue segmentation of a scan among derivatives.

    A segmentation in the scan's own space is preferred to one in the T1's space (:func:`in_t1_space`). In each space,
    these kinds are searched in this order:

    1. three files ``<name>_label-{GM,WM,CSF}_probseg``;
    2. one file ``<name>[_desc-*]_probseg`` with a volume per tissue;
    3. one file ``<name>[_desc-*]_dseg``;
    4. FAST's ``*_pve_{0,1,2}``, ``*_pveseg`` or ``*_seg``;
    5. FreeSurfer's ``aparc+aseg`` or ``aseg``.

    ``<name>`` is the name of the scan, or that of its participant and session. It may end in ``_space-*`` and
    ``_res-*``. A file with ``desc-tissue`` is preferred to one without ``desc``, and that to one with another ``desc``.

    In the T1's space, the T1's own ``acq-*``, ``ce-*``, ``rec-*`` and ``run-*`` may follow ``<name>``. There the last
    ``<name>`` is that of the participant alone, as for a segmentation of all sessions.

    Returns:
        one file, or three of gray matter, white matter and fluid.

    Raises:
        InputError: there is none, or more than one of the same kind.
    """
    folder = derivatives / participant
    session = [found] if (found := session_of(scan)) else []
    files = []
    for file in sorted(folder.rglob("*")):
        place = str(file.relative_to(folder))
        others = set(re.findall(r"ses-[0-9A-Za-z]+", place)) - set(session)
        if re.search(ENDINGS + "$", place) and not others and not STANDARD_SPACE.search(place):
            files.append(file)
    expected = f"expected one file {scan}_desc-tissue_dseg.nii.gz."
    of_session = "_".join([participant, *session])
    for space in (False, True):
        within = [file for file in files if in_t1_space(file) is space]
        # names of one rank stand together: more than one of them with a segmentation cannot be told apart
        ranks = [[scan], [of_session]]
        if space:
            ranks += [_of_t1s(of_session, within), [participant], _of_t1s(participant, within)]
        for rank in [*([_kinds(name) for name in rank] for rank in ranks), [TOOLS]]:
            choices = [choice for kinds in rank if (choice := _first(kinds, within))]
            matches = [matching for choice in choices for matching in choice]
            if len(choices) > 1 or any(len(matching) > 1 for matching in matches):
                listed = ", ".join(file.name for matching in matches for file in matching)
                raise InputError(f"{folder}: found {listed}, {expected}")
            if choices:
                return [file for (file,) in matches]
    raise InputError(f"{folder}: found none, {expected}")


def _kinds(name: str) -> list[list[str]]:
    """Return patterns of the BIDS segmentations of a name, preferred kinds first; a kind has one pattern per file."""
    stem = re.escape(name) + r"(_space-[^_]+)?(_res-[^_]+)?"
    return [
        [rf"{stem}_label-{tissue}_probseg" for tissue in TISSUE_ABBREVIATIONS[1:]],
        *(
            [stem + description + suffix]
            for suffix in ("_probseg", "_dseg")
            for description in ("_desc-tissue", "", "_desc-[^_]+")
        ),
    ]


def _of_t1s(name: str, files: Sequence[Path]) -> list[str]:
    """Return the names among files that continue ``name`` with entities of a T1."""
    found = (re.match(rf"{re.escape(name)}(_(acq|ce|rec|run)-[^_]+)+(?=_)", file.name) for file in files)
    return sorted({match[0] for match in found if match})


def _first(kinds: Sequence[Sequence[str]], files: Sequence[Path]) -> list[list[Path]]:
    """Return the files of the first kind that is complete or ambiguous, by its patterns; an empty list if none is.

    A kind is ambiguous if one of its patterns matches several files.
    """
    for names in kinds:
        found = [[file for file in files if re.fullmatch(name + ENDINGS, file.name)] for name in names]
        if all(found) or any(len(matching) > 1 for matching in found):
            return found
    return []


def in_t1_space(path: Path) -> bool:
    """Tell whether a segmentation lies in the space of the T1-weighted image and not of the diffusion scan.

    It does if it is FreeSurfer's own, has ``T1`` in its name or lies in a folder ``anat``, ``mri`` or ``T1w``, and
    does not have ``space-dwi`` in its name.
    """
    if "_space-dwi" in path.name.lower():
        return False
    return bool(
        re.search(r"anat$|^mri$|^T1w$", path.parent.name)
        or "T1" in path.name
        or re.match(r"(aparc\+)?aseg\.", path.name)
    )


def t1_of(path: Path) -> Path | None:
    """Return the T1 in whose space a segmentation lies, which fMRIPrep writes beside it, or None without such a T1.

    For several runs or sessions, this space is not that of a raw T1.
    """
    stem = re.sub(rf"(_label-[^_]+)?(_desc-[^_]+)?_(probseg|dseg){ENDINGS}$", "", path.name)
    t1 = path.with_name(f"{stem}_desc-preproc_T1w.nii.gz")
    return t1 if t1.is_file() else None


def _read(path: Path, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    """Read voxels and affine of an image, in NIfTI or FreeSurfer's own format.

    Raises:
        InputError: the file is no readable image, or has another number of dimensions.
    """
    if path.suffix != ".mgz":
        return read_voxels(path, ndim)
    try:
        image = nib.freesurfer.load(path)
        voxels = np.asarray(image.dataobj)
    except (ImageFileError, *DAMAGE) as error:
        raise InputError(f"{path}: found no readable image ({error}), expected FreeSurfer's format.") from None
    if voxels.ndim != ndim:
        raise InputError(f"{path}: found an image of shape {voxels.shape}, expected {ndim} dimensions.")
    return voxels, image.affine


def read_labels(path: Path) -> MetaTensor:
    """Read a segmentation as one channel per tissue, 0 or 1, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: a label is neither the index of a tissue nor, by the file's name, a label of FreeSurfer or FAST.
    """
    labels, affine = _read(path, ndim=3)
    if FREESURFER_FILE.fullmatch(path.name):
        labels = from_freesurfer(labels, path)
    elif re.search(rf"_(pve)?seg{ENDINGS}$", path.name):
        labels = np.select([labels == label for label in FAST], list(FAST.values()), labels)
    values = np.unique(labels)
    if not np.isin(values, range(len(TISSUES))).all():
        expected = ", ".join(f"{index} ({name})" for index, name in enumerate(TISSUES))
        raise InputError(f"{path}: found the labels {', '.join(f'{v:g}' for v in values[:10])}, expected {expected}.")
    channels = np.stack([labels == index for index in range(len(TISSUES))]).astype(np.float32)
    return as_volume(channels, affine)


def from_freesurfer(labels: np.ndarray, path: Path) -> np.ndarray:
    """Turn labels of FreeSurfer into indices of ``TISSUES``.

    Raises:
        InputError: FreeSurfer does not have one of the labels.
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


def read_fractions(paths: Sequence[Path]) -> MetaTensor:
    """Read tissue fractions, shape ``(4, X, Y, Z)``; the fraction of background fills their sum up to 1.

    Args:
        paths: three images, of gray matter, white matter and cerebrospinal fluid; or one with a volume per tissue,
            in the order that ``LabelMap`` of its JSON gives (by default GM, WM, CSF).

    Raises:
        InputError: there is not one volume per tissue, or the values are no probabilities.
    """
    if len(paths) > 1:
        images = [_read(path, ndim=3) for path in paths]
        first, affine = images[0]
        for path, (volume, place) in zip(paths[1:], images[1:], strict=True):
            if volume.shape != first.shape or not np.allclose(place, affine, atol=1e-3):
                raise InputError(f"{path}: found another grid than that of {paths[0].name}, expected the same.")
        volumes = dict(zip(TISSUE_ABBREVIATIONS[1:], (volume for volume, _ in images), strict=True))
    else:
        array, affine = _read(paths[0], ndim=4)
        names = list(TISSUE_ABBREVIATIONS[-array.shape[3] :])
        for path in sidecar_of(paths):
            names = read_json(path).get("LabelMap") or names
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise InputError(f"{path}: found LabelMap = {names!r}, expected a list of the volumes' tissues.")
        if len(names) != array.shape[3] or not set(TISSUE_ABBREVIATIONS[1:]) <= set(names):
            found = f"{counted(array.shape[3], 'volume')} named {', '.join(names)}"
            raise InputError(f"{paths[0]}: found {found}, expected GM, WM and CSF.")
        volumes = {name: array[..., names.index(name)] for name in TISSUE_ABBREVIATIONS[1:]}
    fractions = np.stack([volumes[name] for name in TISSUE_ABBREVIATIONS[1:]]).astype(np.float32)
    if not np.isfinite(fractions).all() or fractions.min() < -1e-3 or fractions.max() > 1 + 1e-3:
        raise InputError(f"{paths[0]}: found values from {fractions.min():g} to {fractions.max():g}, expected 0 to 1.")
    background = np.clip(1 - fractions.sum(axis=0, keepdims=True), 0, 1)
    return as_volume(np.concatenate([background, fractions]), affine)


def sidecar_of(paths: Sequence[Path]) -> list[Path]:
    """Return the JSON that names the volumes of a segmentation in one file ``*_probseg``, or an empty list."""
    if len(paths) != 1 or "_probseg." not in paths[0].name:
        return []
    names = sidecar(paths[0])
    return [names] if names.is_file() else []


def tissue_from_segmentation(paths: Sequence[Path], mask: MetaTensor, matrix: np.ndarray | None = None) -> np.ndarray:
    """Bring a segmentation to the grid of a prepared scan.

    Args:
        paths: as :func:`find_segmentation` gives them.
        mask: brain mask of the prepared scan, shape ``(1, X, Y, Z)``.
        matrix: affine from world of the diffusion scan to world of the segmentation; None if they share one world.

    Returns:
        tissue fraction of each of ``TISSUES``, float32, shape ``(4, X, Y, Z)``.

    Raises:
        InputError: the files are no segmentation of tissues, or it covers less than half of the brain.
    """
    # fractions are resampled, because labels have no values in between
    source = read_fractions(paths) if len(paths) > 1 or "_probseg." in paths[0].name else read_labels(paths[0])
    if matrix is not None:
        source = with_affine(source, matrix)
    fractions = ResampleToGrid()(source, mask).numpy()
    inside = mask[0].numpy() > 0
    covered = float((fractions.argmax(axis=0) > 0)[inside].mean()) if inside.any() else 0.0
    if covered < MIN_COVERED:
        raise InputError(
            f"{paths[0]}: found tissue in {covered:.0%} of the brain, expected at least half; is it aligned?"
        )
    # voxels outside the brain mask are background, and so are voxels that the segmentation does not reach
    fractions[1:, ~inside] = 0
    fractions[0, ~inside] = 1
    outside = fractions.sum(axis=0) <= 0
    fractions[0, outside] = 1
    return (fractions / fractions.sum(axis=0)).astype(np.float32)
