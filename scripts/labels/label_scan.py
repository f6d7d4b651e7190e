"""Labels of one scan of a prepared cohort; labels that are still up to date are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from monai.data import MetaTensor

from scripts.cohort.prepared import KEYS_ON_DISK, PreparedScan
from scripts.io.bids import LABEL_SUFFIXES, sidecar
from scripts.io.files import checksums_of, read_json, whole_file, write_json
from scripts.io.nifti import open_nifti, write_nifti
from scripts.io.raw_scan import open_scan
from scripts.io.volume import read_volume
from scripts.labels import t1_tissue, tissue_sources, user_segmentations
from scripts.labels.alignment import MIN_COVERED, MIN_DEPENDENCE
from scripts.labels.quality import COLUMNS, flag_outliers, picture
from scripts.labels.shell_on_grid import Shell, load_shell
from scripts.labels.tissue_sources import MIN_DICE, USUAL_DICE, WHITE, Tissue, dice
from scripts.version import code_version
from transforms.diffusion import csd, dti
from transforms.diffusion.gradients import B0_MAX
from transforms.errors import InputError, SignalError, counted
from transforms.label_classes import MAX_NUFO, TISSUE_ABBREVIATIONS, TISSUES
from transforms.white_matter import DIFFUSION_LIMITS, MAX_MD_RATIO, MIN_FA, white_matter

DESCRIPTIONS = {
    "tissue": "Tissue classes on the grid of the prepared scan.",
    "tissue_prob": "Fractions of background, gray matter, white matter and cerebrospinal fluid, one volume each.",
    "white_matter": "Mask of white matter.",
    "nufo": "Number of peaks of the fibre orientation distribution in white matter, 0 elsewhere.",
    "peak": "Largest peak of the fibre orientation distribution: unit vector in world RAS, 0 outside white matter.",
}

PARAMETERS: dict[str, Any] = {
    "RelativePeakThreshold": csd.RELATIVE_THRESHOLD,
    "MinimumSeparationDegrees": csd.MIN_SEPARATION_DEGREES,
    "MaximumNumberOfPeaks": MAX_NUFO,
    "ResponseFractionalAnisotropy": list(csd.RESPONSE_FA),
    "WhiteMatterFractionalAnisotropy": MIN_FA,
    "WhiteMatterMeanDiffusivityRatio": MAX_MD_RATIO,
    "MarkovRandomFieldBeta": t1_tissue.BETA,
    "FluidPercentile": t1_tissue.FLUID_PERCENTILE,
    "TissueSubdivision": t1_tissue.SUBDIVISION,
    "BrainIntensityLimits": [t1_tissue.MIN_BRIGHTNESS, t1_tissue.MAX_BRIGHTNESS],
    "RegistrationLimits": [MIN_COVERED, MIN_DEPENDENCE, MIN_DICE],
    "Seed": t1_tissue.SEED,
}
"""Parameters on which labels depend, beside their sources. After a change, the labels are made again."""


@dataclass(frozen=True)
class LabelledScan:
    """A labelled scan.

    Attributes:
        scan: the scan with its labels.
        measures: row of the scan in the cohort's table.
    """

    scan: PreparedScan
    measures: Mapping[str, Any]


@dataclass(frozen=True)
class MadeLabels:
    """Labels of a scan before they are written.

    Attributes:
        labels: voxels by key of ``LABEL_SUFFIXES``.
        measures: row of the scan in the cohort's table.
        how: entries of the JSON that say how the labels were made.
        figure: picture for a quick look.
    """

    labels: dict[str, np.ndarray]
    measures: dict[str, Any]
    how: dict[str, Any]
    figure: Figure


def label_scan(
    scan: PreparedScan,
    derivatives: Path | None,
    bvalue: float,
    voxel_size: float,
    b0_max: float = B0_MAX,
    sharp: bool = False,
) -> LabelledScan:
    """Label one scan of a prepared cohort, unless its labels are up to date.

    Args:
        scan: scan of the cohort.
        derivatives: BIDS derivatives with tissue segmentations, or None.
        bvalue: b-value of the shell in s/mm2.
        voxel_size: voxel size of the preparation, in mm.
        b0_max: largest b-value in s/mm2 that counts as b0.
        sharp: see :func:`transforms.diffusion.csd.find_peaks`.

    Raises:
        InputError: a raw file or the user's segmentation is missing, or cannot be used.
    """
    files = scan.raw_files()
    own = user_segmentations.find_segmentation(derivatives, scan.participant, scan.name) if derivatives else []
    if own and (t1 := user_segmentations.t1_of(own[0])):
        files["t1w"] = t1
    inputs = [files[name] for name in ("dwi", "bval", "bvec")] + [scan.path("mask"), *own]
    inputs += user_segmentations.sidecar_of(own)
    if "t1w" in files and (not own or user_segmentations.in_t1_space(own[0])):
        inputs.append(files["t1w"])
    checksums = checksums_of(inputs)
    parameters = {**PARAMETERS, "SharpResponse": sharp}
    made_from = {"SourceChecksums": checksums, "Parameters": parameters, "Version": code_version()}
    if known := labelled_already(scan, made_from):
        return known
    prepared_from = read_json(scan.sidecar).get("SourceChecksums")
    for path in (files[name] for name in ("dwi", "bval", "bvec")):
        if not isinstance(prepared_from, dict) or checksums[path.name] != prepared_from.get(path.name):
            raise InputError(
                f"{path}: found another file than the one that was prepared, expected the same; "
                "run 'python -m scripts prepare' again."
            )

    mask = read_volume(scan.path("mask"))
    raw = open_scan(files["dwi"], files["bval"], files["bvec"], bvalue=bvalue, b0_max=b0_max)
    try:
        made = _make(scan.name, load_shell(raw, mask, voxel_size), mask, files.get("t1w"), own, sharp)
    except SignalError as error:
        raise InputError(f"{files['dwi']}: {error}") from None
    how = {"Sources": [str(path) for path in inputs], **made_from, "BValue": bvalue, **made.how}
    return write_labels(scan, replace(made, how=how))


def labelled_already(scan: PreparedScan, made_from: Mapping[str, Any]) -> LabelledScan | None:
    """Return the labels that an earlier run made of the same sources in the same way, or None."""
    if not scan.labels.record.is_file():
        return None
    # people may have edited the record: what is no record of labels is none
    with suppress(InputError, KeyError, TypeError, ValueError, AttributeError):
        known = read_json(scan.labels.record)
        files = {key: scan.labels.path(key) for key in LABEL_SUFFIXES if KEYS_ON_DISK[key] in known["Labels"]}
        (row,) = flag_outliers([known["Measures"]])
        same = all(known.get(key) == value for key, value in made_from.items()) and row["scan"] == scan.name
        if same and files and all(file.is_file() for file in files.values()):
            return LabelledScan(scan.with_labels(files), known["Measures"])
    return None


def write_labels(scan: PreparedScan, made: MadeLabels) -> LabelledScan:
    """Write the labels of a scan, and remove those that it no longer has.

    Old labels are removed first and the record is written last, so a run that is cut off in between leaves no mixture.
    """
    labels = scan.labels
    for old in (labels.record, *map(labels.path, LABEL_SUFFIXES)):
        old.unlink(missing_ok=True)
    affine = open_nifti(scan.path("mask"), ndim=3).affine
    for key in LABEL_SUFFIXES:
        path = labels.path(key)
        if key not in made.labels:
            sidecar(path).unlink(missing_ok=True)
            continue
        write_nifti(path, made.labels[key], affine)
        write_json(sidecar(path), {"Description": DESCRIPTIONS[key], **_label_map(key), **made.how})
    with whole_file(labels.picture) as partial:
        made.figure.savefig(partial, dpi=80)
    keys = [KEYS_ON_DISK[key] for key in made.labels]
    write_json(labels.record, {"Labels": keys, "Measures": made.measures, **made.how})
    return LabelledScan(scan.with_labels({key: labels.path(key) for key in made.labels}), made.measures)


def _label_map(key: str) -> dict[str, Any]:
    """Return the meaning of the values or volumes of a label, for its JSON."""
    if key == "tissue":
        return {"LabelMap": dict(zip(TISSUE_ABBREVIATIONS, range(len(TISSUES)), strict=True))}
    return {"LabelMap": list(TISSUE_ABBREVIATIONS)} if key == "tissue_prob" else {}


def _make(scan: str, shell: Shell, mask: MetaTensor, t1: Path | None, own: Sequence[Path], sharp: bool) -> MadeLabels:
    """Make the labels of a scan.

    Args:
        scan: name of the scan.
        shell: shell of the raw scan, on the prepared grid.
        mask: brain mask on the prepared grid, ``(1, X, Y, Z)``.
        t1: T1-weighted image of the scan, or None.
        own: files of the user's tissue segmentation; empty without one.
        sharp: see :func:`transforms.diffusion.csd.find_peaks`.

    Raises:
        InputError: the user's segmentation cannot be used.
        SignalError: the scan shows no white matter, or too little to estimate a response.
    """
    tensor = dti.fit_tensor_wls(shell.signal, shell.gradients, shell.usable)
    white = by_diffusion = white_matter(tensor.fa, tensor.md, shell.mask, shell.voxel_ml)
    route, tissue = "FA and MD", Tissue(None, {})
    if own:
        route, tissue = "derivatives", tissue_sources.from_segmentation(scan, own, t1, shell, mask)
    elif t1:
        tissue = tissue_sources.from_t1(t1, shell, mask, by_diffusion)
        route = route if tissue.fractions is None else "T1"
    notes = [tissue.remark] if tissue.remark else []
    if left_out := int((mask[0].numpy() > 0).sum() - shell.mask.sum()):
        notes.append(f"{counted(left_out, 'voxel')} of the brain left out: not finite in a volume")
    labels: dict[str, np.ndarray] = {}
    measured = tissue.measures
    if (fractions := tissue.fractions) is not None:
        # voxels of the brain whose signal is not finite become background
        fractions[:, ~shell.mask] = np.eye(len(TISSUES), 1)
        labels["tissue"] = fractions.argmax(axis=0).astype(np.uint8)
        labels["tissue_prob"] = np.moveaxis(fractions, 0, -1).astype(np.float32)
        white = labels["tissue"] == WHITE
        overlap = dice(white, by_diffusion)
        measured = {**measured, "white_matter_dice": overlap}
        found = f"white matter overlaps the diffusion tensor's with a Dice of {overlap:.2f}"
        if own and overlap < MIN_DICE:
            raise InputError(
                f"{own[0]}: found that its {found}, expected at least {MIN_DICE:g}; "
                "is it aligned, are its labels 1 (GM), 2 (WM), 3 (CSF)?"
            )
        if overlap < USUAL_DICE:
            notes.append(f"{found}, expected {USUAL_DICE:g} or more: are the tissues aligned?")
    peaks = csd.find_peaks(shell.signal, shell.gradients, white & shell.usable, tensor.fa, sharp=sharp)
    labels |= {"white_matter": white.astype(np.uint8), "nufo": peaks.nufo, "peak": peaks.peak}
    measures = _measures(scan, route, labels, shell, peaks)
    measures |= {key: value for key, value in measured.items() if key in COLUMNS}
    measures["notes"] = notes
    how = {
        "Route": route,
        "Notes": notes,
        **({"Limits": DIFFUSION_LIMITS} if tissue.fractions is None else {}),
        "SphericalHarmonicOrder": peaks.order,
        "DistinctAxes": peaks.axes,
        "Response": asdict(peaks.response) | {"fa": peaks.response.fa},
        **{key: value for key, value in measured.items() if key not in COLUMNS},
    }
    shown = labels.get("tissue", labels["white_matter"] * WHITE)
    title = f"{scan}: white matter from {route}, SH order {peaks.order}"
    return MadeLabels(labels, measures, how, picture(shell.b0, shell.mask, shown, peaks.nufo, peaks.peak, title))


def _measures(
    scan: str, route: str, labels: Mapping[str, np.ndarray], shell: Shell, peaks: csd.Peaks
) -> dict[str, Any]:
    """Return the row of the scan in the table: volumes in ml, and fractions of white matter by NuFO."""
    white = labels["white_matter"] > 0
    parts = np.bincount(peaks.nufo[white], minlength=MAX_NUFO + 1) / max(int(white.sum()), 1)
    row: dict[str, Any] = {
        "scan": scan,
        "route": route,
        "sh_order": peaks.order,
        "response_voxels": peaks.response.voxels,
        "brain_ml": float(shell.mask.sum() * shell.voxel_ml),
        "white_matter_ml": float(white.sum() * shell.voxel_ml),
        "response_fa": peaks.response.fa,
    }
    row |= {name: float(parts[n]) for n, name in ((1, "one_peak"), (2, "two_peaks"), (3, "three_peaks"))}
    if "tissue" in labels:
        row |= {
            f"{name}_ml": float((labels["tissue"] == index).sum() * shell.voxel_ml)
            for name, index in (("gray_matter", 1), ("fluid", 3))
        }
    return row
