"""NIfTI images hold what was written, whole or volume by volume, and a volume may have a fourth axis of length 1."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest

from scripts.io.nifti import open_nifti, read_voxels, write_nifti, write_unit_range, write_volumes
from scripts.io.volume import read_volume
from transforms.errors import InputError

AFFINE = np.array([[-2.4, 0.1, 0, 7], [0.1, 2.4, 0, -3], [0, 0, 2.5, 1], [0, 0, 0, 1]])


def test_stored_steps_times_the_slope_are_the_values(tmp_path):
    values = np.random.default_rng(0).random((4, 5, 6, 3))
    steps = np.round(values * 65535).astype(np.uint16)
    affine = np.array([[-2.4, 0.1, 0, 7], [0.1, 2.4, 0, -3], [0, 0, 2.5, 1], [0, 0, 0, 1]])
    write_unit_range(tmp_path / "a.nii.gz", values, affine)
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()), steps)
    np.testing.assert_allclose(image.get_fdata(), values, atol=0.5 / 65535 + 1e-7)
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_without_a_slope_values_and_type_are_kept(tmp_path, dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_nifti(tmp_path / "a.nii.gz", values, np.diag([2, 3, 4, 1]))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)


@pytest.mark.parametrize(("dtype", "unit"), [(np.int16, 0.5), (np.float32, 1.0)])
def test_volumes_written_one_by_one_are_those_of_one_image(tmp_path, dtype, unit):
    volumes = np.random.default_rng(0).integers(0, 900, (3, 4, 5, 6)) * 0.5
    for name in ("a", "b"):
        write_volumes(tmp_path / f"{name}.nii.gz", iter(volumes), AFFINE, dtype, count=3, seconds=7.0, unit=unit)
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), np.moveaxis(volumes, 0, -1))
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    np.testing.assert_allclose(image.header.get_zooms(), [*np.linalg.norm(AFFINE[:3, :3], axis=0), 7.0], rtol=1e-6)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_volume_may_have_a_fourth_axis_of_length_one(tmp_path):
    voxels = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    write_nifti(tmp_path / "three.nii.gz", voxels, AFFINE)
    write_nifti(tmp_path / "four.nii.gz", voxels[..., None], AFFINE)
    np.testing.assert_array_equal(*(read_voxels(tmp_path / f"{name}.nii.gz")[0] for name in ("three", "four")))
    write_nifti(tmp_path / "two.nii.gz", np.stack([voxels, voxels], axis=-1), AFFINE)
    with pytest.raises(InputError, match="found an image of shape 4x5x6x2, expected 3 dimensions"):
        open_nifti(tmp_path / "two.nii.gz", ndim=3)


def test_a_volume_is_read_without_what_is_not_finite(tmp_path):
    voxels = np.full((2, 3, 4), 7.0, dtype=np.float32)
    voxels[0, 1, 2], voxels[1, 2, 3], voxels[1, 0, 0] = np.nan, np.inf, -np.inf
    write_nifti(tmp_path / "a.nii.gz", voxels, AFFINE)
    found = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found[0].numpy(), np.where(np.isfinite(voxels), voxels, 0))
    np.testing.assert_allclose(found.affine.numpy(), AFFINE, atol=1e-6)


# headers that are broken


def with_header(path, **fields):
    """Write an image whose header holds what it should not; nibabel itself would not write it."""
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 900, (4, 5, 6, 7)).astype(np.int16), AFFINE)
    image.to_filename(path)
    content = bytearray(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    header = np.frombuffer(content, dtype=nib.nifti1.header_dtype, count=1)[0]
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


BROKEN = [
    ({"datatype": 12345}, "no readable image"),
    ({"datatype": 0}, "no readable image"),
    ({"datatype": 32, "bitpix": 64}, "voxels of type complex64, expected real numbers"),
    ({"datatype": 128, "bitpix": 24}, "expected real numbers"),
    ({"dim": [4, 4, -5, 6, 7, 1, 1, 1]}, "expected"),
    ({"dim": [4, 4, 0, 6, 7, 1, 1, 1]}, "image of shape 4x0x6x7, expected sides of at least one voxel"),
    ({"dim": [4, 30000, 30000, 30000, 7, 1, 1, 1]}, "whose header claims"),
    ({"dim": [9, 4, 5, 6, 7, 1, 1, 1]}, "expected"),
    ({"dim": [-1, 4, 5, 6, 7, 1, 1, 1]}, "expected"),
    ({"magic": b"abc"}, "expected"),
    ({"vox_offset": 1e30}, "expected"),
    ({"vox_offset": np.nan}, "expected"),
    ({"vox_offset": 0}, "voxels that begin at byte 0, expected byte 352 or a later one"),
    ({"srow_x": [0, 0, 0, 1]}, "found the affine .* that can be inverted"),
    ({"srow_y": [0, np.nan, 0, 1]}, "found the affine .* that can be inverted"),
]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("fields", "found"), BROKEN)
def test_a_broken_header_is_refused_in_one_sentence(tmp_path, suffix, fields, found):
    path = with_header(tmp_path / f"a{suffix}", **fields)
    with pytest.raises(InputError, match=found) as error:
        read_voxels(path, ndim=4)
    message = str(error.value)
    assert message.startswith(f"{path}: found ")
    assert "\n" not in message
    assert message.endswith(".")


def test_a_whole_header_is_read(tmp_path):
    for suffix in (".nii", ".nii.gz"):
        voxels, affine = read_voxels(with_header(tmp_path / f"a{suffix}"), ndim=4)
        np.testing.assert_array_equal(voxels, np.random.default_rng(0).integers(0, 900, (4, 5, 6, 7)))
        np.testing.assert_allclose(affine, AFFINE, atol=1e-6)


def test_an_image_that_compresses_well_is_read(tmp_path):
    """Zeros take a thousandth of their size, and are no header without voxels."""
    write_nifti(tmp_path / "a.nii.gz", np.zeros((150, 160, 170), dtype=np.int16), AFFINE)
    content = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content, compresslevel=9))
    assert (tmp_path / "a.nii.gz").stat().st_size < len(content) / 900
    assert read_voxels(tmp_path / "a.nii.gz")[0].shape == (150, 160, 170)


def test_a_pipe_in_the_place_of_an_image_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"a\.nii\.gz: no such file"):
        open_nifti(tmp_path / "a.nii.gz", ndim=3)
