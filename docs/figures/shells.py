"""Prepared scans with their shell and its tensor, as the labels see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monai.data import MetaTensor

from scripts.cohort.datalist import read_cohort, read_preparation
from scripts.cohort.prepared import PreparedScan
from scripts.io.raw_scan import open_scan
from scripts.io.volume import as_volume, read_volume
from scripts.labels import t1_tissue
from scripts.labels.alignment import with_affine
from scripts.labels.shell_on_grid import Shell, load_shell
from scripts.labels.t1_registration import register_t1
from transforms.diffusion.dti import Tensor, fit_tensor_wls


@dataclass(frozen=True)
class Opened:
    """A prepared scan; ``t1`` is its T1 placed in the world of the diffusion scan, or None."""

    scan: PreparedScan
    mask: MetaTensor
    shell: Shell
    tensor: Tensor
    t1: MetaTensor | None


def opened(folder: Path) -> Iterator[Opened]:
    """Open each scan of a prepared cohort."""
    preparation = read_preparation(folder)
    for scan in (scan for listed in read_cohort(folder).values() for scan in listed):
        files = scan.raw_files()
        raw = open_scan(files["dwi"], files["bval"], files["bvec"], bvalue=preparation["bvalue"])
        mask = read_volume(scan.path("mask"))
        shell = load_shell(raw, mask, preparation["voxel_size"])
        tensor = fit_tensor_wls(shell.signal, shell.gradients, shell.usable)
        t1 = t1_tissue.read_t1(files["t1w"]) if "t1w" in files else None
        if t1 is not None:
            target = as_volume(shell.mean_attenuation[None], shell.affine)
            t1 = with_affine(t1, register_t1(t1, target, mask).matrix)
        yield Opened(scan, mask, shell, tensor, t1)
