"""Print what the commands make of unusual and broken cohorts, as the second table of docs/reliability.md.

python docs/figures/reliability_cohorts.py
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import Compose, LoadImaged
from reliability import AFFINE, RADIUS, SHAPE, answers, answers_of, print_table, scan, signal, table

from scripts.cohort.datalist import DATALIST, SPLITS, load_entries, read_cohort
from scripts.io.files import read_json, write_json
from scripts.labels import label_cohort
from scripts.phantom import write_phantom
from scripts.phantom.truth import at_nearest_voxels
from transforms.reader import WholeFileReader
from transforms.values import RequireValuesd

CASES: dict[str, Callable[[Path], list[str]]] = {}
NAMES = ("sub-01", "sub-02", "sub-03")
STEM = "sub-01/dwi/sub-01"


def case(title: str) -> Callable[[Callable[[Path], list[str]]], Callable[[Path], list[str]]]:
    """Register what tries an input in a folder and returns what the commands say."""

    def register(attempt: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
        CASES[title] = attempt
        return attempt

    return register


def cohort(root: Path, names: tuple[str, ...] = NAMES, seed: int = 0) -> Path:
    """Write a scan for each participant; they differ by their noise."""
    for name in names:
        noise = np.random.default_rng([seed, int(name[4:])]).standard_normal((*SHAPE, 66)).astype(np.float32)
        scan(root, f"{name}_dwi", voxels=signal(table()) + noise)
    return root


def prepared(folder: Path, **options: object) -> list[str]:
    """Prepare ``raw`` to ``out``; the answers."""
    return answers(folder / "raw", folder / "out", **{"split": (1, 0, 0), **options})


def splits_of(folder: Path) -> str:
    """Say who stands in which split."""
    listed = read_cohort(folder / "out")
    return "; ".join(f"{split}: {', '.join(map(str, listed[split]))}" for split in SPLITS if listed[split])


def edit(path: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON file."""
    content = read_json(path)
    change(content)
    write_json(path, content)


def _coil(sensitivity: float) -> None:
    @case(f"surface coil, sensitivity {sensitivity:g} at the centre, base of the brain cut")
    def _(folder: Path) -> list[str]:
        grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) - (np.array(SHAPE) - 1) / 2
        radius = np.linalg.norm(2.4 * grid, axis=-1) / RADIUS
        voxels = signal(table()) * (sensitivity + (1 - sensitivity) * radius**2).astype(np.float32)[..., None]
        scan(folder / "raw", voxels=voxels[:, :, 9:])
        said = prepared(folder)
        found = at_nearest_voxels(
            folder / "out" / f"{STEM}_desc-brain_mask.nii.gz", nib.Nifti1Image(voxels[:, :, 9:, 0], AFFINE)
        )
        lost = 1 - found[radius[:, :, 9:] < 1].mean()
        return [f"{line}; {lost:.1%} of the brain lost" for line in said]


for value in (0.35, 0.25, 0.2):
    _coil(value)


def _masks(root: Path, voxels: np.ndarray, *names: str) -> Path:
    for name in names:
        path = root / f"sub-01/dwi/{name}_mask.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels.astype(np.uint8), AFFINE), path)
    return root


@case("given mask of the left half")
def _(folder: Path) -> list[str]:
    scan(folder / "raw")
    half = signal(table())[..., 0] > 500
    half[SHAPE[0] // 2 + 6 :] = False
    return prepared(folder, derivatives=_masks(folder / "masks", half, "sub-01_desc-brain"))


@case("given mask that lies 12 mm too far back")
def _(folder: Path) -> list[str]:
    scan(folder / "raw")
    moved = np.roll(signal(table())[..., 0] > 500, -5, axis=1)
    return prepared(folder, derivatives=_masks(folder / "masks", moved, "sub-01_desc-brain"))


@case("two given masks that fit one scan")
def _(folder: Path) -> list[str]:
    scan(folder / "raw")
    masks = _masks(folder / "masks", signal(table())[..., 0] > 500, "sub-01_desc-brain", "sub-01_space-dwi_desc-brain")
    return prepared(folder, derivatives=masks)


@case("gradient files in the root of the dataset")
def _(folder: Path) -> list[str]:
    stem = scan(folder / "raw")
    for end in ("bval", "bvec"):
        Path(f"{stem}.{end}").rename(folder / "raw" / f"dwi.{end}")
    return prepared(folder)


@case("b-vectors of a phantom with x negated, `--check-gradients` in a second run")
def _(folder: Path) -> list[str]:
    write_phantom("clinical", 1, 0, folder / "raw")
    path = folder / "raw" / f"{STEM}_dwi.bvec"
    np.savetxt(path, np.loadtxt(path) * [[-1], [1], [1]], fmt="%.6f")
    return [f"first run: {line}" for line in prepared(folder)] + prepared(folder, check_gradients=True)


@case("HCP folders `HCA6000000_V1_MR`, `HCA6000000_V2_MR`, `1001_01_MR`, `100307_3T`, `100307_7T`")
def _(folder: Path) -> list[str]:
    names = ("HCA6000000_V1_MR", "HCA6000000_V2_MR", "1001_01_MR", "100307_3T", "100307_7T")
    for index, name in enumerate(names):
        voxels = signal(table()) + np.random.default_rng(index).standard_normal((*SHAPE, 66)).astype(np.float32)
        stem, place = scan(folder / "x", voxels=voxels), folder / "raw" / name / "T1w" / "Diffusion"
        place.mkdir(parents=True)
        for end, file in ((".nii.gz", "data.nii.gz"), (".bval", "bvals"), (".bvec", "bvecs")):
            Path(f"{stem}{end}").rename(place / file)
    said = prepared(folder, layout="hcp", split=(1, 1, 1))
    return [line for line in said if "prepared" not in line] + [splits_of(folder)]


@case("another cohort prepared into the folder of a first")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw")
    prepared(folder)
    return answers(cohort(folder / "other", seed=1), folder / "out")


@case("the same voxels, compressed anew, as two participants")
def _(folder: Path) -> list[str]:
    first, second = (Path(f"{scan(folder / 'raw', f'{name}_dwi')}.nii.gz") for name in NAMES[:2])
    second.write_bytes(gzip.compress(gzip.decompress(first.read_bytes()), 9))
    return prepared(folder, split=(1, 0, 1))


@case("a participant of the test set without b-vectors for a run")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw")
    prepared(folder, split=(1, 1, 1))
    said = [f"before: {splits_of(folder)}"]
    (tested,) = read_cohort(folder / "out")["test"]
    path = folder / "raw" / f"{tested}/dwi/{tested}_dwi.bvec"
    path.rename(path.with_suffix(".away"))
    prepared(folder, split=(1, 1, 1))
    said.append(f"without: {splits_of(folder)}")
    path.with_suffix(".away").rename(path)
    prepared(folder, split=(1, 1, 1))
    return [*said, f"after: {splits_of(folder)}"]


@case("a participant moved to `test` in `datalist.json`, then `prepare` again")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw")
    prepared(folder)
    said = [f"before: {splits_of(folder)}"]
    edit(folder / "out" / DATALIST, lambda content: content["test"].append(content["training"].pop()))
    prepared(folder)
    return [*said, f"after: {splits_of(folder)}"]


def _entry(title: str, key: str, value: str) -> None:
    @case(title)
    def _(folder: Path) -> list[str]:
        cohort(folder / "raw", NAMES[:1])
        prepared(folder)
        edit(folder / "out" / DATALIST, lambda content: content["training"][0].update({key: value}))
        return answers_of(lambda: load_entries(str(folder / "out"), "training"))


_entry("`datalist.json` with `../`", "image", "../image.nii.gz")
_entry("`datalist.json` with an absolute path", "mask", "/data/mask.nii.gz")


@case("a mask of a prepared scan on another grid")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw", NAMES[:1])
    prepared(folder)
    path = folder / "out" / f"{STEM}_desc-brain_mask.nii.gz"
    nib.save(nib.load(path).slicer[:, :, 4:], path)
    return answers_of(lambda: load_entries(str(folder / "out"), "training"))


def load_prepared(folder: Path, *labels: str) -> Any:
    """Load a prepared scan as a training does."""
    keys = ["image", "mask", *labels]
    load = Compose([LoadImaged(keys, reader=WholeFileReader(), ensure_channel_first=True), RequireValuesd(keys)])
    return load(load_entries(str(folder / "out"), "training", keys)[0])


def change(path: Path, edited: Callable[[np.ndarray], np.ndarray]) -> None:
    """Edit the voxels of an image."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(edited(image.get_fdata(dtype=np.float32)), image.affine), path)


def _edited(title: str, suffix: str, edited: Callable[[np.ndarray], np.ndarray]) -> None:
    @case(title)
    def _(folder: Path) -> list[str]:
        cohort(folder / "raw", NAMES[:1])
        prepared(folder)
        change(folder / "out" / f"{STEM}_{suffix}.nii.gz", edited)
        return answers_of(lambda: load_prepared(folder))


def _with_nan(voxels: np.ndarray) -> np.ndarray:
    voxels[9, 9, 9, 9] = np.nan
    return voxels


_edited("NaN in a prepared image", "desc-attenuation_dwi", _with_nan)
_edited("a prepared image times 1000", "desc-attenuation_dwi", lambda voxels: voxels * 1000)
_edited("an empty mask of a prepared scan", "desc-brain_mask", lambda voxels: voxels * 0)
_edited(
    "a mask of a prepared scan that moved by half of the image", "desc-brain_mask", lambda mask: np.roll(mask, 19, 0)
)


@case("a tissue of 1.5 in the labels of a phantom")
def _(folder: Path) -> list[str]:
    raw = write_phantom("clinical", 1, 0, folder / "raw")
    prepared(folder)
    list(label_cohort(folder / "out", truth=raw / "derivatives" / "truth"))
    tissue = folder / "out" / f"{STEM}_desc-tissue_dseg.nii.gz"
    change(tissue, lambda voxels: np.where(voxels == 1, 1.5, voxels).astype(np.float32))
    return answers_of(lambda: load_prepared(folder, "tissue"))


@case("a bit of a prepared image changed")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw", NAMES[:1])
    prepared(folder)
    path = folder / "out" / f"{STEM}_desc-attenuation_dwi.nii.gz"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    return answers_of(lambda: load_prepared(folder))


@case("`label --truth` with the truth of another phantom")
def _(folder: Path) -> list[str]:
    write_phantom("clinical", 1, 0, folder / "raw")
    other = write_phantom("clinical", 1, 1, folder / "other") / "derivatives" / "truth"
    prepared(folder)
    return [f"{done.item}: {done.failure}" for done in label_cohort(folder / "out", truth=other)]


@case("the raw cohort is gone when `label` runs")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw", NAMES[:1])
    prepared(folder)
    shutil.rmtree(folder / "raw")
    return [f"{done.item}: {done.failure}" for done in label_cohort(folder / "out")]


@case("`--out` is a file")
def _(folder: Path) -> list[str]:
    cohort(folder / "raw", NAMES[:1])
    (folder / "out").write_text("")
    return prepared(folder)


if __name__ == "__main__":
    print_table(CASES)
