"""FSL gradient files and scheme files: what is written is read back, and each mistake gets one sentence."""

import os
import re

import numpy as np
import pytest

from scripts.io.gradients import read_bvals, read_bvecs, read_gradients, read_scheme, write_gradients
from transforms.errors import InputError


def unit_vectors(n, seed=3):
    vectors = np.random.default_rng(seed).standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_written_files_are_read_back(tmp_path, affine):
    directions = unit_vectors(12)
    directions[[0, 5]] = 0
    bvals = np.array([0, 1000, 995, 2000, 3005, 5, 700, 1000, 1005, 1000, 1000, 992.5])
    table = np.column_stack([directions, bvals])
    write_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", table, affine)
    np.testing.assert_allclose(read_gradients(tmp_path / "a.bval", tmp_path / "a.bvec", affine, 12), table, atol=1e-6)
    in_file = np.loadtxt(tmp_path / "a.bvec")
    assert in_file.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(in_file, axis=0), np.linalg.norm(directions, axis=1), atol=1e-6)


def test_columns_and_commas_are_read_as_rows_are(tmp_path):
    bvecs = unit_vectors(7)
    np.savetxt(tmp_path / "rows.bvec", bvecs.T)
    np.savetxt(tmp_path / "columns.bvec", bvecs)
    np.savetxt(tmp_path / "commas.bvec", bvecs, delimiter=", ")
    for name in ("rows", "columns", "commas"):
        np.testing.assert_allclose(read_bvecs(tmp_path / f"{name}.bvec"), bvecs, atol=1e-15)
    (tmp_path / "row.bval").write_text("0 1000 2000\n\n")
    (tmp_path / "column.bval").write_text("0\n1000\n2000\n")
    assert read_bvals(tmp_path / "row.bval").tolist() == [0, 1000, 2000]
    assert read_bvals(tmp_path / "column.bval").tolist() == [0, 1000, 2000]


GOOD_BVAL = "0 1000 1000 1000\n"
GOOD_BVEC = "0 1 0 0\n0 0 1 0\n0 0 0 1\n"


@pytest.mark.parametrize(
    ("bval", "bvec", "names", "found", "expected"),
    [
        (None, GOOD_BVEC, "s.bval", "no such file", "FSL gradient file"),
        (GOOD_BVAL, None, "s.bvec", "no such file", "FSL gradient file"),
        ("0 1000 b 1000", GOOD_BVEC, "s.bval", "not a number", "FSL gradient file"),
        (b"\xff\xfe\x00\x81", GOOD_BVEC, "s.bval", "not UTF-8", "FSL gradient file"),
        (GOOD_BVAL, "µ".encode("latin-1"), "s.bvec", "not UTF-8", "FSL gradient file"),
        ("", GOOD_BVEC, "s.bval", "found no numbers", "an FSL gradient file"),
        (GOOD_BVAL, "0 1 0 0\n0 0 1\n0 0 0 1", "s.bvec", "rows of [3, 4] numbers", "rows of one length"),
        (
            GOOD_BVAL,
            "0 1 0 nan\n0 0 1 0\n0 0 0 1",
            "s.bvec",
            "NaN or infinity for volume 3 of b = 1000",
            "expected numbers",
        ),
        ("0 1000 inf 1000", GOOD_BVEC, "s.bval", "NaN or infinity", "finite"),
        ("0 -1000 1000 1000", GOOD_BVEC, "s.bval", "-1000", "none below 0"),
        ("0 1000\n1000 1000", GOOD_BVEC, "s.bval", "2 rows", "expected one"),
        (GOOD_BVAL, "0 1 0 0\n0 0 1 0", "s.bvec", "2 rows of 4", "three rows"),
        (GOOD_BVAL, "0 1 0\n0 0 1\n0 0 0", "s.bvec", "3 b-vectors", "expected 4 as in s.bval"),
        ("0 1000 1000", GOOD_BVEC, "s.bvec", "4 b-vectors", "expected 3 as in s.bval"),
        ("0 1 1", "0 1 0\n0 0 1\n0 0 0", "s.bval", "3 b-values", "expected 4, one per volume"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, bval, bvec, names, found, expected):
    for name, text in (("s.bval", bval), ("s.bvec", bvec)):
        if text is not None:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read_gradients(tmp_path / "s.bval", tmp_path / "s.bvec", np.diag([2.0, 2.0, 2.0, 1.0]), n_volumes=4)
    message = str(error.value)
    assert message.startswith(f"{tmp_path / names}: ")
    assert found in message
    assert expected in message
    assert message.endswith(".")
    assert "\n" not in message


def test_a_byte_order_mark_is_read_over(tmp_path):
    for name, text in (("s.bval", GOOD_BVAL), ("s.bvec", GOOD_BVEC)):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_gradients(tmp_path / "s.bval", tmp_path / "s.bvec", np.diag([-2.0, 2.0, 2.0, 1.0]), 4)
    np.testing.assert_array_equal(found, [[0, 0, 0, 0], [-1, 0, 0, 1000], [0, 1, 0, 1000], [0, 0, 1, 1000]])


@pytest.mark.parametrize("suffix", ["bval", "bvec"])
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path, suffix):
    (tmp_path / "s.bval").write_text(GOOD_BVAL)
    (tmp_path / "s.bvec").write_text(GOOD_BVEC)
    (tmp_path / f"s.{suffix}").unlink()
    os.mkfifo(tmp_path / f"s.{suffix}")
    with pytest.raises(InputError, match=rf"s\.{suffix}: no such file, expected an FSL gradient file"):
        read_gradients(tmp_path / "s.bval", tmp_path / "s.bvec", np.eye(4))


def write_pair(folder, bvals, bvecs):
    np.savetxt(folder / "s.bval", bvals[None], fmt="%g")
    np.savetxt(folder / "s.bvec", bvecs.T, fmt="%.8f")
    return folder / "s.bval", folder / "s.bvec"


def test_b_values_in_the_lengths_of_the_vectors_are_refused(tmp_path, affine):
    """Siemens writes two shells, of 500 and 1000, as b = 1000 and shorter vectors."""
    true = np.r_[0, [500.0] * 12, [1000.0] * 12]
    bvecs = unit_vectors(25) * np.sqrt(true / 1000)[:, None]
    bval, bvec = write_pair(tmp_path, np.where(true, 1000.0, 0.0), bvecs)
    with pytest.raises(InputError) as error:
        read_gradients(bval, bvec, affine)
    assert str(error.value) == (
        f"{bvec}: found vectors of lengths 0.71 to 1.00 at b = 1000, expected one length; does b |g|^2 code the "
        "b-values, 500 to 1000?"
    )


def test_they_are_refused_as_well_where_the_b_values_of_a_shell_differ_a_little(tmp_path, affine):
    """Gradients of the imaging make 970 and 1030 of one nominal value."""
    bvals, bvecs = np.r_[0, [970.0, 1030.0] * 12], unit_vectors(25)
    bvecs[1::2] *= np.sqrt(0.5)
    with pytest.raises(InputError, match=r"found vectors of lengths 0\.71 to 1\.00 at b = 970, expected one length"):
        read_gradients(*write_pair(tmp_path, bvals, bvecs), affine)


@pytest.mark.parametrize("scale", [0.5, 0.99, 2.0])
def test_vectors_that_are_all_scaled_alike_stay_what_they_are(tmp_path, affine, scale):
    bvals, directions = np.r_[0, [1000.0] * 6, [995.0] * 6, 3], unit_vectors(14)
    directions[[0, 13]] = 0
    found = read_gradients(*write_pair(tmp_path, bvals, directions * scale), affine)
    expected = read_gradients(*write_pair(tmp_path, bvals, directions), affine)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_shell_may_have_a_length_of_its_own(tmp_path, affine):
    """Lengths of sqrt(b / bmax) beside the right b-values say nothing new."""
    bvals, directions = np.r_[0, [1000.0] * 6, [3000.0] * 6], unit_vectors(13)
    scaled = directions * np.sqrt(bvals / 3000)[:, None]
    found = read_gradients(*write_pair(tmp_path, bvals, scaled), affine)
    np.testing.assert_allclose(
        found[1:], read_gradients(*write_pair(tmp_path, bvals, directions), affine)[1:], atol=1e-6
    )
    np.testing.assert_array_equal(found[:, 3], bvals)


def test_lengths_that_follow_right_b_values_close_to_each_other_are_accepted(tmp_path, affine):
    """Shells of 200 and 300 lie within the width of one, and each has its own length of sqrt(b / bmax)."""
    bvals, directions = np.r_[0, [200.0] * 6, [300.0] * 6, [1000.0] * 6], unit_vectors(19)
    scaled = directions * np.sqrt(bvals / 1000)[:, None]
    found = read_gradients(*write_pair(tmp_path, bvals, scaled), affine)
    np.testing.assert_array_equal(found[:, 3], bvals)
    np.testing.assert_allclose(np.linalg.norm(found[1:, :3], axis=1), 1.0, atol=1e-9)


def test_lengths_may_differ_by_rounding_and_b0_volumes_by_anything(tmp_path):
    bvals, directions = np.r_[0, 5, [1000.0] * 6], unit_vectors(8)
    directions[0] *= 0.1
    np.savetxt(tmp_path / "s.bval", bvals[None], fmt="%g")
    np.savetxt(tmp_path / "s.bvec", directions.T, fmt="%.2f")
    found = read_gradients(tmp_path / "s.bval", tmp_path / "s.bvec", np.eye(4))
    np.testing.assert_allclose(np.linalg.norm(found[:, :3], axis=1), 1.0, atol=1e-9)
    assert len(found) == 8


def test_nan_for_the_direction_of_a_b0_volume_means_none(tmp_path):
    (tmp_path / "s.bval").write_text("0 1000 5")
    (tmp_path / "s.bvec").write_text("nan 0 nan\nnan 1 nan\nnan 0 nan")
    gradients = read_gradients(tmp_path / "s.bval", tmp_path / "s.bvec", np.eye(4))
    np.testing.assert_array_equal(gradients, [[0, 0, 0, 0], [0, 1, 0, 1000], [0, 0, 0, 5]])


def test_a_scheme_file_is_read_without_its_b0s_and_with_unit_vectors(tmp_path, axes_on_sphere):
    axes = axes_on_sphere(20)
    rows = np.vstack([np.zeros(3), axes[:10] * 0.99, np.zeros(3), axes[10:]])
    np.savetxt(tmp_path / "scheme.bvec", rows.T)
    np.testing.assert_allclose(read_scheme(tmp_path / "scheme.bvec"), axes, atol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scheme_with_a_direction_that_is_not_finite_is_refused(tmp_path, axes_on_sphere, value):
    """A vector of NaN alone is a b0 volume."""
    path, axes = tmp_path / "scheme.bvec", axes_on_sphere(20)
    np.savetxt(path, np.vstack([np.full(3, np.nan), axes]).T)
    np.testing.assert_allclose(read_scheme(path), axes, atol=1e-12)
    axes[3, 1] = value
    np.savetxt(path, axes.T)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: found NaN or infinity in a direction, expected"):
        read_scheme(path)


def test_a_scheme_of_few_axes_is_refused(tmp_path, axes_on_sphere):
    five = axes_on_sphere(5)
    path = tmp_path / "poor.bvec"
    np.savetxt(path, np.vstack([five, -five]).T)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: found 10 directions, expected .* at least 6 axes"):
        read_scheme(path)


def test_short_vectors_of_a_scheme_are_directions_too(tmp_path, axes_on_sphere):
    axes = axes_on_sphere(20)
    np.savetxt(tmp_path / "scheme.bvec", (axes * np.r_[np.full(10, 0.4), np.ones(10)][:, None]).T)
    np.testing.assert_allclose(read_scheme(tmp_path / "scheme.bvec"), axes, atol=1e-12)
