"""Files of a phantom cohort: raw scans in the layout of the HCP or of BIDS, and beside them the truth."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from scripts.cohort.phantom import signal
from scripts.cohort.phantom.subject import KINDS, SIZES, TIMES, Case, Subject, simulate
from scripts.files import read_json, tissue_table, whole_file, write_json
from scripts.jobs import run_jobs
from transforms.errors import InputError
from transforms.gradients import write_gradients

MASK_MARGIN = 6
"""Voxels around the brain in which an auxiliary scan has data: the HCP's pipeline clears what is further out."""

BIDS_VERSION = "1.10.0"

README = """\
Phantom cohort: simulated diffusion MRI of made-up brains, {size} size, seed {seed}.
No person was scanned. What the brains are made of is in derivatives/truth.
"""


def _write_image(
    path: Path, volumes: Iterable[np.ndarray], subject: Subject, dtype: type, count: int = 1, seconds: float = 1.0
) -> None:
    """Write volumes ``(X, Y, Z)`` one by one as a NIfTI file, 4D where ``count`` is above 1, never all in memory."""
    shape, affine = subject.tissue.shape[1:], subject.affine
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape((*shape, count) if count > 1 else shape)
    header.set_zooms([*np.linalg.norm(affine[:3, :3], axis=0).tolist(), seconds][: 4 if count > 1 else 3])
    header.set_xyzt_units("mm", "sec")
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_slope_inter(1, 0)
    header["vox_offset"] = 352
    # no name and no time in the gzip header: equal data make equal files
    with (
        whole_file(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as file,
    ):
        file.write(header.binaryblock + bytes(4))
        for volume in volumes:
            file.write(volume.astype(dtype).tobytes(order="F"))


def _write_gradients(bval: Path, bvec: Path, subject: Subject) -> None:
    with whole_file(bval) as first, whole_file(bvec) as second:
        write_gradients(first, second, subject.gradients, subject.affine)


def _scan(subject: Subject, keep: np.ndarray | None) -> Iterator[np.ndarray]:
    for index, volume in enumerate(subject.noise_free()):
        stored = signal.add_faults(volume, subject.faults, index, subject.generator)
        yield stored if keep is None else np.where(keep, stored, 0)


def _write_truth(subject: Subject, folder: Path, prefix: str) -> None:
    """Write the truth on the grid of the scan to files of ``folder`` whose names begin with ``prefix``."""

    def name(rest: str) -> Path:
        return folder / (prefix + rest)

    image = partial(_write_image, subject=subject)
    labels = np.where(subject.brain, subject.tissue.argmax(axis=0) + 1, 0)
    image(name("tissue_dseg.nii.gz"), [labels], dtype=np.uint8)
    image(name("tissue_probseg.nii.gz"), subject.tissue, dtype=np.float32, count=3)
    write_json(name("tissue_probseg.json"), {"LabelMap": ["GM", "WM", "CSF"]})
    image(name("brain_mask.nii.gz"), [subject.brain], dtype=np.uint8)
    peaks = (subject.in_grid(part) for part in subject.directions.reshape(-1, 9).T)
    image(name("peaks_dwi.nii.gz"), peaks, dtype=np.float32, count=9)
    image(name("fractions_dwi.nii.gz"), map(subject.in_grid, subject.fractions.T), dtype=np.float32, count=3)
    image(name("npeaks_dseg.nii.gz"), [subject.in_grid((subject.fractions > 0).sum(axis=1))], dtype=np.uint8)


def _record_path(case: Case, out: Path) -> Path:
    """File that is written last, so a subject is complete where it exists."""
    if case.kind == "auxiliary":
        return out / case.name / "truth" / "imperfections.json"
    return out / "derivatives" / "truth" / case.name / "dwi" / f"{case.name}_desc-imperfections.json"


def _write_auxiliary(case: Case, out: Path) -> None:
    subject, folder = simulate(case), out / case.name / "T1w" / "Diffusion"
    keep = ndimage.binary_dilation(subject.brain, iterations=MASK_MARGIN)
    _write_gradients(folder / "bvals", folder / "bvecs", subject)
    _write_image(folder / "nodif_brain_mask.nii.gz", [subject.brain], subject, np.uint8)
    count, seconds = len(subject.gradients), TIMES[case.kind][1]
    _write_image(folder / "data.nii.gz", _scan(subject, keep), subject, np.int16, count, seconds)
    record = _record_path(case, out)
    _write_truth(subject, record.parent, "")
    write_json(record, subject.record)


def _write_clinical(case: Case, out: Path) -> None:
    subject, stem = simulate(case), out / case.name / "dwi" / f"{case.name}_dwi"
    echo_time, repetition_time = TIMES[case.kind]
    sidecar = {
        "Modality": "MR",
        "MagneticFieldStrength": 3,
        "EchoTime": echo_time,
        "RepetitionTime": repetition_time,
        "FlipAngle": 90,
        "PhaseEncodingDirection": "j-",
        "EffectiveEchoSpacing": 0.00069,
        "TotalReadoutTime": 0.00069 * (subject.tissue.shape[2] - 1),
    }
    _write_gradients(stem.with_suffix(".bval"), stem.with_suffix(".bvec"), subject)
    write_json(stem.with_suffix(".json"), sidecar)
    count = len(subject.gradients)
    _write_image(stem.with_suffix(".nii.gz"), _scan(subject, None), subject, np.int16, count, repetition_time)
    record = _record_path(case, out)
    _write_truth(subject, record.parent, f"{case.name}_desc-")
    noise_free = record.parent / f"{case.name}_desc-noisefree_dwi.nii.gz"
    _write_image(noise_free, subject.noise_free(), subject, np.float32, count, repetition_time)
    write_json(record, subject.record)


def _write_subject(case: Case, out: Path) -> None:
    """Make one subject unless it is there."""
    record = _record_path(case, out)
    if not record.is_file():
        (_write_auxiliary if case.kind == "auxiliary" else _write_clinical)(case, out)
        return
    found = read_json(record)
    if (found["Size"], found["Seed"]) != (case.size, case.seed):
        raise InputError(
            f"{record}: found a subject of size {found['Size']} and seed {found['Seed']}, "
            f"expected size {case.size} and seed {case.seed} as asked for; use another folder."
        )


def _write_bids(out: Path, seed: int, size: str) -> None:
    """Write what describes a clinical data set and its truth as wholes."""
    truth = out / "derivatives" / "truth"
    description = {"Name": "Diffusion MRI phantom", "BIDSVersion": BIDS_VERSION, "DatasetType": "raw"}
    write_json(out / "dataset_description.json", description)
    participants = sorted((path.name for path in out.glob("sub-*")), key=lambda name: (len(name), name))
    texts = {
        out / "participants.tsv": "\n".join(["participant_id", *participants]) + "\n",
        out / "README": README.format(size=size, seed=seed),
        truth / "desc-tissue_dseg.tsv": tissue_table(),
    }
    for path, text in texts.items():
        with whole_file(path) as partial_path:
            partial_path.write_text(text, encoding="utf-8")
    derivative = {
        "Name": "Truth of the diffusion MRI phantom",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "dmri-pretraining phantom"}],
    }
    write_json(truth / "dataset_description.json", derivative)


def _check(kind: str, subjects: int, seed: int, size: str, jobs: int) -> None:
    for name, value, known in (("kind", kind, KINDS), ("size", size, tuple(SIZES))):
        if value not in known:
            raise InputError(f"{name}: found {value!r}, expected one of {', '.join(known)}.")
    for name, number, least in (("subjects", subjects, 1), ("seed", seed, 0), ("jobs", jobs, 1)):
        if not isinstance(number, int) or number < least:
            raise InputError(f"{name}: found {number!r}, expected a whole number of at least {least}.")


def write_phantom(
    kind: str,
    subjects: int,
    seed: int,
    out: str | os.PathLike[str],
    size: str = "small",
    jobs: int = 1,
) -> Path:
    """Write a phantom cohort: raw scans with known tissue and fibres.

    A subject depends on ``seed``, ``kind``, its number and ``size`` alone, not on the number of subjects or of jobs.
    Subjects that are complete in ``out`` are kept, and files appear whole or not at all, so a run that was stopped can
    be started again.

    Args:
        kind: ``"auxiliary"``, the layout of the HCP (``100001/T1w/Diffusion``), 1.25 mm, several shells, truth in
            ``100001/truth``; or ``"clinical"``, raw BIDS, 2.4 mm, 64 directions at b = 1000 and one b0, oblique
            slices, a receive field and eddy currents, truth in ``derivatives/truth``.
        subjects: number of subjects.
        seed: of the cohort, at least 0.
        out: folder, made where it does not exist.
        size: ``"standard"`` is a life-size head (field of view 180 x 216 x 180 mm), ``"small"`` a head of half that
            size with the same voxels, an eighth of the data, for tests and for training on a CPU in minutes.
        jobs: number of processes.

    Returns:
        ``out`` as a path.

    Raises:
        InputError: an argument is out of range, or ``out`` holds a subject of another seed or size.
    """
    _check(kind, subjects, seed, size, jobs)
    out = Path(out)
    cases = [Case(kind, number, seed, size) for number in range(1, subjects + 1)]
    for outcome in run_jobs(partial(_write_subject, out=out), cases, jobs, f"{kind} phantoms"):
        if outcome.failure:
            raise InputError(outcome.failure)
    if kind == "clinical":
        _write_bids(out, seed, size)
    return out
