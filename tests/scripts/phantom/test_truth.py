"""Truth on another grid: each voxel has the value of the nearest place in the world."""

import nibabel as nib
import numpy as np

from scripts.phantom.truth import at_nearest_voxels


def test_each_voxel_has_the_nearest_place_and_nothing_is_made_up_outside(
    heads, orientations, affine_of, tmp_path, axes
):
    affine = affine_of(axes)
    world = heads.world_grid(affine, (14, 17, 11))
    nib.save(nib.Nifti1Image(world.astype(np.float32), affine), tmp_path / "places.nii.gz")
    centre = world.reshape(-1, 3).mean(axis=0)
    target = affine_of(orientations["oblique"], (2.4, 2.1, 2.7))
    shape = (12, 9, 15)
    target[:3, 3] = centre - target[:3, :3] @ ((np.array(shape) - 1) / 2)
    reference = nib.Nifti1Image(np.zeros(shape, dtype=np.uint8), target)
    found = at_nearest_voxels(tmp_path / "places.nii.gz", reference)
    wanted = heads.world_grid(target, shape)
    # distances along the image's own axes, in its voxels
    inside = (np.abs((wanted - centre) @ axes) < np.array([14, 17, 11]) * (2.0, 1.5, 3.0) / 2).all(axis=-1)
    assert 100 < inside.sum() < inside.size
    assert np.abs(((found - wanted) @ axes)[inside] / (2.0, 1.5, 3.0)).max() < 0.5 + 1e-4
    assert (found[~inside] == 0).all()
