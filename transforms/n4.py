"""Bias field of an image of the head, corrected by N4 at a low resolution."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor

from transforms.errors import InputError
from transforms.resampling import ResampleToGrid, ResampleToSpacing

WORKING_MM = 4.0
"""Voxel size at which the field is estimated: it is smooth, and N4's time grows with the number of voxels."""

MAX_ITERATIONS = (50, 50, 30)
"""At each of three levels of detail of the field."""

MAX_LOG_FIELD = 2.0
"""Of the field's logarithm: outside the mask the spline is free to run away."""


def correct_bias(image: MetaTensor, mask: MetaTensor | None = None, working_mm: float = WORKING_MM) -> MetaTensor:
    """Divide an image by the bias field that N4 finds (Tustison et al., IEEE Trans Med Imaging 29:1310-1320, 2010).

    Args:
        image: shape ``(1, X, Y, Z)``, RAS, not negative.
        mask: where the field is estimated, on the same grid; by default what is brighter than air (Otsu's threshold).

    Returns:
        image of the same shape, of mean field 1 (logarithmic) in the mask.

    Raises:
        InputError: SimpleITK is not installed.
    """
    try:
        # not needed where brain masks are given, nor to train
        import SimpleITK as sitk  # noqa: N813, PLC0415
    except ModuleNotFoundError as error:
        raise InputError(
            "SimpleITK: found no such package, expected it for N4; a scan with a brain mask of its own does without."
        ) from error
    coarse = ResampleToSpacing([max(size, working_mm) for size in image.pixdim.tolist()])(image)
    voxels = np.maximum(np.nan_to_num(coarse[0].numpy()), 0)
    source = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    source.SetSpacing([float(size) for size in coarse.pixdim])
    if mask is None:
        inside = sitk.OtsuThreshold(source, 0, 1, 200)
    else:
        fine = ResampleToGrid()(mask, coarse)[0].numpy() > 0.5
        inside = sitk.GetImageFromArray(np.ascontiguousarray((fine & (voxels > 0)).astype(np.uint8).T))
        inside.CopyInformation(source)
    if not sitk.GetArrayViewFromImage(inside).any():
        return image
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    # more gain nothing on a grid as small as this, and the result would depend on their number
    n4.SetNumberOfThreads(1)
    n4.SetMaximumNumberOfIterations(list(MAX_ITERATIONS))
    n4.Execute(source, inside)
    # the field is a B-spline over the field of view, and is evaluated at every voxel of the given image
    full = sitk.GetImageFromArray(np.ascontiguousarray(image[0].numpy().T))
    spacing = [float(size) for size in image.pixdim]
    full.SetSpacing(spacing)
    # both grids have one centre
    full.SetOrigin(
        [
            (n - 1) / 2 * big - (m - 1) / 2 * small
            for n, big, m, small in zip(coarse.shape[1:], coarse.pixdim.tolist(), image.shape[1:], spacing, strict=True)
        ]
    )
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full)).T
    log_field = np.clip(np.nan_to_num(log_field), -MAX_LOG_FIELD, MAX_LOG_FIELD)
    return MetaTensor(image.as_tensor() / np.exp(log_field)[None].astype(np.float32), meta=image.meta)
