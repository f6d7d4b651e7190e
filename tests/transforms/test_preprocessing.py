"""A raw scan to the network's input: the same world content however the scan is stored."""

import re

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from scripts.io.raw_scan import open_scan
from transforms.diffusion.gradients import angles_between_axes
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError
from transforms.preprocessing import ScanToInput

SEMI_AXES = np.array([34.0, 43.0, 29.0])
"""Of the ellipsoid that stands for the head, in mm."""

CENTRE = np.array([3.0, -7.0, 5.0])
FIBRES = {"right": np.array([0.36, 0.48, 0.80]), "left": np.array([-0.60, 0.64, -0.48])}
SIZE = 2.4
NOISE = 8.0
"""Standard deviation of a head of 800 to 1200, so that SNR is about 100."""


def head(world, directions, bvals, noise):
    """Signal ``(..., N)`` at world points: two fibres side by side in an ellipsoid of uneven proton density."""
    x, y, z = np.moveaxis(world - CENTRE, -1, 0)
    inside = ((world - CENTRE) ** 2 / SEMI_AXES**2).sum(axis=-1) <= 1
    density = 1000 + 2.0 * x - 3.0 * y + 1.0 * z
    signals = [
        np.exp(-bvals * (0.3e-3 + 1.2e-3 * (directions @ FIBRES[side]) ** 2 * (bvals > 0)))
        for side in ("right", "left")
    ]
    signal = np.where((x > 0)[..., None], *signals) * (inside * density)[..., None]
    real, imaginary = noise * np.random.default_rng(5).standard_normal((2, *signal.shape))
    return np.hypot(signal + real, imaginary), inside


def grid_around_head(axes, affine_of, shape, size=SIZE):
    """Affine of a grid of ``shape`` whose centre is 2 mm off that of the head, and the world points of its voxels."""
    affine = affine_of(axes, (size,) * 3, (0, 0, 0))
    affine[:3, 3] = CENTRE + np.array([2.0, -1.0, 1.5]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return affine, voxels @ affine[:3, :3].T + affine[:3, 3]


SHAPE = (38, 45, 34)


@pytest.fixture(scope="module")
def table(axes_on_sphere):
    """Two b0s and 28 directions, world RAS."""
    directions = np.vstack([np.zeros((1, 3)), axes_on_sphere(28), np.zeros((1, 3))])
    return directions, np.array([0.0] + [1000.0] * 28 + [5.0])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, orientations, affine_of, write_scan, table):
    """The head as the network gets it, by the orientation in which it was stored.

    All but ``oblique`` are the same voxels, stored in another order; ``oblique`` is another acquisition.
    """
    ras, world = grid_around_head(orientations["RAS"], affine_of, SHAPE)
    signal, inside = head(world, *table, NOISE)
    stored = {}
    for name in ("RAS", "LAS", "LPS", "PIR"):
        change = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(name))
        )
        stored[name] = nib.Nifti1Image(signal.astype(np.float32), ras).as_reoriented(change)
    axes = orientations["oblique LAS"]
    oblique, world = grid_around_head(axes, affine_of, (46, 48, 42))
    stored["oblique"] = nib.Nifti1Image(head(world, *table, NOISE)[0].astype(np.float32), oblique)
    results = {}
    for name, image in stored.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        dwi = write_scan(folder, np.asarray(image.dataobj), image.affine, *table)
        results[name] = ScanToInput(voxel_size=SIZE)({"raw_scan": open_scan(dwi)})
    return results, float(inside.sum()) * SIZE**3


def world_points(n=200):
    """Points in the inner head, away from the plane where the fibres meet."""
    points = np.random.default_rng(8).uniform(-0.55, 0.55, (n, 3)) * SEMI_AXES
    points[:, 0] = np.sign(points[:, 0]) * np.maximum(np.abs(points[:, 0]), 6.0)
    return points + CENTRE


def sample(image, points):
    """Values ``(C, n)`` at world points, trilinear."""
    inverse = np.linalg.inv(image.affine.numpy())
    places = (points @ inverse[:3, :3].T + inverse[:3, 3]).T
    return np.stack([ndimage.map_coordinates(channel, places, order=1) for channel in image.numpy()])


# input of the network


@pytest.mark.parametrize("name", ["LAS", "LPS", "PIR"])
def test_the_order_of_storage_does_not_matter(prepared, name):
    expected, found = prepared[0]["RAS"], prepared[0][name]
    for key in ("image", "b0", "mask"):
        np.testing.assert_allclose(found[key].affine, expected[key].affine, atol=1e-5)
        torch.testing.assert_close(found[key].as_tensor(), expected[key].as_tensor(), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(found["gradients"], expected["gradients"])


@pytest.mark.parametrize("name", ["RAS", "LAS", "LPS", "PIR", "oblique"])
def test_the_input_is_ras_attenuation_in_the_brain(prepared, name):
    data, volume = prepared[0][name], prepared[1]
    assert nib.aff2axcodes(data["image"].affine.numpy()) == ("R", "A", "S")
    np.testing.assert_allclose(data["image"].pixdim, SIZE, rtol=1e-5)
    image, mask = data["image"].as_tensor(), data["mask"].as_tensor()[0] > 0
    assert image.shape[0] == 64
    assert image.shape[1:] == mask.shape == data["b0"].shape[1:]
    assert torch.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert not image[:, ~mask].any()
    assert set(data["mask"].unique().tolist()) == {0.0, 1.0}
    assert float(mask.sum()) * SIZE**3 == pytest.approx(volume, rel=0.1)
    np.testing.assert_allclose(data["gradients"], np.column_stack([default_scheme(), np.full(64, 1000.0)]))
    faces = [mask.amax(dim=tuple({0, 1, 2} - {axis})).nonzero().flatten() for axis in range(3)]
    margins = [(int(f[0]), mask.shape[axis] - 1 - int(f[-1])) for axis, f in enumerate(faces)]
    assert max(max(pair) for pair in margins) <= 3, "cropped to the brain and three voxels around it"
    assert min(max(pair) for pair in margins) >= 2


@pytest.mark.parametrize("name", ["RAS", "oblique"])
def test_fibres_and_attenuations_stand_where_they_are_in_the_world(prepared, name):
    data, _ = prepared
    points = world_points()
    values = sample(data[name]["image"], points)
    right = points[:, 0] > CENTRE[0]
    scheme = default_scheme()
    for side, chosen in (("right", right), ("left", ~right)):
        truth = np.exp(-1000 * (0.3e-3 + 1.2e-3 * (scheme @ FIBRES[side]) ** 2))
        assert chosen.sum() > 50
        # 28 directions hold SH order 6; smoothing takes 0.002 * 36 * 4 pi / 28 = 3 % of degree 2, up to 0.01
        assert np.abs(values[:, chosen].mean(axis=1) - truth).max() < 0.04
        gradients = gradient_table(np.r_[0, np.full(64, 1000.0)], bvecs=np.vstack([np.zeros(3), scheme]))
        signal = np.column_stack([np.ones(chosen.sum()), values[:, chosen].T])
        found = TensorModel(gradients).fit(signal).evecs[..., 0]
        assert angles_between_axes(found, FIBRES[side][None]).max() < 3


def test_an_oblique_scan_has_the_same_content(prepared):
    points = world_points()
    for key, tolerance in (("image", 0.03), ("b0", 30.0)):
        expected, found = (sample(prepared[0][name][key], points) for name in ("RAS", "oblique"))
        # the noise of two acquisitions: 0.01 to 0.02 of attenuation, 8 / sqrt(2) of b0, three to four times that
        assert np.sqrt(np.mean((found - expected) ** 2)) < tolerance / 3
        assert np.quantile(np.abs(found - expected), 0.99) < tolerance
    x, y, z = (points - CENTRE).T
    b0 = sample(prepared[0]["oblique"]["b0"], points)[0]
    np.testing.assert_allclose(b0, 1000 + 2 * x - 3 * y + z, atol=30)


def test_resampling_changes_the_grid_but_not_the_content(
    prepared, tmp_path, orientations, affine_of, write_scan, table
):
    """Voxels of 1.8 mm to 2.4 mm: the fibre and the place of everything are those of the head in 2.4 mm."""
    affine, world = grid_around_head(orientations["LPS"], affine_of, (50, 60, 44), size=1.8)
    dwi = write_scan(tmp_path, head(world, *table, NOISE)[0].astype(np.float32), affine, *table)
    data = ScanToInput(voxel_size=SIZE)({"raw_scan": open_scan(dwi)})
    np.testing.assert_allclose(data["image"].pixdim, SIZE, rtol=1e-5)
    points = world_points()
    expected, found = (sample(result["image"], points) for result in (prepared[0]["RAS"], data))
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.01
    assert float(data["mask"].sum()) * SIZE**3 == pytest.approx(prepared[1], rel=0.1)


def test_a_given_mask_goes_to_the_new_voxels_with_the_image(tmp_path, orientations, affine_of, write_scan, table):
    affine, world = grid_around_head(orientations["PIL"], affine_of, (44, 33, 37))
    signal, inside = head(world, *table, NOISE)
    dwi = write_scan(tmp_path, signal.astype(np.float32), affine, *table)
    nib.Nifti1Image(inside.astype(np.uint8), affine).to_filename(tmp_path / "mask.nii.gz")
    data = ScanToInput(voxel_size=3.1)({"raw_scan": open_scan(dwi, brain_mask=tmp_path / "mask.nii.gz")})
    mask = data["mask"][0].numpy()
    assert mask.sum() * 3.1**3 == pytest.approx(inside.sum() * SIZE**3, rel=0.02)
    world = np.argwhere(mask > 0) @ data["mask"].affine.numpy()[:3, :3].T + data["mask"].affine.numpy()[:3, 3]
    # the border may be off by half of the diagonal of a voxel at most, the centre by far less
    assert np.linalg.norm((world - CENTRE) / SEMI_AXES, axis=1).max() < 1 + 0.5 * np.sqrt(3) * 3.1 / SEMI_AXES.min()
    np.testing.assert_allclose(world.mean(axis=0), CENTRE, atol=0.3)


@pytest.fixture
def small(tmp_path, orientations, affine_of, write_scan, table):
    """A scan of noise with a dark rim for air, LAS, 12 x 14 x 10 voxels of 2.4 mm; its path, voxels and affine."""
    affine = affine_of(orientations["LAS"], (SIZE,) * 3)
    generator = np.random.default_rng(1)
    signal = generator.uniform(100, 900, (12, 14, 10, 30)).astype(np.float32)
    signal[..., 1:-1] *= generator.integers(0, 2, (12, 14, 10, 28))
    signal[np.pad(np.zeros((10, 12, 8), dtype=bool), 1, constant_values=True)] *= 0.01
    return write_scan(tmp_path, signal, affine, *table), signal, affine


def test_a_given_mask_is_taken_as_it_is(small, tmp_path):
    dwi, signal, affine = small
    mask = np.zeros((12, 14, 10), dtype=np.uint8)
    mask[2:7, 3:12, 1:6] = 1
    mask[4, 5, 3] = 0  # a hole
    mask[10, 12, 8] = 1  # an island
    nib.Nifti1Image(mask, affine).to_filename(tmp_path / "mask.nii.gz")
    data = ScanToInput(voxel_size=SIZE, margin=1)({"raw_scan": open_scan(dwi, brain_mask=tmp_path / "mask.nii.gz")})
    # LAS to RAS mirrors the first axis; the box of the mask and one voxel around it, as far as there is image
    expected = mask[::-1][0:11, 2:14, 0:10]
    np.testing.assert_array_equal(data["mask"][0].numpy(), expected)
    b0 = signal[..., [0, -1]].mean(axis=-1)[::-1][0:11, 2:14, 0:10]
    np.testing.assert_allclose(data["b0"][0].numpy(), b0, rtol=1e-5)
    assert not data["image"][:, expected == 0].any()
    # nothing but noise: the attenuations reach both limits, and harmonics through them overshoot
    assert (data["image"].min(), data["image"][:, expected > 0].min(), data["image"].max()) == (0, 0, 1)
    last_before_mirroring = affine @ [11, 2, 0, 1]
    np.testing.assert_allclose(data["image"].affine.numpy()[:3, 3], last_before_mirroring[:3], atol=1e-4)


def refuse(path, sentence, **arguments):
    """MONAI's ``Compose`` puts its own error before the reason; the reason is there."""
    with pytest.raises((InputError, RuntimeError)) as error:
        ScanToInput()({"raw_scan": open_scan(path, **arguments)})
    reason = error.value if isinstance(error.value, InputError) else error.value.__cause__
    assert isinstance(reason, InputError)
    assert re.search(sentence, str(reason))
    assert str(reason).startswith(f"{path}: ")


@pytest.mark.parametrize("filling", [0.0, np.nan])
def test_an_empty_scan_has_no_signal(small, filling):
    dwi, signal, affine = small
    nib.Nifti1Image(np.full_like(signal, filling), affine).to_filename(dwi)
    refuse(dwi, r"found no signal in volumes 0 to 29, expected a b0 with one\.$")


def test_an_empty_mask_holds_no_brain(small, tmp_path):
    dwi, _, affine = small
    nib.Nifti1Image(np.zeros((12, 14, 10), dtype=np.uint8), affine).to_filename(tmp_path / "mask.nii.gz")
    refuse(dwi, r"found 0\.00 ml of brain, expected a head\.$", brain_mask=tmp_path / "mask.nii.gz")


def test_what_is_left_out_and_what_is_unusual_stands_in_the_notes(prepared, small, tmp_path):
    assert prepared[0]["LAS"]["notes"] == ""
    dwi, signal, affine = small
    signal[..., 25:28] = 0
    nib.Nifti1Image(signal, affine).to_filename(dwi)
    mask = np.zeros((12, 14, 10), dtype=np.uint8)
    mask[1:11, 1:13, 1:9] = 1
    mask[3:9, 4:10, 3:6] = 0
    nib.Nifti1Image(mask, affine).to_filename(tmp_path / "mask.nii.gz")
    data = ScanToInput(voxel_size=SIZE)({"raw_scan": open_scan(dwi, brain_mask=tmp_path / "mask.nii.gz")})
    first, second = data["notes"].split("; ")
    assert first == "volumes 25 to 27 left out: no signal"
    # 108 of 852 voxels
    assert second == "the brain mask has holes of 12.7% of its volume, usual are less than 1%"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_voxel_that_is_not_finite_leaves_its_neighbours_as_they_are(
    tmp_path, orientations, affine_of, write_scan, table, value
):
    """Where the attenuation is the same all over, it stays the same around such a voxel, on a coarser grid."""
    affine, world = grid_around_head(orientations["RAS"], affine_of, SHAPE)
    inside = ((world - CENTRE) ** 2 / SEMI_AXES**2).sum(axis=-1) <= 1
    density = np.where(inside, 1000 + 4.0 * (world[..., 0] - CENTRE[0]), 0.0)
    whole = density[..., None] * np.exp(-0.7e-3 * table[1])
    broken = whole.copy()
    broken[(*(n // 2 for n in SHAPE), 3)] = value
    nib.Nifti1Image(inside.astype(np.uint8), affine).to_filename(tmp_path / "mask.nii.gz")
    results = []
    for name, signal in (("whole", whole), ("broken", broken)):
        (tmp_path / name).mkdir()
        dwi = write_scan(tmp_path / name, signal, affine, *table)
        results.append(ScanToInput(voxel_size=3.1)({"raw_scan": open_scan(dwi, brain_mask=tmp_path / "mask.nii.gz")}))
    assert (results[0]["b0"] - results[1]["b0"]).abs().max() > 50
    np.testing.assert_allclose(results[1]["image"].numpy(), results[0]["image"].numpy(), atol=2e-3)
    assert results[1].keys() == results[0].keys()
    assert "finite" not in results[1]
