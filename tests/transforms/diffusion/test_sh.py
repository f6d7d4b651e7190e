"""The order of spherical harmonics that the gradient axes of a scan determine, by their number and their spread."""

import logging

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sphere_signals import band_limited, tilt

from transforms.diffusion.scheme import default_scheme
from transforms.diffusion.sh import (
    MAX_CONDITION,
    USUAL_GAP_DEGREES,
    condition,
    largest_gap,
    n_coefficients,
    sh_basis,
    sh_interpolation_matrix,
    sh_order,
    why_lowered,
)
from transforms.errors import InputError, SignalError

TURN = Rotation.from_euler("zyx", [37, -64, 111], degrees=True)


@pytest.mark.parametrize(
    ("n", "order"), [(6, 2), (12, 2), (14, 2), (15, 4), (27, 4), (28, 6), (44, 6), (45, 8), (90, 8)]
)
def test_order_is_the_highest_that_the_axes_determine(axes_on_sphere, n, order):
    axes = axes_on_sphere(n)
    assert sh_order(axes) == order
    assert sh_order(np.vstack([axes, -axes])) == order, "an antipode is no new axis"
    assert sh_order(axes, max_order=4) == min(order, 4)


@pytest.mark.parametrize(("n", "order", "needs"), [(27, 4, 28), (12, 2, 15)])
def test_a_lowered_order_is_logged_with_its_reason(axes_on_sphere, caplog, n, order, needs):
    source, target = axes_on_sphere(n), TURN.apply(axes_on_sphere(40))
    with caplog.at_level(logging.WARNING, logger="transforms.diffusion.sh"):
        matrix = sh_interpolation_matrix(source, target, smoothing=0, name="sub-07_dwi.nii.gz")
    assert [record.getMessage() for record in caplog.records] == [
        f"sub-07_dwi.nii.gz: SH order lowered from 8 to {order}: {n} distinct gradient axes, "
        f"order {order + 2} needs {needs}."
    ]
    assert np.linalg.matrix_rank(matrix) == (order + 1) * (order + 2) // 2
    expected = band_limited(target, order)
    np.testing.assert_allclose(matrix @ band_limited(source, order), expected, atol=1e-5 * np.abs(expected).max())


def axes_in_a_cone(n):
    """Directions of the default scheme within 41 degrees of an axis, all on its side; the n nearest."""
    pole = default_scheme()[11]
    cosine = default_scheme() @ pole
    cone = (default_scheme() * np.sign(cosine)[:, None])[np.argsort(-np.abs(cosine))]
    return cone[:n], cone @ pole


def test_axes_in_a_cone_do_not_determine_what_as_many_spread_ones_do(axes_on_sphere):
    """17 axes are more than the 15 coefficients of order 4, but between them nothing is known of most directions."""
    _, cosines = axes_in_a_cone(64)
    cone, _ = axes_in_a_cone(int((cosines > 0.75).sum()))
    assert 15 <= len(cone) <= 20
    assert sh_order(axes_on_sphere(len(cone))) == 4
    with pytest.raises(
        SignalError, match=rf"found {len(cone)} gradient axes that leave a gap of \d+ degrees.*condition number"
    ):
        sh_order(cone)
    assert condition(cone, 4) > MAX_CONDITION


def test_a_lowered_order_for_uneven_axes_is_logged_with_its_reason(axes_on_sphere, caplog):
    """45 axes, of which half stand in a cone, determine no order 8, although their number would do."""
    uneven = np.vstack([axes_on_sphere(28), axes_in_a_cone(17)[0] @ Rotation.from_euler("x", 4, True).as_matrix()])
    assert len(uneven) == 45
    assert condition(uneven, 8) > MAX_CONDITION > condition(uneven, 6)
    with caplog.at_level(logging.WARNING, logger="transforms.diffusion.sh"):
        sh_interpolation_matrix(uneven, default_scheme(), name="sub-01_dwi.nii.gz")
    assert caplog.messages == [
        "sub-01_dwi.nii.gz: SH order lowered from 8 to 6: 45 gradient axes are spread unevenly, the condition number "
        f"at order 8 is {condition(uneven, 8):.0f}, expected at most 15."
    ]
    assert why_lowered(uneven, 6) in caplog.text


@pytest.mark.parametrize("off", [0.0, 2.0])
def test_axes_in_a_plane_are_refused_however_many_they_are(off):
    angles = np.linspace(0, np.pi, 64, endpoint=False)
    plane = tilt(np.column_stack([np.cos(angles), np.sin(angles), np.zeros(64)]), off)
    with pytest.raises(
        SignalError, match=r"6\d gradient axes that leave a gap of [89]\d deg.*condition number .*plane or in a cone"
    ):
        sh_order(TURN.apply(plane))


GOLDEN = (1 + np.sqrt(5)) / 2
CORNERS = [[0, 1, GOLDEN], [0, 1, -GOLDEN], [1, GOLDEN, 0], [1, -GOLDEN, 0], [GOLDEN, 0, 1], [-GOLDEN, 0, 1]]
ICOSAHEDRON = np.array(CORNERS) / np.sqrt(1 + GOLDEN**2)
"""The six axes of its twelve corners, unit vectors."""


def test_the_largest_gap_of_known_axes(axes_on_sphere):
    """Of the icosahedron's six axes it is that to the middle of a face, 37.4 degrees; no six axes leave less."""
    exact = np.degrees(np.arccos(np.sqrt((5 + 2 * np.sqrt(5)) / 15)))
    assert exact == pytest.approx(37.377, abs=1e-3)
    for axes in (ICOSAHEDRON, -ICOSAHEDRON, TURN.apply(ICOSAHEDRON)):
        assert largest_gap(axes) == pytest.approx(exact, abs=1.5)
        assert sh_order(axes) == 2
    # of a plane it is that to its normal, of one axis that to all across it
    angles = np.linspace(0, np.pi, 64, endpoint=False)
    assert largest_gap(np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])) > 85
    assert largest_gap(axes_on_sphere(90)) < largest_gap(axes_on_sphere(30)) < largest_gap(axes_on_sphere(12)) < 35


def test_the_best_six_axes_are_not_noted():
    for angle in range(0, 90, 10):
        turned = Rotation.from_euler("zy", [angle, angle / 2], degrees=True).apply(ICOSAHEDRON)
        assert largest_gap(turned) <= USUAL_GAP_DEGREES


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_evenly_spread_axes_as_many_as_coefficients_have_a_low_condition(axes_on_sphere, order):
    n = n_coefficients(order)
    assert n == (order + 1) * (order + 2) // 2
    assert condition(axes_on_sphere(n), order) < MAX_CONDITION / 2
    assert sh_order(axes_on_sphere(n)) == order
    basis = sh_basis(axes_on_sphere(n), order)
    singular = np.linalg.svd(basis, compute_uv=False)
    assert condition(axes_on_sphere(n), order) == pytest.approx(singular[0] / singular[-1])


def test_a_full_order_is_not_logged(axes_on_sphere, caplog):
    with caplog.at_level(logging.WARNING, logger="transforms.diffusion.sh"):
        sh_interpolation_matrix(axes_on_sphere(45), default_scheme())
    assert not caplog.records


def test_fewer_than_six_axes_are_refused(axes_on_sphere):
    five = axes_on_sphere(5)
    with pytest.raises(InputError, match="found 5 distinct gradient axes, expected at least 6"):
        sh_interpolation_matrix(np.vstack([five, -five, five]), default_scheme())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("digits", [6, 7, 9])
def test_directions_that_repeat_in_other_digits_are_those_of_the_first(axes_on_sphere, sign, digits):
    """As two programs write one table: a repeated direction differs in its last digits."""
    for seed in range(20):
        axes = Rotation.random(random_state=seed).apply(axes_on_sphere(32))
        repeated = np.concatenate([np.round(axes, 6), sign * np.round(axes, digits)])
        repeated /= np.linalg.norm(repeated, axis=1, keepdims=True)
        assert largest_gap(repeated) == pytest.approx(largest_gap(axes), abs=1e-2)
        assert sh_order(repeated) == sh_order(axes)
