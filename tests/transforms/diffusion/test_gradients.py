"""Gradient tables: FSL's rule against fibres of known world direction, shells, and one sentence for each mistake."""

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.reconst.dti import TensorModel
from dipy.sims.voxel import single_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from scripts.io.gradients import read_gradients
from transforms.diffusion.gradients import (
    angles_between_axes,
    b0_volumes,
    describe_shells,
    fsl_to_world,
    shell_notes,
    shell_volumes,
    unique_axes,
    world_to_fsl,
)
from transforms.errors import InputError

FIBRES = np.array([[0.36, 0.48, 0.80], [-0.60, 0.64, 0.48], [0.48, -0.80, 0.36]])
EIGENVALUES = np.array([1.7e-3, 0.3e-3, 0.2e-3])

numbers = st.floats(-1, 1, allow_nan=False)
sizes = st.floats(0.3, 6)


@st.composite
def affines(draw, shear=0.0):
    """Any rotation, voxel size, handedness and order of axes, and shears up to ``shear``."""
    quaternion = draw(st.tuples(numbers, numbers, numbers, numbers).filter(lambda q: np.linalg.norm(q) > 0.1))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    order = draw(st.permutations(range(3)))
    sheared = np.eye(3)
    sheared[np.triu_indices(3, 1)] = draw(st.tuples(*[st.floats(-shear, shear)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_quat(quaternion).as_matrix() @ np.diag(signs)[:, order] @ sheared
    affine[:3, :3] *= draw(st.tuples(sizes, sizes, sizes))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-100, 100)] * 3))
    return affine


def unit_vectors(n, seed=3):
    vectors = np.random.default_rng(seed).standard_normal((n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# the frame


def test_tensor_of_a_known_fibre_points_along_it_in_world_space(tmp_path, affine, axes_on_sphere, write_scan):
    directions = np.vstack([np.zeros(3), axes_on_sphere(30)])
    bvals = np.array([0.0] + [1000.0] * 30)
    world = gradient_table(bvals, bvecs=directions)
    frames = [np.column_stack([f, *np.linalg.svd(f[None])[2][1:]]) for f in FIBRES]
    signals = [single_tensor(world, S0=100, evals=EIGENVALUES, evecs=frame) for frame in frames]
    dwi = write_scan(tmp_path, np.array(signals, dtype=np.float32)[:, None, None], affine, directions, bvals)

    table = read_gradients(tmp_path / "sub-01_dwi.bval", tmp_path / "sub-01_dwi.bvec", affine, n_volumes=31)

    assert dwi.exists()
    fit = TensorModel(gradient_table(table[:, 3], bvecs=table[:, :3])).fit(np.array(signals))
    found = angles_between_axes(FIBRES, fit.evecs[..., 0]).diagonal()
    assert found.max() < 0.5


def test_las_and_ras_storage_of_one_scan_share_their_bvec_file():
    """Mirroring the order of x in the file changes FSL's sign and the voxel axis at once."""
    bvecs = unit_vectors(20)
    las, ras = np.diag([-2.0, 2.5, 3.0, 1.0]), np.diag([2.0, 2.5, 3.0, 1.0])
    np.testing.assert_allclose(fsl_to_world(bvecs, ras), fsl_to_world(bvecs, las), atol=1e-12)
    np.testing.assert_allclose(fsl_to_world(bvecs, las), bvecs * [-1, 1, 1], atol=1e-12)


@given(affine=affines(shear=0.1))
@settings(deadline=None, max_examples=60)
def test_world_to_fsl_is_the_inverse(affine):
    directions = unit_vectors(8)
    np.testing.assert_allclose(fsl_to_world(world_to_fsl(directions, affine), affine), directions, atol=1e-9)
    np.testing.assert_allclose(world_to_fsl(fsl_to_world(directions, affine), affine), directions, atol=1e-9)


@given(affine=affines())
@settings(deadline=None, max_examples=60)
def test_a_voxel_axis_is_the_world_direction_of_its_column(affine):
    columns = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).T
    sign = -1 if np.linalg.det(affine[:3, :3]) > 0 else 1
    np.testing.assert_allclose(fsl_to_world(np.diag([sign, 1.0, 1.0]), affine), columns, atol=1e-9)


@given(affine=affines(shear=0.1), quaternion=st.tuples(numbers, numbers, numbers, st.floats(0.2, 1)))
@settings(deadline=None, max_examples=40)
def test_a_rotated_scan_has_rotated_directions(affine, quaternion):
    """The file of b-vectors stays as it is when the patient's axes turn in the scanner; the world directions turn."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
    bvecs = unit_vectors(6)
    expected = fsl_to_world(bvecs, affine) @ turn[:3, :3].T
    np.testing.assert_allclose(fsl_to_world(bvecs, turn @ affine), expected, atol=1e-9)


def test_lengths_are_one_or_none(affine):
    bvecs = np.array([[0.0, 0.0, 0.0], [0.3, -0.4, 1.2], [1e-5, 0.0, 0.0], [0.0, 0.995, 0.01]])
    found = fsl_to_world(bvecs, affine)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [0, 1, 0, 1], atol=1e-12)
    unit = bvecs[[1, 3]] / np.linalg.norm(bvecs[[1, 3]], axis=1, keepdims=True)
    np.testing.assert_allclose(found[[1, 3]], fsl_to_world(unit, affine), atol=1e-12)


@pytest.mark.parametrize(
    "linear", [np.zeros((3, 3)), [[2, 0, 0], [0, 2, 0], [2, 2, 0]], [[np.nan, 0, 0], [0, 1, 0], [0, 0, 1]]]
)
def test_a_singular_affine_is_refused(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    for convert in (fsl_to_world, world_to_fsl):
        with pytest.raises(InputError, match=r"affine: found the singular matrix \[\[.*expected one that can be inver"):
            convert(np.eye(3), affine)


# shells


def shells_table():
    bvals = [0.001, 995, 5, 1005, 1000, 2000, 1100, 1101, 50, 51, 1000, 899, 900]
    table = np.column_stack([unit_vectors(len(bvals)), bvals])
    table[10, :3] = 0  # a trace image
    return table


def test_b0_is_what_scanners_write_for_it():
    assert b0_volumes(shells_table()).tolist() == [0, 2, 8]


def test_a_shell_holds_its_directions_and_no_trace_image():
    table = shells_table()
    assert shell_volumes(table, 1000).tolist() == [1, 3, 4, 6, 12]
    assert shell_volumes(table, 1000, tolerance=5).tolist() == [1, 3, 4]
    assert shell_volumes(table, 2000).tolist() == [5]
    assert shell_volumes(table, 3000).tolist() == []
    assert shell_volumes(table, 100).tolist() == [9], "b0 is in no shell, however low"


def test_shells_are_described_for_a_person():
    bvals = np.array([995, 2000, 0.001, 1005, 5, 1000, 3010])
    table = np.column_stack([np.zeros((7, 3)), bvals])
    assert describe_shells(table) == "b = 0 (2 volumes), 1000 (3 volumes), 2000 (1 volume), 3010 (1 volume)"
    assert describe_shells(table[2:3]) == "b = 0 (1 volume)"


# angles


@pytest.mark.parametrize("degrees", [1e-7, 1e-4, 0.3, 12.0, 45.0, 89.9, 90.0])
def test_angles_are_right_also_near_zero(degrees):
    turned = Rotation.from_rotvec([0, 0, degrees], degrees=True).apply([1.0, 0, 0])[None]
    turn = Rotation.from_euler("xyz", [10, 50, -70], degrees=True)  # no coordinate axis is special
    first, second = turn.apply([[1.0, 0, 0]]), turn.apply(turned)
    for sign in (1, -1):
        assert angles_between_axes(first, sign * second)[0, 0] == pytest.approx(degrees, rel=1e-6, abs=1e-12)


def test_angles_are_those_of_each_with_each():
    first, second = unit_vectors(4), unit_vectors(6, seed=8)
    expected = [[np.degrees(np.arccos(abs(a @ b))) for b in second] for a in first]
    np.testing.assert_allclose(angles_between_axes(first, second), expected, atol=1e-5)


def test_antipodes_and_repeats_are_one_axis():
    axes = unit_vectors(6)
    assert angles_between_axes(axes, axes)[np.triu_indices(6, 1)].min() > 6
    assert unique_axes(axes) == 6
    assert unique_axes(np.vstack([axes, -axes, axes[::-1]])) == 6
    near = Rotation.from_rotvec(3 * np.cross(axes[0], axes[1]) / np.linalg.norm(np.cross(axes[0], axes[1])), True)
    assert unique_axes(np.vstack([axes, near.apply(axes[0])])) == 6
    assert unique_axes(np.vstack([axes, near.apply(axes[0])]), tolerance=2) == 7
    assert unique_axes(np.zeros((0, 3))) == 0


def test_what_is_unusual_of_a_shell_is_said():
    """Of 899, 900 and 1101 the middle one fits; 900 and 1100 lie too far apart for one shell."""
    assert shell_notes(shells_table(), 1000.0) == [
        "volume 10 left out: no direction",
        "the shell holds b-values from 900 to 1100 s/mm2",
        "volumes 7, 11 left out: b = 899 to 1101 s/mm2, just outside of the shell",
    ]


def test_a_usual_shell_has_no_notes():
    bvals = np.array([5, *np.linspace(975, 1025, 12), 2000, 860])
    assert shell_notes(np.column_stack([unit_vectors(len(bvals)), bvals]), 1000.0) == []
