"""Print what `prepare` makes of unusual and broken scans, as the first table of docs/reliability.md.

python docs/figures/reliability.py
"""

from __future__ import annotations

import gzip
import json
import logging
import struct
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np

from scripts.cohort.prepare import TABLE, prepare_cohort
from scripts.errors import reason
from scripts.io.gradients import write_gradients
from transforms.diffusion.scheme import default_scheme

SHAPE = (44, 46, 36)
AFFINE = np.diag([-2.4, 2.4, 2.4, 1.0])
RADIUS = 38.0
"""Of the ball that stands for a head, in mm."""

TURN = np.linalg.qr(np.array([[1.0, 0.3, -0.2], [0.4, 1.0, 0.5], [-0.6, 0.2, 1.0]]))[0]
TENSOR = TURN @ np.diag([1.6e-3, 0.5e-3, 0.4e-3]) @ TURN.T
"""In mm2/s; its axes are oblique to the voxels."""

CASES: dict[str, Callable[[Path], dict | None]] = {}


def case(title: str) -> Callable[[Callable[[Path], dict | None]], Callable[[Path], dict | None]]:
    """Register what makes an input; it may return options of the preparation."""

    def register(make: Callable[[Path], dict | None]) -> Callable[[Path], dict | None]:
        CASES[title] = make
        return make

    return register


def table(directions: np.ndarray | None = None, b: float = 1000.0, n_b0: int = 2) -> np.ndarray:
    """Gradient table of some b0 volumes and one shell."""
    directions = default_scheme() if directions is None else directions
    return np.vstack([np.zeros((n_b0, 4)), np.column_stack([directions, np.full(len(directions), b)])])


def signal(gradients: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """A ball of one tensor in air, with noise, shape ``(X, Y, Z, N)``."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1) - (np.array(SHAPE) - 1) / 2
    inside = np.linalg.norm(2.4 * grid, axis=-1) < radius
    decay = np.exp(-gradients[:, 3] * np.einsum("ni,ij,nj->n", gradients[:, :3], TENSOR, gradients[:, :3]))
    clean = np.where(inside[..., None], 1000 * decay, 10.0)
    return (clean + 2 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)


def scan(
    root: Path, name: str = "sub-01_dwi", gradients: np.ndarray | None = None, voxels: np.ndarray | None = None
) -> Path:
    """Write a BIDS scan; returns the stem of its files."""
    gradients = table() if gradients is None else gradients
    folder = root / name.split("_", maxsplit=1)[0] / "dwi"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.10.0"}))
    stem = folder / name
    nib.save(nib.Nifti1Image(signal(gradients) if voxels is None else voxels, AFFINE), f"{stem}.nii.gz")
    write_gradients(f"{stem}.bval", f"{stem}.bvec", gradients, AFFINE)
    return stem


@case("a plain scan")
def _(root: Path) -> None:
    scan(root)


@case("beside it a scan with one entity more and another table")
def _(root: Path) -> None:
    scan(root)
    scan(root, "sub-01_acq-x_dwi", table(default_scheme()[::-1]))


@case("beside it a 3-volume scan of the other polarity")
def _(root: Path) -> None:
    scan(root)
    scan(root, "sub-01_dir-PA_dwi", table(np.zeros((0, 3)), n_b0=3))


@case("no table beside it, and one of `desc-eddy`")
def _(root: Path) -> None:
    stem = scan(root, "sub-01_desc-preproc_dwi")
    for end in ("bval", "bvec"):
        Path(f"{stem}.{end}").rename(str(stem).replace("preproc", "eddy") + f".{end}")


@case("its `.bvec` a link to nothing, and one in the root of the dataset")
def _(root: Path) -> None:
    own = Path(f"{scan(root)}.bvec")
    own.rename(root / "dwi.bvec")
    own.symlink_to("absent")


@case("in the folder of another participant")
def _(root: Path) -> None:
    scan(root)
    (root / "sub-01").rename(root / "sub-02")


@case("two shells that both fit, b = 900 and 1100")
def _(root: Path) -> None:
    scan(root, gradients=np.vstack([table(b=900.0), table(b=1100.0)[2:]]))


@case("a shell at the edge, b = 890 to 910")
def _(root: Path) -> None:
    gradients = table()
    gradients[2:, 3] = np.random.default_rng(0).permutation(np.linspace(890, 910, 64))
    scan(root, gradients=gradients)


@case("16 of the directions without a b-vector")
def _(root: Path) -> None:
    gradients = table()
    gradients[50:, :3] = 0
    scan(root, gradients=gradients)


@case("b-values coded in the lengths of the b-vectors")
def _(root: Path) -> None:
    low = table(b=500.0)
    gradients = np.vstack([low, table()[2:]])
    stem = scan(root, gradients=gradients)
    bvec = np.loadtxt(f"{stem}.bvec") * np.sqrt(np.maximum(gradients[:, 3], 1) / 1000)
    np.savetxt(f"{stem}.bvec", bvec)
    np.savetxt(f"{stem}.bval", np.where(gradients[:, 3] > 0, 1000, 0)[None], fmt="%g")


@case("b-vectors scaled by 0.9, b-values right")
def _(root: Path) -> None:
    stem = scan(root)
    np.savetxt(f"{stem}.bvec", 0.9 * np.loadtxt(f"{stem}.bvec"))


@case("64 directions on a plane")
def _(root: Path) -> None:
    angle = np.linspace(0, np.pi, 64, endpoint=False)
    scan(root, gradients=table(np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)))


def _cone(least: float) -> np.ndarray:
    axes = default_scheme()
    axes = axes * np.sign(axes @ axes[0] + 1e-9)[:, None]
    return axes[axes @ axes[0] > least]


@case("17 directions in a cone of 41 degrees")
def _(root: Path) -> None:
    scan(root, gradients=table(_cone(0.75)))


@case("38 directions in a cone of 66 degrees")
def _(root: Path) -> None:
    scan(root, gradients=table(_cone(0.4)))


@case("b0 volumes at b = 60")
def _(root: Path) -> None:
    gradients = table()
    gradients[:2, 3] = 60
    scan(root, gradients=gradients)


@case("b-values in ms/um2")
def _(root: Path) -> None:
    stem = scan(root)
    np.savetxt(f"{stem}.bval", np.loadtxt(f"{stem}.bval")[None] / 1000, fmt="%g")


@case("b0 volumes at b = 60, `--b0-max 70`")
def _(root: Path) -> dict:
    gradients = table()
    gradients[:2, 3] = 60
    scan(root, gradients=gradients)
    return {"b0_max": 70.0}


def _changed(title: str, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    @case(title)
    def _(root: Path) -> None:
        voxels = signal(table())
        result = change(voxels)
        scan(root, voxels=voxels if result is None else result)


def _put(index: object, value: object) -> Callable[[np.ndarray], None]:
    return lambda voxels: voxels.__setitem__(index, value)


_changed("stopped early: the last six volumes 0", _put(np.s_[..., 60:], 0))
_changed("half of the shell 0", _put(np.s_[..., 2:34], 0))
_changed("shell all 0", _put(np.s_[..., 2:], 0))
_changed("one b0 and one direction exchanged", lambda voxels: voxels[..., [0, 9, *range(2, 9), 1, *range(10, 66)]])
_changed("shell equal to the b0", lambda voxels: np.repeat(voxels[..., :1], 66, axis=3))
_changed("constant", _put(np.s_[:], 7))
_changed("negative shell", lambda voxels: voxels * np.r_[1, 1, -np.ones(64)].astype(np.float32))
_changed(
    "noise alone in the shell",
    lambda voxels: np.concatenate(
        [voxels[..., :2], np.random.default_rng(1).rayleigh(20, (*SHAPE, 64)).astype(np.float32)], axis=3
    ),
)
_changed("noise alone everywhere", lambda voxels: np.abs(np.random.default_rng(1).normal(0, 20, voxels.shape)))
_changed("every other slice empty in all volumes", _put(np.s_[:, :, ::2], 0))
_changed("a single slice", lambda voxels: voxels[:, :, 17:18])
_changed("one direction at a tenth of its signal", lambda voxels: voxels * np.r_[np.ones(9), 0.1, np.ones(56)])
_changed("three slices of one direction empty", _put(np.s_[:, :, 16:19, 9], 0))
_changed("half of the head of one direction empty", _put(np.s_[:22, :, :, 9], 0))
_changed("ten slices of one direction at one dark value", _put(np.s_[:, :, 10:20, 9], 3))
_changed("all volumes one place before their gradients", lambda voxels: np.roll(voxels, -1, axis=3))
_changed("one voxel NaN", _put((22, 23, 18, 5), np.nan))


def _codes(title: str, sform: int, qform: int, change: np.ndarray | None = None) -> None:
    @case(title)
    def _(root: Path) -> None:
        path = Path(f"{scan(root)}.nii.gz")
        image = nib.load(path)
        # the qform first, for it writes the voxel size as well
        image.set_qform(AFFINE, qform)
        image.set_sform(AFFINE if change is None else AFFINE @ change, sform, update_affine=False)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)


SHEAR = np.eye(4)
SHEAR[0, 1] = 0.5
TURN_10 = np.eye(4)
TURN_10[:2, :2] = [[0.985, -0.174], [0.174, 0.985]]

_codes("header without an orientation (codes 0)", 0, 0)
_codes("header whose sform and qform disagree on left and right", 1, 1, np.diag([-1, 1, 1, 1]))
_codes("header whose sform and qform are turned against each other", 1, 1, TURN_10)
_codes("header whose sform has voxels of twice the size", 1, 0, np.diag([2, 2, 2, 1]))
_codes("header whose sform is in micrometres", 1, 0, np.diag([1000, 1000, 1000, 1]))
_codes("header whose sform is sheared", 1, 0, SHEAR)


@case("cut off after half of the file")
def _(root: Path) -> None:
    path = Path(f"{scan(root)}.nii.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@case("a byte of the checksum inside the compressed file changed")
def _(root: Path) -> None:
    path = Path(f"{scan(root)}.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(bytes(content))


def _header(title: str, offset: int, form: str, *values: int) -> None:
    @case(title)
    def _(root: Path) -> None:
        path = Path(f"{scan(root)}.nii.gz")
        content = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into(form, content, offset, *values)
        path.write_bytes(gzip.compress(bytes(content), 1))


_header("header with an unknown data type", 70, "<h", 9999)
_header("header with a negative side", 42, "<h", -44)
_header("header of 30000 x 30000 x 30000 voxels", 42, "<3h", 30000, 30000, 30000)


def _sidecar(title: str, content: bytes, name: str = "sub-01/dwi/sub-01_dwi.json") -> None:
    @case(title)
    def _(root: Path) -> None:
        scan(root)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


_sidecar("sidecar that is no JSON", b"{not json")
_sidecar("sidecar that is a list", b"[1]")
_sidecar("sidecar in Latin-1", '{"InstitutionName": "Köln"}'.encode("latin-1"))
_sidecar("sidecar with a byte order mark", b'\xef\xbb\xbf{"PhaseEncodingDirection": "j-"}')
_sidecar("sidecar of another modality that is no JSON", b"{not json", "sub-01/func/sub-01_task-rest_bold.json")
_sidecar("`PhaseEncodingDirection` AP", b'{"PhaseEncodingDirection": "AP"}')
_sidecar("`PhaseEncodingDirection` col_dir", b'{"PhaseEncodingDirection": "col_dir"}')


@case("`.bval` and `.bvec` with a byte order mark")
def _(root: Path) -> None:
    stem = scan(root)
    for end in ("bval", "bvec"):
        path = Path(f"{stem}.{end}")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@case("two versions of the scan, `.nii` and `.nii.gz`")
def _(root: Path) -> None:
    stem = scan(root)
    nib.save(nib.load(f"{stem}.nii.gz"), f"{stem}.nii")


def answers_of(attempt: Callable[[], object]) -> list[str]:
    """Say why an attempt is refused."""
    try:
        attempt()
    except Exception as error:
        return [reason(error)]
    return ["taken"]


def answers(root: Path, out: Path, layout: str = "bids", **options: Any) -> list[str]:
    """Prepare a cohort; say what each scan gets."""
    try:
        outcomes = prepare_cohort(layout, root, out, **options)
    except Exception as error:
        return [reason(error)]
    said = [f"{outcome.item}: {outcome.failure}" for outcome in outcomes if outcome.failure]
    rows = (out / TABLE).read_text().splitlines()[1:] if (out / TABLE).is_file() else []
    for row in rows:
        name, *_, order, _, _, notes = row.split("\t")
        said.append(f"{name} prepared, order {order}" + (f"; note: {notes}" if notes else ""))
    return said


def print_table(cases: Mapping[str, Callable[[Path], list[str]]]) -> None:
    """Try each input in a folder of its own and print its row."""
    logging.disable(logging.WARNING)
    print("| input | what it gets |\n|---|---|")
    for title, attempt in cases.items():
        with TemporaryDirectory() as folder, open(Path(folder) / "log", "w") as log, redirect_stderr(log):
            said = "<br>".join(attempt(Path(folder)))
        print(f"| {title} | {said.replace(f'{folder}/', '')} |", flush=True)


def _prepared(make: Callable[[Path], dict | None], folder: Path) -> list[str]:
    root = folder / "raw"
    root.mkdir()
    options = make(root) or {}
    return answers(root, folder / "out", split=(1, 0, 0), **options)


if __name__ == "__main__":
    print_table({title: partial(_prepared, make) for title, make in CASES.items()})
