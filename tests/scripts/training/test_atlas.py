"""Atlas: heads on other grids lie on each other, sides keep their side, and axes turn with the head."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from scripts.training.atlas import Atlas, HeadFrame
from scripts.training.metrics import angular_error
from transforms.errors import InputError
from transforms.targets import decode_direction, encode_direction

SEMI_AXES = np.array([52.0, 70.0, 48.0])
CENTRE = np.array([5.0, -12.0, 20.0])


def grid(orientation, voxel_size, shape):
    """Affine of a grid whose middle voxel is near the head's centre."""
    affine = np.eye(4)
    turn = {
        "RAS": np.eye(3),
        "LPS": np.diag([-1.0, -1.0, 1.0]),
        "PSL": np.array([[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]),
        "oblique": Rotation.from_euler("xyz", [14, -9, 21], degrees=True).as_matrix(),
    }[orientation]
    affine[:3, :3] = turn * voxel_size
    affine[:3, 3] = CENTRE + np.array([3, -2, 4]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


GRIDS = {
    "RAS": ((42, 52, 38), 3.2),
    "LPS": ((40, 47, 33), (3.5, 4.0, 3.9)),
    "PSL": ((54, 37, 41), 3.3),
    "oblique": ((47, 55, 45), 3.1),
}


def head(orientation, turn=None, size=1.0):
    """An ellipsoid with four parts, which differ between left and right, front and back, above and below.

    Returns:
        image ``(3, X, Y, Z)``, classes ``(1, X, Y, Z)`` and axes ``(3, X, Y, Z)`` in world RAS.
    """
    shape, voxel_size = GRIDS[orientation]
    affine = grid(orientation, np.array(voxel_size) * np.ones(3), shape)
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    turn = np.eye(3) if turn is None else turn
    place = (voxels @ affine[:3, :3].T + affine[:3, 3] - CENTRE) @ turn / (SEMI_AXES * size)
    x, y, z = np.moveaxis(place, -1, 0)
    inside = (place**2).sum(axis=-1) < 1
    classes = np.where(x > 0.25, 1, np.where(y > 0.1, 2, np.where(z > -0.1, 3, 1)))
    axes = np.stack([np.cos(2 * x), np.sin(2 * x), 0.8 + z - 0.5 * y]) / 2
    axes = np.einsum("ij,jxyz->ixyz", turn, axes / np.linalg.norm(axes, axis=0))
    image = np.where(inside, 0.3, 0.0)[None].repeat(3, axis=0)
    tensors = (image, np.where(inside, classes, 0)[None], np.where(inside, axes, np.nan))
    return [MetaTensor(torch.from_numpy(tensor).float(), affine=affine) for tensor in tensors]


def batch(image):
    return MetaTensor(image.as_tensor()[None], affine=image.affine)


def mean_dice(classes, label):
    return np.mean(
        [
            2 * float(((classes == c) & (label == c)).sum()) / float((classes == c).sum() + (label == c).sum())
            for c in (1, 2, 3)
        ]
    )


@pytest.mark.parametrize("orientation", ["LPS", "PSL", "oblique"])
def test_one_head_on_another_grid_gets_its_own_classes(orientation):
    image, label, _ = head("RAS")
    atlas = Atlas([{"image": image, "label": label}], 4)
    other, expected, _ = head(orientation, size=1.1)
    inside = expected[0] > 0
    answer = atlas(batch(other))[0]
    assert answer.shape == (4, *other.shape[1:])
    assert mean_dice(answer.argmax(dim=0)[inside], expected[0][inside]) > 0.95
    mirrored = torch.flip(expected, (1 + int(np.abs(other.affine.numpy()[0, :3]).argmax()),))
    assert mean_dice(answer.argmax(dim=0)[inside], mirrored[0][inside]) < 0.75


def test_probabilities_are_frequencies_over_the_scans_that_have_a_label():
    image, label, _ = head("RAS")
    one, two, without = (torch.full_like(label, value) for value in (1.0, 2.0, torch.nan))
    scans = [{"image": image, "label": MetaTensor(values, affine=image.affine)} for values in (one, two, one, without)]
    inside = label[0] > 0
    probabilities = torch.softmax(Atlas(scans, 3)(batch(image))[0], dim=0)[:, inside.as_tensor()]
    expected = torch.tensor([0.0, 2 / 3, 1 / 3])[:, None].expand_as(probabilities)
    torch.testing.assert_close(probabilities, expected, atol=1e-4, rtol=0)


def test_a_place_without_labels_gets_the_mean_of_the_head():
    image, label, _ = head("RAS")
    front = label.clone()
    front[:, :, :30] = torch.nan
    front[:, :, 30:] = 2.0
    answer = Atlas([{"image": image, "label": front}], 4)(batch(image))[0]
    assert set(answer.argmax(dim=0)[label[0] > 0].tolist()) == {2}


@pytest.mark.parametrize("encoding", ["dyad", "angles"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (18, 0, -12)])
def test_axes_are_those_of_the_world_and_turn_with_the_head(encoding, degrees):
    image, _, axes = head("RAS")
    channels = {"dyad": 6, "angles": 2}[encoding]
    code = MetaTensor(encode_direction(axes.as_tensor(), encoding), affine=image.affine)
    atlas = Atlas([{"image": image, "label": code}], channels, encoding)
    # a nod about the first axis, then a turn about the vertical one
    turn = Rotation.from_euler("XZ", [degrees[0], degrees[2]], degrees=True).as_matrix()
    other, _, expected = head("oblique", turn)
    inside = ~torch.isnan(expected.as_tensor()[0])
    found = decode_direction(atlas(batch(other))[0], encoding)
    errors = angular_error(found[:, inside], expected.as_tensor()[:, inside])
    assert errors.median() < (3 if not any(degrees) else 6)
    assert errors.quantile(0.9) < 12


def test_frame_of_a_head_does_not_depend_on_the_grid():
    frames = {name: HeadFrame.of((head(name)[0][0] != 0).numpy(), head(name)[0].affine.numpy()) for name in GRIDS}
    for name, frame in frames.items():
        to_head = frame.voxel_to_head @ np.linalg.inv(head(name)[0].affine.numpy())
        ends = to_head[:3, :3] @ np.diag(SEMI_AXES)
        # an ellipsoid ends at the square root of 5 standard deviations
        np.testing.assert_allclose(ends, np.sqrt(5) * np.eye(3), atol=0.12)
        np.testing.assert_allclose(to_head[:3] @ [*CENTRE, 1], 0, atol=0.03)
        assert np.linalg.det(frame.rotation) == pytest.approx(1)


def test_a_slab_whose_longest_axis_is_not_to_the_front_is_not_turned():
    mask = np.zeros((30, 12, 9), dtype=bool)
    mask[3:27, 4:9, 2:7] = True
    np.testing.assert_array_equal(HeadFrame.of(mask, np.eye(4)).rotation, np.eye(3))
    with pytest.raises(InputError, match="found a scan without a brain, expected voxels that are not 0"):
        HeadFrame.of(np.zeros((3, 4, 5), dtype=bool), np.eye(4))
