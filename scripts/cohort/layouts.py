"""Where the raw scans of a cohort lie: the layouts ``bids`` and ``hcp``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from scripts.io.bids import DESCRIPTION, entities_of, hcp_name, inherited, is_label, scan_name, sidecar
from scripts.io.files import read_json
from scripts.io.nifti import strip_nifti
from scripts.io.raw_scan import open_scan
from transforms.diffusion.gradients import B0_MAX
from transforms.errors import InputError
from transforms.scan import Scan

NIFTI = (".nii", ".nii.gz")

MASK_SPACES = ("dwi", "orig", "native")
"""Values of ``space`` in the names of brain masks that lie on the grid of the diffusion scan."""


@dataclass(frozen=True)
class RawScan:
    """The files of one diffusion scan.

    Attributes:
        participant: BIDS label with its prefix, e.g. ``sub-01``.
        name: BIDS entities that name the scan, e.g. ``sub-01_ses-2_dir-AP``.
        dwi: the diffusion-weighted image.
        bval: its b-values.
        bvec: its b-vectors.
        brain_mask: a given brain mask on its grid, or None.
        t1w: a T1-weighted image of the same participant and session, or None.
        sidecars: JSON files that count for it, the one that counts most first.
        notes: what a reader of the prepared scan should know.
        problem: why it cannot be used, or None.
    """

    participant: str
    name: str
    dwi: Path
    bval: Path
    bvec: Path
    brain_mask: Path | None = None
    t1w: Path | None = None
    sidecars: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None

    def __str__(self) -> str:
        return self.name

    def open(self, bvalue: float, b0_max: float = B0_MAX) -> Scan:
        """Open the scan with its shell of ``bvalue`` s/mm2; see :func:`scripts.io.raw_scan.open_scan`.

        Raises:
            InputError: it cannot be used.
        """
        if self.problem:
            raise InputError(self.problem)
        return open_scan(self.dwi, self.bval, self.bvec, self.brain_mask, bvalue, b0_max=b0_max)

    def acquisition(self) -> tuple[dict[str, Any], list[str]]:
        """Read how the scan was acquired, as its sidecars say.

        Returns:
            content of the sidecars, and a note for each that the scan shares with others and that cannot be read.

        Raises:
            InputError: the scan's own sidecar cannot be read.
        """
        merged: dict[str, Any] = {}
        notes = []
        for path in reversed(self.sidecars):
            try:
                merged |= read_json(path)
            except InputError as error:
                if path == sidecar(self.dwi):
                    raise
                notes.append(f"a shared sidecar does not count: {error}")
        return merged, notes


def find_bids(root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the diffusion scans of a BIDS dataset: ``sub-*/[ses-*/]dwi/*_dwi.nii[.gz]``.

    Args:
        root: the raw dataset.
        derivatives: a BIDS derivative dataset that holds brain masks (``desc-brain_mask`` in ``dwi``), or None.
    """
    if not (root / DESCRIPTION).is_file():
        raise InputError(f"{root}: found no {DESCRIPTION}, expected a BIDS dataset.")
    images = [path for path in _images(root, "sub-*", "dwi", "dwi") if entities_of(path).get("part", "mag") == "mag"]
    if not images:
        raise InputError(f"{root}: found no file sub-*_dwi.nii.gz, expected a BIDS dataset with diffusion scans.")
    return [_bids_scan(scan_name(path), path, root, derivatives) for path in images]


def _one_of_each_name(scans: list[RawScan]) -> list[RawScan]:
    """Sort scans by name; of several of one name keep the first, and say that it cannot be used."""
    kept = []
    for _, versions in groupby(sorted(scans, key=lambda scan: (scan.name, scan.dwi)), key=lambda scan: scan.name):
        first, *others = versions
        if others:
            paths = " and ".join(str(scan.dwi) for scan in (first, *others))
            first = replace(first, problem=f"{paths}: found several versions of one scan, expected one.")
        kept.append(first)
    return kept


def _images(root: Path, subject: str, folder: str, suffix: str) -> Iterator[Path]:
    """Images of a suffix in a folder of a subject and of its sessions; ``subject`` may be a pattern."""
    for place in (f"{subject}/{folder}", f"{subject}/ses-*/{folder}"):
        for ending in NIFTI:
            yield from root.glob(f"{place}/sub-*_{suffix}{ending}")


def _bids_scan(name: str, dwi: Path, root: Path, derivatives: Path | None) -> RawScan:
    entities = entities_of(dwi)
    files, problem, unclear = {}, None, []
    for ending in (".bval", ".bvec", ".json"):
        try:
            files[ending] = inherited(dwi, root, ending)
        except InputError as error:
            files[ending] = []
            if ending == ".json":
                # it only says what is good to know
                unclear.append(f"no sidecar counts: {error}")
            else:
                problem = str(error)
    beside = {ending: Path(strip_nifti(dwi) + ending) for ending in files}
    for ending in (".bval", ".bvec"):
        # where there is none, or no file in its place, this is named as missing
        if not files[ending] or _is_no_file(beside[ending]):
            files[ending] = [beside[ending]]
    bval, bvec = files[".bval"][0], files[".bvec"][0]
    notes = unclear + [
        f"{path.relative_to(root)} is inherited: there is no {own.name} beside the scan"
        for path, own in ((bval, beside[".bval"]), (bvec, beside[".bvec"]))
        if path != own
    ]
    if _is_no_file(beside[".json"]):
        notes.append(f"{beside['.json'].name} beside the scan is not a file that can be read: it does not count")
    own = [f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities]
    if (folders := list(dwi.relative_to(root).parts[:-2])) != own:
        found = f"found a scan of {'/'.join(own)} in the folder of {'/'.join(folders)}"
        problem = f"{dwi}: {found}, expected one participant and session."
    masks = _find_masks(derivatives, dwi) if derivatives else []
    if len(masks) > 1:
        problem = f"{' and '.join(map(str, masks))}: found {len(masks)} brain masks of one scan, expected one."
    elif derivatives and not masks:
        notes.append(f"no brain mask of it in {derivatives}: one was found on the b0")
    t1s = _find_t1ws(root, entities)
    if len(t1s) > 1:
        notes.append(f"of {len(t1s)} T1-weighted images {t1s[0].name} is taken")
    return RawScan(
        participant=f"sub-{entities['sub']}",
        name=name,
        dwi=dwi,
        bval=bval,
        bvec=bvec,
        brain_mask=next(iter(masks), None),
        t1w=next(iter(t1s), None),
        sidecars=tuple(files[".json"]),
        notes=tuple(notes),
        problem=problem,
    )


def _is_no_file(path: Path) -> bool:
    """Whether something else than a file stands in the place of one: a link to nothing, a pipe, a folder."""
    return not path.is_file() and (path.is_symlink() or path.exists())


def _find_masks(derivatives: Path, dwi: Path) -> list[Path]:
    """Find the brain masks of exactly one scan: their entities are the scan's, and may add the scan's own space."""

    def of_scan(path: Path) -> dict[str, str]:
        return {key: value for key, value in entities_of(path).items() if key not in ("desc", "space")}

    return [
        path
        for path in sorted(_images(derivatives, f"sub-{entities_of(dwi)['sub']}", "dwi", "mask"))
        if entities_of(path).get("desc") == "brain"
        and entities_of(path).get("space", MASK_SPACES[0]) in MASK_SPACES
        and of_scan(path) == of_scan(dwi)
    ]


def _find_t1ws(root: Path, entities: dict[str, str]) -> list[Path]:
    """Find the T1-weighted images of a scan's participant and session, sorted by name."""
    found = sorted(
        path
        for path in _images(root, f"sub-{entities['sub']}", "anat", "T1w")
        # a link to nothing is no image
        if path.is_file() and entities_of(path).get("part", "mag") == "mag"
    )
    return [path for path in found if "ses" not in entities or entities_of(path).get("ses") == entities["ses"]]


HCP_T1W = ("T1w_acpc_dc_restore_brain.nii.gz", "T1w_acpc_dc_restore.nii.gz", "T1w_acpc_dc_restore_1.25.nii.gz")
"""Names of the T1-weighted image in ``<ID>/T1w``; the first that is there is taken."""


def find_hcp(root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the preprocessed diffusion scans of the Human Connectome Project: ``<ID>/T1w/Diffusion/data.nii.gz``."""
    if derivatives:
        raise InputError(f"{derivatives}: found derivatives, expected none: HCP scans come with a brain mask.")
    scans = []
    for folder in sorted(root.glob("[!.]*/T1w/Diffusion")):
        participant, name = hcp_name(folder.parent.parent.name)
        mask = folder / "nodif_brain_mask.nii.gz"
        has_mask = mask.is_file() or _is_no_file(mask)
        scans.append(
            RawScan(
                participant=participant,
                name=name,
                dwi=folder / "data.nii.gz",
                bval=folder / "bvals",
                bvec=folder / "bvecs",
                brain_mask=mask if has_mask else None,
                t1w=next((path for name in HCP_T1W if (path := folder.parent / name).is_file()), None),
                notes=() if has_mask else (f"there is no {mask.name} beside the scan: a mask was found on the b0",),
            )
        )
    if not scans:
        raise InputError(f"{root}: found no folder <ID>/T1w/Diffusion, expected HCP's preprocessed diffusion data.")
    return scans


LAYOUTS: dict[str, Callable[[Path, Path | None], list[RawScan]]] = {"bids": find_bids, "hcp": find_hcp}


def find_scans(layout: str, root: Path, derivatives: Path | None = None) -> list[RawScan]:
    """Find the raw scans below ``root``, sorted by name.

    Args:
        layout: a key of ``LAYOUTS``.
        root: folder of the raw cohort.
        derivatives: BIDS derivatives with brain masks, or None.

    Raises:
        InputError: unknown layout, missing folder, or no scan in it.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}.")
    for folder in (root, derivatives):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{folder}: no such folder, expected a cohort.")
    scans = _one_of_each_name(LAYOUTS[layout](root, derivatives))
    return [scan if is_label(scan.name) else replace(scan, problem=_no_label(scan)) for scan in scans]


def _no_label(scan: RawScan) -> str:
    return f"{scan.dwi}: found the name {scan.name!r}, expected letters, digits and the signs _+.- alone."
