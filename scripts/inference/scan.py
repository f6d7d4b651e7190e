"""The one raw scan that inference is for."""

from __future__ import annotations

from scripts.errors import exits_on_input_error
from transforms.errors import InputError
from transforms.scan import Scan, read_mask


@exits_on_input_error
def find_scan(
    dwi: str | None,
    bval: str | None = None,
    bvec: str | None = None,
    brain_mask: str | None = None,
    bvalue: float = 1000.0,
) -> list[dict[str, str]]:
    """Check a raw scan before anything is computed, and list it for a MONAI dataset.

    Args:
        dwi: NIfTI file of the scan, any affine.
        bval: b-values; by default beside the scan.
        bvec: b-vectors; by default beside the scan.
        brain_mask: mask on the scan's grid; by default ``median_otsu`` finds one.
        bvalue: b-value of the shell in s/mm2.

    Returns:
        one entry with the paths that were given.

    Raises:
        SystemExit: the scan cannot be used; one sentence says why.
    """
    if dwi is None:
        raise InputError("--dwi: found nothing, expected the NIfTI file of a diffusion scan.")
    scan = Scan(dwi, bval, bvec, bvalue)
    if brain_mask:
        read_mask(brain_mask, scan)
    given = {"dwi": dwi, "bval": bval, "bvec": bvec, "brain_mask": brain_mask}
    return [{key: str(path) for key, path in given.items() if path}]
