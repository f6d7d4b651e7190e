"""A raw scan on disk, opened and read: its voxels as they stand in the file, or one clear sentence."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from scripts.io.nifti import open_nifti, strip_nifti
from scripts.io.raw_scan import open_scan
from transforms.errors import InputError
from transforms.preprocessing import ReadShelld

SIZE = 2.4


def read(dwi, **arguments):
    """Open a scan and read its shell."""
    return ReadShelld()({"raw_scan": open_scan(dwi, **arguments)})


@pytest.fixture
def small(tmp_path, orientations, affine_of, write_scan, axes_on_sphere):
    """A scan of noise without a head, LAS, 12 x 14 x 10 voxels of 2.4 mm; its path, voxels and affine.

    The shell is darker than the b0, and brighter in one half of the image than in the other, as it has to be.
    """
    affine = affine_of(orientations["LAS"], (SIZE,) * 3)
    directions = np.vstack([np.zeros((1, 3)), axes_on_sphere(28), np.zeros((1, 3))])
    bvals = np.array([0.0] + [1000.0] * 28 + [5.0])
    generator = np.random.default_rng(1)
    signal = generator.uniform(100, 900, (12, 14, 10, 30)).astype(np.float32)
    signal[:6] *= 3
    signal[..., 1:-1] *= generator.integers(0, 2, (12, 14, 10, 28))
    return write_scan(tmp_path, signal, affine, directions, bvals), signal, affine


# reading


def test_b0_is_the_mean_and_the_shell_its_volumes_as_stored(small):
    dwi, signal, affine = small
    data = ReadShelld()({"raw_scan": open_scan(dwi), "session": 2})
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
    signal[..., 0] *= 2
    dwi = write_scan(tmp_path, signal.astype(np.float32), affine, directions, bvals)
    for bvalue, indices in ((1000, np.arange(1, 17, 2)), (2000, np.arange(2, 17, 2))):
        data = read(dwi, bvalue=bvalue)
        assert data["image"][:, 1, 2, 3].tolist() == [2300 + i for i in indices]
        np.testing.assert_allclose(data["gradients"][:, :3], axes_on_sphere(8), atol=1e-6)
        assert data["b0"][0, 1, 2, 3] == 4600


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_integers_are_read_in_their_unit(small, tmp_path, suffix, affine):
    dwi, *_ = small
    stored = np.random.default_rng(4).integers(-500, 3000, (3, 4, 5, 30)).astype(np.int16)
    stored[..., [0, -1]] += 4000
    stored[:2, ..., 1:-1] += 2000  # the b0 is brighter than the shell, and part of the image brighter than the rest
    stored[:2, ..., [0, -1]] += 8000
    image = nib.Nifti1Image(stored, affine)
    image.header.set_slope_inter(0.25, 130.0)
    path = tmp_path / f"scaled{suffix}"
    image.to_filename(path)
    header = path.read_bytes() if suffix == ".nii" else gzip.decompress(path.read_bytes())
    assert np.frombuffer(header[112:120], dtype=np.float32).tolist() == [0.25, 130.0], "scl_slope and scl_inter"
    files = {"bval": strip_nifti(dwi) + ".bval", "bvec": strip_nifti(dwi) + ".bvec"}
    data = read(path, **files)
    np.testing.assert_allclose(data["image"].numpy(), np.moveaxis(stored[..., 1:-1], -1, 0) * 0.25 + 130, atol=1e-3)
    assert strip_nifti(path) == str(tmp_path / "scaled")


@pytest.mark.parametrize("largest", [1, 2, 255, 0.9])
@pytest.mark.parametrize("fourth_axis", [False, True])
def test_a_mask_is_what_is_not_zero(small, tmp_path, largest, fourth_axis):
    """Of an image of two values, 0 and another one, stored as a volume or as one volume of several."""
    dwi, _, affine = small
    values = np.random.default_rng(2).integers(0, 2, (12, 14, 10)) * np.float32(largest)
    shifted = affine.copy()
    shifted[0, 3] += 5e-3  # as headers round
    stored = values[..., None] if fourth_axis else values
    nib.Nifti1Image(stored.astype(np.float32), shifted).to_filename(tmp_path / "mask.nii.gz")
    data = read(dwi, brain_mask=tmp_path / "mask.nii.gz")
    assert data["mask"].shape == (1, 12, 14, 10)
    np.testing.assert_array_equal(data["mask"][0].numpy(), values > 0)
    assert "mask" not in read(dwi, brain_mask=None)


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 0.2, 0.6, 1], [0, 1, np.nan], [0, np.inf], [-1, 0, 1]])
def test_a_mask_of_more_than_two_values_is_refused(small, tmp_path, values):
    """Probabilities, segmentations, a brain that was cut out: what of them is brain is for a person to say."""
    dwi, _, affine = small
    stored = np.random.default_rng(2).choice(values, (12, 14, 10)).astype(np.float32)
    nib.Nifti1Image(stored, affine).to_filename(tmp_path / "mask.nii.gz")
    path = tmp_path / "mask.nii.gz"
    refuse(path, "values (", "a mask of 0 and 1", attempt=lambda: read(dwi, brain_mask=path))


@pytest.mark.parametrize("values", [[0.3, 0.7], [1, 2], [-1, 1], [-1, 0]])
def test_a_mask_of_two_values_of_which_none_or_the_larger_is_zero_is_never_all_or_nothing(small, tmp_path, values):
    dwi, _, affine = small
    brain = np.random.default_rng(2).integers(0, 2, (12, 14, 10))
    path = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.array(values, dtype=np.float32)[brain], affine).to_filename(path)
    try:
        found = open_scan(dwi, brain_mask=path).mask
    except InputError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017 (either answer is right)
    else:
        np.testing.assert_array_equal(found[0].numpy(), brain)


def test_b0_volumes_of_up_to_70_are_taken_where_that_is_asked_for(tmp_path, small, affine_of, orientations, write_scan):
    """HCP 7T writes its b0 as 60 and 65."""
    _, signal, affine = small
    bvecs = np.loadtxt(tmp_path / "sub-01_dwi.bvec").T * [-1, -1, 1]
    bvals = np.array([60.0] + [1000.0] * 28 + [65.0])
    dwi = write_scan(tmp_path, signal, affine, bvecs, bvals)
    refuse(dwi, "found b = 62 (2 volumes), 1000 (28 volumes)", "b <= 50", dwi=dwi)
    scan = open_scan(dwi, b0_max=70)
    assert scan.b0.tolist() == [0, 29]
    assert scan.shell.tolist() == list(range(1, 29))
    np.testing.assert_allclose(scan.read().b0[0].numpy(), signal[..., [0, -1]].mean(axis=-1), rtol=1e-6)


def test_volumes_without_signal_are_left_out_with_a_note(small, caplog):
    dwi, signal, affine = small
    signal[..., 24:] = 0
    nib.Nifti1Image(signal, affine).to_filename(dwi)
    data = read(dwi)
    assert data["notes"] == "volumes 24 to 29 left out: no signal"
    assert f"{dwi}: volumes 24 to 29 left out: no signal" in caplog.messages
    np.testing.assert_array_equal(data["image"].numpy(), np.moveaxis(signal[..., 1:24], -1, 0))
    np.testing.assert_array_equal(data["b0"][0].numpy(), signal[..., 0])
    assert data["gradients"].shape == (23, 4)
    np.testing.assert_array_equal(data["gradients"], open_scan(dwi).gradients[1:24])


def test_a_scan_of_which_too_few_directions_are_left_is_refused(small):
    dwi, signal, affine = small
    signal[..., 5:] = 0
    nib.Nifti1Image(signal, affine).to_filename(dwi)
    refuse(dwi, "at b = 1000 found 4 distinct gradient axes", attempt=lambda: read(dwi))


@pytest.mark.parametrize("filling", [0.0, 7.0, np.nan])
def test_a_scan_without_signal_is_refused(small, filling):
    dwi, signal, affine = small
    nib.Nifti1Image(np.full_like(signal, filling), affine).to_filename(dwi)
    refuse(dwi, "found no signal in volumes 0 to 29, expected a b0 with one", attempt=lambda: read(dwi))


# checksum of the voxels


def test_the_checksum_is_that_of_the_voxels_however_they_are_stored(small, tmp_path):
    dwi, signal, affine = small
    expected = open_scan(dwi).read(checksum=True).checksum
    files = {"bval": strip_nifti(dwi) + ".bval", "bvec": strip_nifti(dwi) + ".bvec"}
    nib.Nifti1Image(signal, affine).to_filename(tmp_path / "plain.nii")
    slow = tmp_path / "other_name.nii.gz"
    slow.write_bytes(gzip.compress((tmp_path / "plain.nii").read_bytes(), compresslevel=1, mtime=3))
    assert slow.read_bytes() != dwi.read_bytes()
    for path in (tmp_path / "plain.nii", slow):
        assert open_scan(path, **files).read(checksum=True).checksum == expected
    # volumes that are neither b0 nor of the shell count, too
    assert open_scan(dwi, bvalue=1012, tolerance=20).read(checksum=True).checksum == expected
    assert open_scan(dwi).read().checksum is None
    signal[3, 5, 7, 11] += 1
    nib.Nifti1Image(signal, affine).to_filename(dwi)
    assert open_scan(dwi).read(checksum=True).checksum != expected
    turned = np.ascontiguousarray(np.moveaxis(signal, 0, 1))
    nib.Nifti1Image(turned, affine).to_filename(tmp_path / "turned.nii")
    assert open_scan(tmp_path / "turned.nii", **files).read(checksum=True).checksum != expected


# mistakes


def refuse(path, *words, **arguments):
    """A scan is refused in one sentence that starts with ``path`` and has all ``words``."""
    attempt = arguments.pop("attempt", None) or (lambda: open_scan(**arguments))
    with pytest.raises(InputError) as error:
        attempt()
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
    refuse(tmp_path / "sub-01_dwi.nii.gz", "12x14x10x30", "3 dimensions", attempt=lambda: open_nifti(small[0], ndim=3))


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
    refuse(path, "damaged", "whole", attempt=lambda: read(path))


def damage(path):
    """Spoil the codes at the start of the compressed data."""
    content = bytearray(path.read_bytes())
    content[20:60] = b"\xff" * 40
    path.write_bytes(bytes(content))


def test_a_spoilt_compressed_file_is_refused(small):
    """Not the length but the content of the file is wrong: zlib says so by an error of its own."""
    damage(small[0])
    refuse(small[0], "NIfTI", attempt=lambda: read(small[0]))


@pytest.mark.parametrize("part", ["crc", "length", "codes"])
@pytest.mark.parametrize("what", ["dwi", "mask"])
def test_damage_that_leaves_the_stream_readable_is_found(small, tmp_path, part, what):
    """Voxels can all be read, and are other ones than were written: only the checksum at the end tells."""
    affine = small[2]
    files = {"dwi": small[0], "mask": tmp_path / "mask.nii.gz"}
    mask = np.ones((12, 14, 10), dtype=np.uint8)
    mask[0] = 0
    nib.Nifti1Image(mask, affine).to_filename(files["mask"])
    content = bytearray(gzip.compress(gzip.decompress(files[what].read_bytes()), compresslevel=0, mtime=0))
    # uncompressed blocks: one bit of one voxel
    content[{"crc": -6, "length": -2, "codes": len(content) - 300}[part]] ^= 0b100
    files[what].write_bytes(bytes(content))
    refuse(files[what], "damaged", "whole", attempt=lambda: read(files["dwi"], brain_mask=files["mask"]))


def test_a_mask_that_ends_early_is_refused(small, tmp_path):
    path = tmp_path / "mask.nii.gz"
    nib.Nifti1Image(np.random.default_rng(2).random((12, 14, 10)), small[2]).to_filename(path)
    path.write_bytes(path.read_bytes()[:4000])
    refuse(path, "damaged", attempt=lambda: read(small[0], brain_mask=path))


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


@pytest.mark.parametrize(("factor", "largest"), [(1e-3, "1"), (1e6, "1e+09")])
def test_b_values_in_another_unit_are_recognised(small, tmp_path, factor, largest):
    """In ms/um2 all of them are b0 volumes."""
    path = tmp_path / "sub-01_dwi.bval"
    path.write_text(" ".join(f"{factor * float(word):g}" for word in path.read_text().split()))
    hint = f"expected a shell of b = 1000 +- 100 s/mm2; the largest b-value is {largest}: is it in another unit?"
    refuse(small[0], hint, dwi=small[0])


def test_antipodes_are_not_counted_as_axes(small, tmp_path, axes_on_sphere):
    five = axes_on_sphere(5)
    vectors = np.vstack([np.zeros(3), five, -five, five, -five, five, five[:3], np.zeros(3)])
    np.savetxt(tmp_path / "sub-01_dwi.bvec", vectors[:30].T)
    refuse(small[0], "at b = 1000 found 5 distinct gradient axes", "at least 6", dwi=small[0])


def test_a_mask_on_another_grid_is_refused(small, tmp_path):
    dwi, _, affine = small
    path = tmp_path / "mask.nii.gz"
    moved, mirrored = affine.copy(), affine @ np.diag([-1.0, 1, 1, 1])
    moved[1, 3] += 1.2
    for shape, frame in (((14, 12, 10), affine), ((12, 14, 10), moved), ((12, 14, 10), mirrored)):
        nib.Nifti1Image(np.ones(shape, dtype=np.uint8), frame).to_filename(path)
        refuse(
            path,
            "(14x12x10)" if shape == (14, 12, 10) else "(another affine)",
            f"expected that of {dwi.name} (12x14x10)",
            attempt=lambda: read(dwi, brain_mask=path),
        )
