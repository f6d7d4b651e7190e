"""A compressed image with a changed bit is never loaded, as MONAI's own reader does it without a word."""

import random
import re

import nibabel as nib
import numpy as np
import pytest
from monai.data import NibabelReader
from monai.transforms import LoadImage, LoadImaged

from transforms.errors import InputError
from transforms.reader import WholeFileReader


@pytest.fixture
def image(tmp_path, affine):
    path = tmp_path / "image.nii.gz"
    voxels = np.random.default_rng(0).random((5, 6, 7, 2), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def test_a_whole_image_is_what_the_reader_of_monai_returns(image):
    ours, theirs = (LoadImage(reader=reader(), image_only=True)(image) for reader in (WholeFileReader, NibabelReader))
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    np.testing.assert_array_equal(ours.affine.numpy(), theirs.affine.numpy())
    assert ours.meta["filename_or_obj"] == theirs.meta["filename_or_obj"]


def test_an_image_that_is_not_compressed_is_read(image, tmp_path):
    plain = tmp_path / "image.nii"
    nib.save(nib.load(image), plain)
    found = LoadImage(reader=WholeFileReader(), image_only=True)(plain)
    np.testing.assert_array_equal(found.numpy(), np.asarray(nib.load(image).dataobj))


def test_a_changed_bit_anywhere_in_the_voxels_is_found(image):
    whole = image.read_bytes()
    load = LoadImage(reader=WholeFileReader(), image_only=True)
    # seeded: the few bits that pad the compressed stream mean nothing
    draw = random.Random(0)
    for _ in range(20):
        damaged = bytearray(whole)
        # behind the header of NIfTI, which noise does not make shorter, up to the last byte of the checksum
        damaged[draw.randrange(400, len(whole) - 4)] ^= 1 << draw.randrange(8)
        image.write_bytes(damaged)
        with pytest.raises(InputError, match=r"image\.nii\.gz: found a damaged file \(.*\), expected a whole NIfTI"):
            load(image)


def test_one_reader_names_the_file_that_is_damaged_among_several(image, tmp_path):
    other = tmp_path / "other.nii.gz"
    damaged = bytearray(image.read_bytes())
    damaged[-6] ^= 1
    other.write_bytes(damaged)
    load = LoadImaged(["first", "second"], reader=WholeFileReader(), image_only=True)
    with pytest.raises(InputError, match=rf"^{re.escape(str(other))}: found a damaged file"):
        load({"first": image, "second": other})
