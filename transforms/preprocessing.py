"""A raw scan to the input of the network, in two halves.

The first half brings one shell to the grid: RAS, one voxel size. The second makes the network's input of it: brain
mask, attenuation, reference scheme. Preparation and inference take both, labels the first alone.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    DeleteItemsd,
    MaskIntensityd,
    Orientationd,
    ThresholdIntensityd,
    Transform,
)

from transforms.attenuation import Attenuationd
from transforms.errors import counted
from transforms.mask import BrainMaskd
from transforms.qspace import InterpolateQSpaced, Scheme
from transforms.resampling import ResampleToSpacingd

logger = logging.getLogger(__name__)

RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


class ReadShelld(Transform):
    """Read one shell of the opened scan ``raw_scan`` (:class:`transforms.scan.Scan`).

    Writes ``image`` (the shell's signal, ``(N, X, Y, Z)``), ``b0`` (mean of the b0 volumes, ``(1, X, Y, Z)``),
    ``b0_volumes`` (their number), ``gradients`` (the shell's table, ``(N, 4)``), and ``mask`` (``(1, X, Y, Z)``) where
    the scan has one; all as in the file. Volumes that cannot be used are left out; ``notes`` says which, a text that is
    empty where there are none.

    Args:
        checksum: whether to write ``checksum``, that of the voxels of all volumes.
    """

    def __init__(self, checksum: bool = False) -> None:
        self.checksum = checksum

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the voxels."""
        scan = data["raw_scan"]
        signal = scan.read(self.checksum)
        result = {**data, "b0": signal.b0, "image": signal.shell, "gradients": signal.gradients}
        result["b0_volumes"] = len(signal.b0_volumes)
        for note in signal.notes:
            logger.warning("%s: %s", scan, note)
        result["notes"] = "; ".join(signal.notes)
        if scan.mask is not None:
            result["mask"] = scan.mask
        if signal.checksum:
            result["checksum"] = signal.checksum
        return result


class FiniteSignald(Transform):
    """Set signal and b0 of a voxel to 0, in place, where one of its volumes is not finite.

    Resampling would spread NaN and infinity to the neighbours. A voxel that is 0 in signal and b0 alike leaves the
    attenuation of its resampled neighbours as it is.

    Expects ``image`` ``(N, X, Y, Z)`` and ``b0`` ``(1, X, Y, Z)``. Adds ``finite`` ``(1, X, Y, Z)``, 1 or 0.

    Examples:
        >>> measured = MetaTensor(torch.full((2, 4, 5, 3), 100.0))
        >>> measured[1, 0, 0, 0] = torch.nan
        >>> data = FiniteSignald()({"image": measured, "b0": MetaTensor(torch.full((1, 4, 5, 3), 200.0))})
        >>> data["image"][:, 0, 0, 0].tolist(), data["b0"][0, 0, 0, 0].item(), data["finite"][0, 0, 0, 0].item()
        ([0.0, 0.0], 0.0, 0.0)
        >>> data["notes"]
        '1 voxel not finite in a volume, so without a signal'
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Set the voxels to 0."""
        image, b0 = data["image"].as_tensor(), data["b0"].as_tensor()
        # a sum is finite where all its terms are, and takes no memory of the size of the scan
        finite = (image.sum(dim=0, keepdim=True) + b0).isfinite()
        for volumes in (image, b0):
            volumes.masked_fill_(~finite, 0.0)
        notes = data.get("notes", "")
        if broken := int((~finite).sum()):
            note = f"{counted(broken, 'voxel')} not finite in a volume, so without a signal"
            logger.warning("%s: %s", data.get("raw_scan", "scan"), note)
            notes = "; ".join(filter(None, [notes, note]))
        return {**data, "notes": notes, "finite": MetaTensor(finite.float(), affine=data["b0"].affine)}


class ScanToGrid(Compose):
    """First half of :class:`ScanToInput`: one shell of an opened scan on the grid of the network.

    Reads ``raw_scan``. Writes ``image`` (the shell's signal, ``(N, X, Y, Z)``), ``b0``, ``gradients``, ``finite`` (1
    where all volumes are finite, ``(1, X, Y, Z)``) and, where the scan has one, ``mask``; RAS, the whole field of view.

    Signals are resampled, not attenuations: averaging signals is what a larger voxel does.

    Args:
        voxel_size: in mm, one number or three.
        checksum: whether to write ``checksum``, that of the voxels of all volumes.

    Examples:
        >>> data = ScanToGrid(voxel_size=4.0)({"raw_scan": scan})
        >>> data["image"].shape, data["b0"].shape
        (torch.Size([64, 35, 42, 32]), torch.Size([1, 35, 42, 32]))
    """

    def __init__(self, voxel_size: float | Sequence[float] = 2.4, checksum: bool = False) -> None:
        images = ["image", "b0", "mask", "finite"]
        super().__init__(
            [
                ReadShelld(checksum),
                FiniteSignald(),
                Orientationd(keys=images, axcodes="RAS", labels=RAS_LABELS, allow_missing_keys=True),
                ResampleToSpacingd(keys=images, voxel_size=voxel_size, allow_missing_keys=True),
            ]
        )


class GridToInput(Compose):
    """Second half of :class:`ScanToInput`: signals on the grid to attenuations of the brain on the scheme.

    Reads what :class:`ScanToGrid` writes.

    Args:
        scheme: unit vectors in world RAS, shape ``(M, 3)``, or None for the 64 directions that ship with the bundle.
        margin: voxels kept around the brain, so that what an artifact displaces stays in view.

    Examples:
        >>> data = GridToInput(scheme=[[1, 0, 0], [0, 1, 0], [0, 0, 1]])(ScanToGrid()({"raw_scan": scan}))
        >>> data["image"].shape[0], data["gradients"][:, :3].tolist()
        (3, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """

    def __init__(self, scheme: Scheme = None, margin: int = 3) -> None:
        super().__init__(
            [
                BrainMaskd(),
                Attenuationd(keys="image"),
                InterpolateQSpaced(keys="image", scheme=scheme),
                # the harmonics overshoot where the attenuation touches its limits
                ThresholdIntensityd(keys="image", threshold=0.0, above=True, cval=0.0),
                ThresholdIntensityd(keys="image", threshold=1.0, above=False, cval=1.0),
                MaskIntensityd(keys="image", mask_key="mask"),
                CropForegroundd(keys=["image", "b0", "mask"], source_key="mask", margin=margin, allow_smaller=True),
                # a batch is made of tensors and plain values alone
                DeleteItemsd(keys=["finite", "raw_scan", "b0_volumes"]),
            ]
        )


class ScanToInput(Compose):
    """All steps from an opened raw scan to the network's input, as preparation and inference both do them.

    Reads ``raw_scan`` (:class:`transforms.scan.Scan`) and takes it out; writes ``image`` (attenuation in ``[0, 1]`` on
    the scheme, 0 outside the brain, ``(M, X, Y, Z)``), ``b0``, ``mask`` and ``gradients`` (the scheme's table), RAS,
    cropped to the brain, and ``notes``, a text.

    Args:
        scheme: unit vectors in world RAS, shape ``(M, 3)``, or None for the 64 directions that ship with the bundle.
        voxel_size: in mm, one number or three.
        margin: voxels kept around the brain, so that what an artifact displaces stays in view.
        checksum: whether to write ``checksum``, that of the voxels of all volumes.

    Examples:
        >>> data = ScanToInput()({"raw_scan": scan})
        >>> data["image"].shape[0], sorted(data["image"].pixdim.tolist())
        (64, [2.4, 2.4, 2.4])
        >>> 0 <= data["image"].min().item() < data["image"].max().item() <= 1
        True
    """

    def __init__(
        self,
        scheme: Scheme = None,
        voxel_size: float | Sequence[float] = 2.4,
        margin: int = 3,
        checksum: bool = False,
    ) -> None:
        super().__init__([*ScanToGrid(voxel_size, checksum).transforms, *GridToInput(scheme, margin).transforms])
