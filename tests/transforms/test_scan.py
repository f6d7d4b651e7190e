"""A raw scan on disk to the network's input: the same world content however it is stored, or one clear sentence."""

import gzip
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from scipy import ndimage

from transforms.errors import InputError
from transforms.gradients import angles_between_axes
from transforms.scan import LoadScand, Scan, ScanToInput, open_nifti, strip_nifti
from transforms.scheme import default_scheme

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
        results[name] = ScanToInput(voxel_size=SIZE)({"dwi": str(dwi)})
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
        # 28 directions hold SH order 6; smoothing takes 0.006 * 36 * 4 pi / 28 = 9 % of degree 2, up to 0.03
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
    data = ScanToInput(voxel_size=SIZE)({"dwi": str(dwi)})
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
    data = ScanToInput(voxel_size=3.1)({"dwi": str(dwi), "brain_mask": str(tmp_path / "mask.nii.gz")})
    mask = data["mask"][0].numpy()
    assert mask.sum() * 3.1**3 == pytest.approx(inside.sum() * SIZE**3, rel=0.02)
    world = np.argwhere(mask > 0) @ data["mask"].affine.numpy()[:3, :3].T + data["mask"].affine.numpy()[:3, 3]
    # the border may be off by half of the diagonal of a voxel at most, the centre by far less
    assert np.linalg.norm((world - CENTRE) / SEMI_AXES, axis=1).max() < 1 + 0.5 * np.sqrt(3) * 3.1 / SEMI_AXES.min()
    np.testing.assert_allclose(world.mean(axis=0), CENTRE, atol=0.3)


@pytest.fixture
def small(tmp_path, orientations, affine_of, write_scan, table):
    """A scan of noise without a head, LAS, 12 x 14 x 10 voxels of 2.4 mm; its path, voxels and affine."""
    affine = affine_of(orientations["LAS"], (SIZE,) * 3)
    generator = np.random.default_rng(1)
    signal = generator.uniform(100, 900, (12, 14, 10, 30)).astype(np.float32)
    signal[..., 1:-1] *= generator.integers(0, 2, (12, 14, 10, 28))
    return write_scan(tmp_path, signal, affine, *table), signal, affine


def test_a_given_mask_is_taken_as_it_is(small, tmp_path):
    dwi, signal, affine = small
    mask = np.zeros((12, 14, 10), dtype=np.uint8)
    mask[2:7, 3:12, 1:6] = 1
    mask[4, 5, 3] = 0  # a hole
    mask[10, 12, 8] = 1  # an island
    nib.Nifti1Image(mask, affine).to_filename(tmp_path / "mask.nii.gz")
    data = ScanToInput(voxel_size=SIZE, margin=1)({"dwi": str(dwi), "brain_mask": str(tmp_path / "mask.nii.gz")})
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


# reading


def test_b0_is_the_mean_and_the_shell_its_volumes_as_stored(small):
    dwi, signal, affine = small
    data = LoadScand()({"dwi": str(dwi), "session": 2})
    np.testing.assert_allclose(data["b0"][0].numpy(), signal[..., [0, -1]].mean(axis=-1), rtol=1e-6)
    np.testing.assert_array_equal(data["image"].numpy(), np.moveaxis(signal[..., 1:-1], -1, 0))
    for key in ("b0", "image"):
        np.testing.assert_allclose(data[key].affine, affine, atol=1e-5)
    assert data["gradients"].shape == (28, 4)
    assert data["session"] == 2
    assert "mask" not in data


def test_one_shell_of_several_is_read(tmp_path, affine, write_scan, axes_on_sphere):
    directions = np.vstack([np.zeros(3), np.repeat(axes_on_sphere(8), 2, axis=0), np.zeros(3)])
    bvals = np.array([0.001] + [995.0, 2005.0] * 8 + [1000.0])  # the last one a trace image
    signal = np.arange(18.0) + 100 * np.arange(2 * 3 * 4).reshape(2, 3, 4, 1)
    dwi = write_scan(tmp_path, signal.astype(np.float32), affine, directions, bvals)
    for bvalue, indices in ((1000, np.arange(1, 17, 2)), (2000, np.arange(2, 17, 2))):
        data = LoadScand(bvalue)({"dwi": dwi})
        assert data["image"][:, 1, 2, 3].tolist() == [2300 + i for i in indices]
        np.testing.assert_allclose(data["gradients"][:, :3], axes_on_sphere(8), atol=1e-6)
        assert data["b0"][0, 1, 2, 3] == 2300


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_integers_are_read_in_their_unit(small, tmp_path, suffix, affine):
    dwi, *_ = small
    stored = np.random.default_rng(4).integers(-500, 3000, (3, 4, 5, 30)).astype(np.int16)
    image = nib.Nifti1Image(stored, affine)
    image.header.set_slope_inter(0.25, 130.0)
    path = tmp_path / f"scaled{suffix}"
    image.to_filename(path)
    header = path.read_bytes() if suffix == ".nii" else gzip.decompress(path.read_bytes())
    assert np.frombuffer(header[112:120], dtype=np.float32).tolist() == [0.25, 130.0], "scl_slope and scl_inter"
    files = {"bval": strip_nifti(dwi) + ".bval", "bvec": strip_nifti(dwi) + ".bvec"}
    data = LoadScand()({"dwi": path, **files})
    np.testing.assert_allclose(data["image"].numpy(), np.moveaxis(stored[..., 1:-1], -1, 0) * 0.25 + 130, atol=1e-3)
    assert strip_nifti(path) == str(tmp_path / "scaled")


def test_a_mask_is_what_is_above_zero(small, tmp_path):
    dwi, _, affine = small
    values = np.random.default_rng(2).integers(0, 3, (12, 14, 10)).astype(np.uint8)
    shifted = affine.copy()
    shifted[0, 3] += 5e-3  # as headers round
    nib.Nifti1Image(values, shifted).to_filename(tmp_path / "mask.nii.gz")
    data = LoadScand()({"dwi": dwi, "brain_mask": tmp_path / "mask.nii.gz"})
    np.testing.assert_array_equal(data["mask"][0].numpy(), values > 0)
    assert "mask" not in LoadScand()({"dwi": dwi, "brain_mask": None})


# mistakes


def refuse(path, *words, **arguments):
    """A scan is refused in one sentence that starts with ``path`` and has all ``words``."""
    read = arguments.pop("read", None) or (lambda: Scan(**arguments))
    with pytest.raises(InputError) as error:
        read()
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "expected" in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_file_is_named(small, tmp_path):
    dwi, *_ = small
    refuse(tmp_path / "absent.nii.gz", "no such file", dwi=tmp_path / "absent.nii.gz")
    for suffix in (".bvec", ".bval"):
        missing = tmp_path / f"sub-01_dwi{suffix}"
        missing.unlink()
        refuse(missing, "no such file", dwi=dwi)


def test_a_3d_image_is_no_scan(small, tmp_path):
    _, signal, affine = small
    nib.Nifti1Image(signal[..., 0], affine).to_filename(tmp_path / "b0.nii.gz")
    refuse(tmp_path / "b0.nii.gz", "12x14x10", "4 dimensions", dwi=tmp_path / "b0.nii.gz")
    refuse(tmp_path / "sub-01_dwi.nii.gz", "12x14x10x30", "3 dimensions", read=lambda: open_nifti(small[0], ndim=3))


@pytest.mark.parametrize(
    "content", [b"", b"no image at all\n" * 60, gzip.compress(b"no image at all\n" * 60, mtime=0), b"\0" * 999]
)
@pytest.mark.parametrize("name", ["text.nii", "text.nii.gz"])
def test_what_is_no_nifti_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refuse(tmp_path / name, "no readable image", "NIfTI", dwi=tmp_path / name)


def test_another_image_format_is_refused(small, tmp_path):
    nib.MGHImage(small[1], small[2]).to_filename(tmp_path / "scan.mgz")
    refuse(tmp_path / "scan.mgz", "MGHImage", "NIfTI", dwi=tmp_path / "scan.mgz")


@pytest.mark.parametrize("part", [0.95, 0.5, 0.1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_that_ends_early_is_refused(small, suffix, part):
    dwi, signal, affine = small
    path = dwi.with_name(f"sub-01_dwi{suffix}")
    nib.Nifti1Image(signal, affine).to_filename(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    refuse(path, "damaged", "whole", read=lambda: LoadScand()({"dwi": path}))


def damage(path):
    """Spoil the codes at the start of the compressed data."""
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(bytes(content))


def test_a_spoilt_compressed_file_is_refused(small):
    """Not the length but the content of the file is wrong: zlib says so by an error of its own."""
    damage(small[0])
    refuse(small[0], "NIfTI", read=lambda: LoadScand()({"dwi": small[0]}))


def test_a_mask_that_ends_early_is_refused(small, tmp_path):
    path = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.random.default_rng(2).random((12, 14, 10)), small[2]).to_filename(path)
    path.write_bytes(path.read_bytes()[:4000])
    refuse(path, "damaged", read=lambda: LoadScand()({"dwi": small[0], "brain_mask": path}))


def test_counts_that_differ_are_named(small, tmp_path):
    dwi, *_ = small
    bval = tmp_path / "sub-01_dwi.bval"
    bvals = bval.read_text().split()
    bval.write_text(" ".join(bvals[:-1]))
    refuse(tmp_path / "sub-01_dwi.bvec", "30 b-vectors", "29", dwi=dwi)
    bvecs = np.loadtxt(tmp_path / "sub-01_dwi.bvec")
    np.savetxt(tmp_path / "sub-01_dwi.bvec", bvecs[:, :-1])
    refuse(bval, "29 b-values", "expected 30", dwi=dwi)


def test_a_scan_without_b0_is_refused(small, tmp_path):
    (tmp_path / "sub-01_dwi.bval").write_text(" ".join(["1000"] * 20 + ["2000"] * 10))
    refuse(small[0], "b = 1000 (20 volumes), 2000 (10 volumes)", "b <= 50", dwi=small[0])


def test_a_missing_shell_is_answered_with_those_found(small):
    refuse(small[0], "b = 0 (2 volumes), 1000 (28 volumes)", "b = 3000 +- 100 s/mm2", dwi=small[0], bvalue=3000)
    refuse(small[0], "b = 1012 +- 10 s/mm2", dwi=small[0], bvalue=1012, tolerance=10)


def test_antipodes_are_not_counted_as_axes(small, tmp_path, axes_on_sphere):
    five = axes_on_sphere(5)
    vectors = np.vstack([np.zeros(3), five, -five, five, -five, five, five[:3], np.zeros(3)])
    np.savetxt(tmp_path / "sub-01_dwi.bvec", vectors[:30].T)
    refuse(small[0], "5 distinct axes at b = 1000", "at least 6", dwi=small[0])


def test_a_mask_on_another_grid_is_refused(small, tmp_path):
    dwi, _, affine = small
    path = tmp_path / "mask.nii.gz"
    moved, mirrored = affine.copy(), affine @ np.diag([-1.0, 1, 1, 1])
    moved[1, 3] += 1.2
    for shape, frame in (((14, 12, 10), affine), ((12, 14, 10), moved), ((12, 14, 10), mirrored)):
        nib.Nifti1Image(np.ones(shape, dtype=np.uint8), frame).to_filename(path)
        refuse(
            path,
            "x".join(map(str, shape)),
            f"expected that of {dwi.name} (12x14x10)",
            read=lambda: LoadScand()({"dwi": dwi, "brain_mask": path}),
        )


@pytest.mark.parametrize("filling", [0.0, np.nan])
def test_an_empty_scan_has_no_brain(small, filling):
    """MONAI's ``Compose`` puts its own error before the reason; the reason is there."""
    dwi, signal, affine = small
    nib.Nifti1Image(np.full_like(signal, filling), affine).to_filename(dwi)
    with pytest.raises((InputError, RuntimeError)) as error:
        ScanToInput()({"dwi": str(dwi)})
    reason = error.value if isinstance(error.value, InputError) else error.value.__cause__
    assert isinstance(reason, InputError)
    assert re.search(r"found 0\.00 ml of brain, expected a head", str(reason))
    assert str(reason).startswith(str(dwi))


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
        results.append(ScanToInput(voxel_size=3.1)({"dwi": str(dwi), "brain_mask": str(tmp_path / "mask.nii.gz")}))
    assert (results[0]["b0"] - results[1]["b0"]).abs().max() > 50
    np.testing.assert_allclose(results[1]["image"].numpy(), results[0]["image"].numpy(), atol=2e-3)
    assert results[1].keys() == results[0].keys()
    assert "finite" not in results[1]
