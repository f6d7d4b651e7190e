"""Labels of one scan of a prepared cohort; what is there and still right is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor

from scripts.cohort.datalist import LABELS
from scripts.cohort.label import diffusion, fibres, given, registration, tissue
from scripts.cohort.label.diffusion import NoFibresError
from scripts.cohort.label.quality import COLUMNS, picture
from scripts.cohort.label.raw import Shell, load_shell, raw_files, read_t1, read_volume
from scripts.files import code_version, read_json, sha256, whole_file, write_json, write_nifti
from transforms.errors import InputError
from transforms.scan import open_nifti
from transforms.targets import TISSUE_ABBREVIATIONS, TISSUES
from transforms.tensor import LEAST_FA, MOST_MD

FILES = {
    "tissue": "desc-tissue_dseg",
    "tissue_prob": "desc-tissue_probseg",
    "white_matter": "desc-wm_mask",
    "n_peaks": "desc-npeaks_dseg",
    "peak": "desc-peak_dwi",
}
"""End of the name of each label's file, by its key in the datalist."""

DESCRIPTIONS = {
    "tissue": "Tissue classes on the grid of the prepared scan.",
    "tissue_prob": "Shares of background, gray matter, white matter and cerebrospinal fluid, one volume each.",
    "white_matter": "Mask of white matter.",
    "n_peaks": "Number of peaks of the fibre orientation distribution in white matter, 0 elsewhere.",
    "peak": "Largest peak of the fibre orientation distribution: unit vector in world RAS, 0 outside white matter.",
}

WHITE = TISSUE_ABBREVIATIONS.index("WM")

LEAST_DICE = 0.4
"""Overlap of white matter by the T1, or by a given segmentation, and by FA and MD; with less it is not used."""

USUAL_DICE = 0.6
"""Aligned scans have this and more; with less there is a note."""

PARAMETERS: dict[str, Any] = {
    "RelativePeakThreshold": fibres.RELATIVE_THRESHOLD,
    "MinimumSeparationDegrees": fibres.SEPARATION_DEGREES,
    "MaximumNumberOfPeaks": fibres.MOST_PEAKS,
    "ResponseFractionalAnisotropy": list(fibres.RESPONSE_FA),
    "WhiteMatterFractionalAnisotropy": LEAST_FA,
    "WhiteMatterMeanDiffusivityRatio": MOST_MD,
    "MarkovRandomFieldBeta": tissue.BETA,
    "FluidPercentile": tissue.FLUID_PERCENTILE,
    "TissueSubdivision": tissue.SUBDIVISION,
    "BrainIntensityLimits": [tissue.DARK, tissue.BRIGHT],
    "RegistrationLimits": [registration.LEAST_COVERED, registration.LEAST_DEPENDENCE, LEAST_DICE],
    "Seed": tissue.SEED,
}
"""What labels depend on beside their sources; a change makes them again."""


def _align(t1: MetaTensor, shell: Shell, mask: MetaTensor) -> tuple[registration.Alignment, dict[str, Any]]:
    """Register a T1 to a scan; the alignment, and its measures for the table and the JSON."""
    attenuation = MetaTensor(torch.from_numpy(shell.mean_attenuation)[None], affine=mask.affine)
    alignment = registration.align(t1, attenuation, mask)
    return alignment, {
        "registration_covered": alignment.covered,
        "registration_dependence": alignment.dependence,
        "registration_shift_mm": alignment.shift,
        "registration_turn_degrees": alignment.turn,
        "T1ToDiffusion": np.linalg.inv(alignment.matrix).tolist(),
    }


def _tissue_from_t1(
    path: Path, shell: Shell, mask: MetaTensor, by_diffusion: np.ndarray
) -> tuple[np.ndarray | None, dict[str, Any], str | None]:
    """Shares of tissues by a T1, measures of its registration, and what is wrong with it; no shares if something is.

    A T1 that cannot be used costs a scan its tissues, and not the labels that come from the diffusion alone.
    """
    measures: dict[str, Any] = {}
    try:
        t1 = read_t1(path)
        alignment, measures = _align(t1, shell, mask)
        if alignment.fault:
            return None, measures, alignment.fault
        shares = tissue.tissue_from_t1(registration.carried(t1, alignment.matrix), mask)
    except InputError as error:
        return None, measures, str(error).removesuffix(".")
    overlap = dice(shares.argmax(axis=0) == WHITE, by_diffusion)
    if overlap < LEAST_DICE:
        found = f"white matter of the T1 and of the diffusion tensor overlap with a Dice of {overlap:.2f}"
        return None, measures | {"white_matter_dice": overlap}, f"{found}, expected at least {LEAST_DICE:g}"
    return shares, measures, None


def _given_tissue(
    scan: str, own: Sequence[Path], t1: Path | None, shell: Shell, mask: MetaTensor
) -> tuple[np.ndarray, dict[str, Any], str | None]:
    """Shares of tissues by a given segmentation, measures of its registration, and a remark on its space.

    Raises:
        InputError: it cannot be used, or lies in the space of a T1 that cannot be registered.
    """
    if not given.in_t1_space(own[0]):
        return given.given_tissue(own, mask), {}, None
    remark: str | None = None
    if t1 is None:
        remark = f"{own[0].name} lies in the space of a T1 that is not there: placed by its affine alone"
        return given.given_tissue(own, mask), {}, remark
    alignment, measures = _align(read_t1(t1), shell, mask)
    if alignment.fault:
        raise InputError(
            f"{own[0]}: found it in the space of a T1 that could not be registered ({alignment.fault}), "
            "expected one that can, or a segmentation in the space of the diffusion scan."
        )
    of_all = "_ses-" in scan and re.match(r"sub-[^_]+_(?!ses-)", own[0].name)
    if of_all and given.t1_of(own[0]) is None:
        remark = f"{own[0].name} is one of all sessions without its T1 beside it: placed by this session's T1"
    return given.given_tissue(own, mask, alignment.matrix), measures, remark


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Overlap of two masks, 0 to 1 (Dice, Ecology 26:297-302, 1945)."""
    total = int(first.sum() + second.sum())
    return float(2 * (first & second).sum() / total) if total else 0.0


def label_scan(
    entry: Mapping[str, Any], folder: Path, derivatives: Path | None, bvalue: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Label one scan of a prepared cohort, or find that it is labelled already.

    Args:
        entry: of the datalist.
        folder: of the prepared cohort.
        derivatives: BIDS derivatives with tissue segmentations that share the scan's world space, or None.
        bvalue: of the shell in s/mm2.

    Returns:
        the entry with the paths of its labels, and its row of the table.

    Raises:
        InputError: a raw file or the given segmentation is missing, or cannot be used.
    """
    scan = str(entry["scan"])
    files = raw_files(dict(entry), folder)
    own = given.find_given(derivatives, entry["participant"], scan) if derivatives else []
    if own and (t1 := given.t1_of(own[0])):
        files["t1w"] = t1
    inputs = [files[name] for name in ("dwi", "bval", "bvec")] + [folder / entry["mask"], *own, *given.sidecar_of(own)]
    if "t1w" in files and (not own or given.in_t1_space(own[0])):
        inputs.append(files["t1w"])
    checksums = {path.name: sha256(path) for path in inputs}
    made_from = {
        "SourceChecksums": checksums,
        "Parameters": PARAMETERS,
        "Version": code_version(),
    }
    stem = entry["mask"].removesuffix("desc-brain_mask.nii.gz")
    record = folder / f"{stem}desc-labels.json"
    paths = {key: f"{stem}{end}.nii.gz" for key, end in FILES.items()}
    if record.is_file():
        known = read_json(record)
        made = [key for key in FILES if key in known.get("Labels", [])]
        same = all(known.get(key) == value for key, value in made_from.items())
        if same and made and all((folder / paths[key]).is_file() for key in made):
            return _with_labels(entry, {key: paths[key] for key in made}), known["Measures"]
    if checksums[files["dwi"].name] != entry["checksum"]:
        raise InputError(f"{files['dwi']}: found another file than the one that was prepared, expected the same.")

    try:
        labels, row, how, figure = _make(scan, files, own, read_volume(folder / entry["mask"]), bvalue)
    except NoFibresError as error:
        raise InputError(f"{files['dwi']}: {error}") from None
    # old labels are taken away first and the record is written last: what is cut off in between leaves no mixture
    for old in (record, *(folder / path for path in paths.values())):
        old.unlink(missing_ok=True)
    how = {"Sources": [str(path) for path in inputs], **made_from, "BValue": bvalue, **how}
    affine = open_nifti(folder / entry["mask"], ndim=3).affine
    for key, path in paths.items():
        _write(folder / path, key, labels.get(key), affine, how)
    with whole_file(folder / f"{stem}desc-labels.png") as partial:
        figure.savefig(partial, dpi=80)
    write_json(record, {"Labels": list(labels), "Measures": row, **how})
    return _with_labels(entry, {key: paths[key] for key in labels}), row


def _make(
    scan: str, files: Mapping[str, Path], own: Sequence[Path], mask: MetaTensor, bvalue: float
) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, Any], Figure]:
    """Labels of a scan by their key, its row of the table, what its JSON says of how they were made, and a picture."""
    shell = load_shell(files, bvalue, mask)
    tensor = diffusion.fit_tensor(shell)
    white = by_diffusion = diffusion.white_matter(tensor, shell)
    route, shares, remark = "FA and MD", None, None
    aligned: dict[str, Any] = {}
    if own:
        route = "derivatives"
        shares, aligned, remark = _given_tissue(scan, own, files.get("t1w"), shell, mask)
    elif "t1w" in files:
        shares, aligned, fault = _tissue_from_t1(files["t1w"], shell, mask, by_diffusion)
        route = route if shares is None else "T1"
        remark = f"T1 not used: {fault}" if fault else None
    notes = [remark] if remark else []
    if left_out := int((mask[0].numpy() > 0).sum() - shell.mask.sum()):
        notes.append(f"{left_out} voxels of the brain left out: their signal is not finite")
    labels: dict[str, np.ndarray] = {}
    if shares is not None:
        # voxels of the brain whose signal is not finite
        shares[:, ~shell.mask] = np.eye(len(TISSUES), 1)
        labels["tissue"] = shares.argmax(axis=0).astype(np.uint8)
        labels["tissue_prob"] = np.moveaxis(shares, 0, -1).astype(np.float32)
        white = labels["tissue"] == WHITE
        overlap = aligned["white_matter_dice"] = dice(white, by_diffusion)
        measured = f"white matter overlaps the diffusion tensor's with a Dice of {overlap:.2f}"
        if own and overlap < LEAST_DICE:
            raise InputError(
                f"{own[0]}: found that its {measured}, expected at least {LEAST_DICE:g}; "
                "is it aligned, are its labels 1 (GM), 2 (WM), 3 (CSF)?"
            )
        if overlap < USUAL_DICE:
            notes.append(f"{measured}, expected {USUAL_DICE:g} or more: are the tissues aligned?")
    found = fibres.find_fibres(shell, tensor, white)
    labels |= {"white_matter": white.astype(np.uint8), "n_peaks": found.n_peaks, "peak": found.peak}
    row = _measures(scan, route, labels, shell, found)
    row |= {key: value for key, value in aligned.items() if key in COLUMNS}
    row["notes"] = notes
    how = {
        "Route": route,
        "Notes": notes,
        "SphericalHarmonicOrder": found.order,
        "DistinctAxes": found.axes,
        "Response": asdict(found.response) | {"fa": found.response.fa},
        **{key: value for key, value in aligned.items() if key not in COLUMNS},
    }
    shown = labels.get("tissue", labels["white_matter"] * WHITE)
    title = f"{scan}: white matter from {route}, SH order {found.order}"
    return labels, row, how, picture(shell.b0, shell.mask, shown, found.n_peaks, found.peak, title)


def _write(path: Path, key: str, voxels: np.ndarray | None, affine: np.ndarray, how: Mapping[str, Any]) -> None:
    """Write one label with its JSON; take away one that a scan no longer has."""
    sidecar = Path(str(path).replace(".nii.gz", ".json"))
    if voxels is None:
        path.unlink(missing_ok=True)
        sidecar.unlink(missing_ok=True)
        return
    write_nifti(path, voxels, affine)
    content: dict[str, Any] = {"Description": DESCRIPTIONS[key]}
    if key == "tissue":
        content["LabelMap"] = dict(zip(TISSUE_ABBREVIATIONS, range(len(TISSUES)), strict=True))
    elif key == "tissue_prob":
        content["LabelMap"] = list(TISSUE_ABBREVIATIONS)
    write_json(sidecar, {**content, **how})


def _with_labels(entry: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in LABELS} | dict(labels)


def _measures(
    scan: str, route: str, labels: Mapping[str, np.ndarray], shell: Shell, found: fibres.Fibres
) -> dict[str, Any]:
    """Row of the table: volumes in millilitres, shares of white matter by its number of peaks."""
    millilitres = abs(float(np.linalg.det(shell.affine[:3, :3]))) / 1000
    white = labels["white_matter"] > 0
    counts = np.bincount(found.n_peaks[white], minlength=4) / max(int(white.sum()), 1)
    row: dict[str, Any] = {
        "scan": scan,
        "route": route,
        "sh_order": found.order,
        "response_voxels": found.response.voxels,
        "brain_ml": float(shell.mask.sum() * millilitres),
        "white_matter_ml": float(white.sum() * millilitres),
        "response_fa": found.response.fa,
    }
    row |= {name: float(counts[n]) for n, name in ((1, "one_peak"), (2, "two_peaks"), (3, "three_peaks"))}
    if "tissue" in labels:
        row |= {
            f"{name}_ml": float((labels["tissue"] == index).sum() * millilitres)
            for name, index in (("gray_matter", 1), ("fluid", 3))
        }
    return row
