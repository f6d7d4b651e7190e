"""Files of a phantom cohort: raw scans in the layout of the HCP or of BIDS, and beside them the truth."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from scripts.io.bids import describe_dataset, write_tissue_table
from scripts.io.files import read_json, whole_file, write_json, write_text
from scripts.io.gradients import write_gradients
from scripts.io.nifti import write_volumes
from scripts.jobs import run_jobs
from scripts.phantom.acquisition import T1W_ECHO_TIME, T1W_FLIP_ANGLE, T1W_REPETITION_TIME
from scripts.phantom.subject import KINDS, SIZES, SNR, Case, Subject, simulate
from transforms.errors import InputError

MASK_MARGIN = 6
"""Voxels around the brain in which an auxiliary scan has data: the HCP's pipeline clears what is further out."""

NOISE_FREE_UNIT = 0.1
"""Unit of the noise-free signal's stored integers: 1 in 6,000 of white matter at b = 0, 1 in 200 of the usual noise."""

RECORD = "artifacts.json"
"""End of the name of the file with a subject's random parameters."""

README = """\
Phantom cohort: simulated diffusion MRI of made-up brains, {size} size, seed {seed}.
No person was scanned. What the brains are made of is in derivatives/truth.
"""


def _write_gradients(bval: Path, bvec: Path, gradients: np.ndarray, affine: np.ndarray) -> None:
    with whole_file(bval) as first, whole_file(bvec) as second:
        write_gradients(first, second, gradients, affine)


def _time_axis(subject: Subject) -> tuple[int, float]:
    """Number of volumes of the diffusion scan, and seconds between them."""
    return len(subject.gradients), subject.protocol.repetition_time


def _write_truth(subject: Subject, folder: Path, prefix: str) -> None:
    """Write the truth on the grid of the scan to files of ``folder`` whose names begin with ``prefix``."""

    def image(name: str, volumes: Iterable[np.ndarray], dtype: type, count: int = 1) -> None:
        write_volumes(folder / f"{prefix}{name}.nii.gz", volumes, subject.affine, dtype, count)

    brain, tissue = subject.brain, subject.tissue
    image("tissue_dseg", [np.where(brain, tissue.argmax(axis=0) + 1, 0)], np.uint8)
    image("tissue_probseg", tissue, np.float32, count=3)
    write_json(folder / f"{prefix}tissue_probseg.json", {"LabelMap": ["GM", "WM", "CSF"]})
    image("brain_mask", [brain], np.uint8)
    image("peaks_dwi", subject.peaks.reshape(9, *brain.shape), np.float32, count=9)
    image("fractions_dwi", subject.fractions, np.float32, count=3)
    image("npeaks_dseg", [(subject.fractions > 0).sum(axis=0)], np.uint8)
    path, count, seconds = folder / f"{prefix}noisefree_dwi.nii.gz", *_time_axis(subject)
    write_volumes(path, subject.noise_free(), subject.affine, np.int16, count, seconds, NOISE_FREE_UNIT)
    for name, gradients in (("noisefree", subject.gradients), ("headframe", subject.head_gradients)):
        stem = folder / f"{prefix}{name}_dwi"
        _write_gradients(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), gradients, subject.affine)


def _record_path(case: Case, out: Path) -> Path:
    """File that is written last, so a subject is complete where it exists."""
    if case.kind == "auxiliary":
        return out / case.name / "truth" / RECORD
    return out / "derivatives" / "truth" / case.name / "dwi" / f"{case.name}_desc-{RECORD}"


def _write_auxiliary(subject: Subject, out: Path) -> dict[str, Any]:
    folder = out / subject.case.name / "T1w" / "Diffusion"
    keep = ndimage.binary_dilation(subject.brain, iterations=MASK_MARGIN)
    _write_gradients(folder / "bvals", folder / "bvecs", subject.gradients, subject.affine)
    write_volumes(folder / "nodif_brain_mask.nii.gz", [subject.brain], subject.affine, np.uint8)
    volumes = (np.where(keep, volume, 0) for volume in subject.scan())
    write_volumes(folder / "data.nii.gz", volumes, subject.affine, np.int16, *_time_axis(subject))
    return subject.record()


def _write_clinical(subject: Subject, out: Path) -> dict[str, Any]:
    name, protocol = subject.case.name, subject.protocol
    stem = out / name / "dwi" / f"{name}_dwi"
    scanner = {"Modality": "MR", "MagneticFieldStrength": 3}
    echo_spacing = 0.00069
    sidecar = {
        **scanner,
        "EchoTime": protocol.echo_time,
        "RepetitionTime": protocol.repetition_time,
        "FlipAngle": 90,
        # anterior to posterior: the second voxel axis runs to anterior
        "PhaseEncodingDirection": "j-",
        "EffectiveEchoSpacing": echo_spacing,
        "TotalReadoutTime": echo_spacing * (protocol.shape[1] - 1),
    }
    _write_gradients(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), subject.gradients, subject.affine)
    write_json(stem.with_suffix(".json"), sidecar)
    write_volumes(stem.with_suffix(".nii.gz"), subject.scan(), subject.affine, np.int16, *_time_axis(subject))

    t1w = out / name / "anat" / f"{name}_T1w"
    image, affine, drawn = subject.t1w()
    times = {"EchoTime": T1W_ECHO_TIME, "RepetitionTime": T1W_REPETITION_TIME, "FlipAngle": T1W_FLIP_ANGLE}
    write_json(t1w.with_suffix(".json"), {**scanner, **times})
    write_volumes(t1w.with_suffix(".nii.gz"), [image], affine, np.int16)
    return {**subject.record(), "T1w": drawn}


def _write_subject(case: Case, out: Path) -> None:
    """Make one subject unless it is there."""
    path = _record_path(case, out)
    if not path.is_file():
        subject = simulate(case)
        drawn = (_write_auxiliary if case.kind == "auxiliary" else _write_clinical)(subject, out)
        _write_truth(subject, path.parent, path.name.removesuffix(RECORD))
        write_json(path, drawn)
        return
    asked = {"Size": case.size, "Seed": case.seed, "SNR": case.snr}
    found = {key: read_json(path).get(key) for key in asked}
    if found != asked:
        raise InputError(
            f"{path}: found a subject of size {found['Size']}, seed {found['Seed']} and SNR {found['SNR']}, expected "
            f"size {case.size}, seed {case.seed} and SNR {case.snr} as asked for; use another folder."
        )


def _write_bids(out: Path, seed: int, size: str) -> None:
    """Write what describes a clinical data set and its truth as wholes."""
    truth = out / "derivatives" / "truth"
    describe_dataset(out, "Diffusion MRI phantom", "raw")
    participants = sorted((path.name for path in out.glob("sub-*")), key=lambda name: (len(name), name))
    write_text(out / "participants.tsv", "\n".join(["participant_id", *participants]) + "\n")
    write_text(out / "README", README.format(size=size, seed=seed))
    write_tissue_table(truth)
    made_by = {"GeneratedBy": [{"Name": "dmri-pretraining phantom"}]}
    describe_dataset(truth, "Truth of the diffusion MRI phantom", content=made_by)


def _check(kind: str, subjects: int, seed: int, size: str, jobs: int, snr: float) -> None:
    for name, value, known in (("kind", kind, KINDS), ("size", size, tuple(SIZES))):
        if value not in known:
            raise InputError(f"{name}: found {value!r}, expected one of {', '.join(known)}.")
    for name, number, least in (("subjects", subjects, 1), ("seed", seed, 0), ("jobs", jobs, 1)):
        if not isinstance(number, int) or number < least:
            raise InputError(f"{name}: found {number!r}, expected a whole number of at least {least}.")
    if not 0 < snr < float("inf"):
        raise InputError(f"snr: found {snr!r}, expected a number above 0.")


def write_phantom(
    kind: str,
    subjects: int,
    seed: int,
    out: str | os.PathLike[str],
    size: str = "small",
    jobs: int = 1,
    snr: float = SNR,
) -> Path:
    """Write a phantom cohort: raw scans with known tissue and fibres.

    A subject depends on ``seed``, ``kind``, its number, ``size`` and ``snr`` alone, not on the number of subjects or of
    jobs. Subjects that are complete in ``out`` are kept, and files appear whole or not at all, so a run that was
    stopped can be started again.

    Args:
        kind: ``"auxiliary"``, the layout of the HCP (``100001/T1w/Diffusion``), 1.25 mm, several shells, hardly any
            artifacts, truth in ``100001/truth``; or ``"clinical"``, raw BIDS with a T1-weighted image, 2.4 mm, 64
            directions at b = 1000 and one b0, oblique slices, the artifacts of a hospital's scan, truth in
            ``derivatives/truth``.
        subjects: number of subjects.
        seed: of the cohort, at least 0.
        out: folder, made where it does not exist.
        size: ``"small"`` is a head of half the size with voxels as large as ever, an eighth of the data, for tests and
            for training on a CPU in minutes; ``"standard"`` a head of life size; ``"full"`` has the whole of the HCP's
            acquisition too, 288 volumes in three shells.
        jobs: number of processes.
        snr: signal-to-noise ratio of white matter at b = 0.

    Returns:
        ``out`` as a path.

    Raises:
        InputError: an argument is out of range, or ``out`` holds a subject of another seed, size or ratio.
    """
    _check(kind, subjects, seed, size, jobs, snr)
    out = Path(out)
    cases = [Case(kind, number, seed, size, snr) for number in range(1, subjects + 1)]
    for outcome in run_jobs(partial(_write_subject, out=out), cases, jobs, f"{kind} phantoms"):
        if outcome.failure:
            raise InputError(outcome.failure)
    if kind == "clinical":
        _write_bids(out, seed, size)
    return out
