"""Volumes without the signal that the gradient table says: left out with a note, or the scan is refused."""

import numpy as np
import pytest

from transforms.errors import SignalError
from transforms.signal_checks import usable_volumes

SHAPE = (14, 17, 11)
B0, SHELL = np.array([0, 9, 25]), np.array([index for index in range(1, 25) if index != 9])


def scan(n_b0=3, n_shell=23, noise=8.0, ratio=0.5, spread=0.1):
    """Volumes of an ellipsoid with Rician noise: b0 ``(m, X, Y, Z)`` and a shell ``(n, X, Y, Z)`` at half of it.

    Directions differ in brightness by up to ``spread`` of it, as fibres that run one way make them.
    """
    generator = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*[np.linspace(-1.3, 1.3, n) for n in SHAPE], indexing="ij"))
    head = (grid**2).sum(axis=0) < 1
    density = head * (1000 + 200 * grid[0] - 100 * grid[1])
    along = np.linspace(1 - spread, 1 + spread, n_shell)[generator.permutation(n_shell), None, None, None]
    clean = [np.repeat(density[None], n_b0, axis=0), density * ratio * along]
    return [
        np.hypot(part + generator.normal(0, noise, part.shape), generator.normal(0, noise, part.shape))
        for part in clean
    ]


def check(b0, shell):
    return usable_volumes(b0.astype(np.float32), shell.astype(np.float32), B0[: len(b0)], SHELL[: len(shell)])


def refuse(b0, shell, match):
    with pytest.raises(SignalError, match=match) as error:
        check(b0, shell)
    assert "expected" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("noise", [0.0, 8.0, 100.0])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.7, 0.8])
def test_a_good_scan_is_used_whole(noise, ratio):
    use_b0, use_shell, notes = check(*scan(noise=noise, ratio=ratio))
    assert (use_b0.all(), use_shell.all(), notes) == (True, True, [])


def test_the_unit_of_the_signal_does_not_matter():
    b0, shell = scan()
    shell[4] = 0
    for unit in (1e-6, 1e5):
        assert check(b0 * unit, shell * unit)[2] == ["volume 5 left out: no signal"]


def test_a_scan_that_was_stopped_early_loses_its_last_volumes():
    b0, shell = scan()
    shell[17:], b0[2] = 0, 0
    use_b0, use_shell, notes = check(b0, shell)
    assert use_b0.tolist() == [True, True, False]
    assert use_shell.tolist() == [True] * 17 + [False] * 6
    # shell volumes from index 17 on are 19 to 24, and the last b0 is 25
    assert notes == ["volumes 19 to 25 left out: no signal"]


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_half_a_shell_without_signal_is_left_out(value):
    b0, shell = scan()
    shell[::2] = value
    use_b0, use_shell, notes = check(b0, shell)
    assert use_b0.all()
    np.testing.assert_array_equal(use_shell, np.arange(23) % 2 == 1)
    (note,) = notes
    assert note.startswith("volumes 1, 3, 5, 7, 10, 12")
    assert note.endswith("left out: no signal")


@pytest.mark.parametrize(("brightness", "used"), [(0.05, False), (0.15, False), (0.3, True)])
def test_a_faint_volume_is_left_out(brightness, used):
    b0, shell = scan(noise=2.0, spread=0.0)
    shell[4] *= brightness
    use_b0, use_shell, notes = check(b0, shell)
    assert use_b0.all()
    assert use_shell.tolist() == [index != 4 or used for index in range(23)]
    assert notes == ([] if used else ["volume 5 left out: hardly a signal, or empty or dark slices"])


@pytest.mark.parametrize("slices", [[5], [4, 5, 6]])
def test_volumes_with_empty_slices_of_the_head_are_left_out_of_shell_and_b0_alike(slices):
    b0, shell = scan()
    shell[4][:, :, slices], shell[11][:, :, slices], b0[1][:, :, slices] = 0, 0, 0
    use_b0, use_shell, notes = check(b0, shell)
    assert use_b0.tolist() == [True, False, True]
    assert np.flatnonzero(~use_shell).tolist() == [4, 11]
    assert notes == ["volumes 5, 9, 13 left out: hardly a signal, or empty or dark slices"]


def test_slices_inside_the_head_that_no_volume_has_are_missed():
    """Every other slice, as where half of the files of an interleaved scan were lost."""
    b0, shell = scan()
    b0[..., 1::2], shell[..., 1::2] = 0, 0
    refuse(b0, shell, "found no b0 volume without empty slices, expected one")


def test_slices_that_are_empty_in_all_volumes_at_an_end_or_above_the_head_are_not_missed():
    b0, shell = scan()
    shell[4][:, :, 0] = 0
    assert check(b0, shell)[2] == []
    b0[..., 8:], shell[..., 8:] = 0, 0
    use_b0, use_shell, notes = check(b0, shell)
    assert (use_b0.all(), use_shell.all(), notes) == (True, True, [])


def test_a_scan_of_which_each_b0_has_another_empty_slice_is_refused():
    b0, shell = scan()
    for index, volume in enumerate(b0):
        volume[:, :, 4 + index] = 0
    refuse(b0, shell, "found no b0 volume without empty slices, expected one")


def test_a_direction_that_is_exchanged_with_a_b0_is_left_out_and_so_is_the_b0():
    b0, shell = scan()
    b0[1], shell[6] = shell[6].copy(), b0[1].copy()
    use_b0, use_shell, notes = check(b0, shell)
    assert use_b0.tolist() == [True, False, True]
    assert np.flatnonzero(~use_shell).tolist() == [6]
    assert notes == ["volume 9 left out: as bright as a direction", "volume 7 left out: as bright as a b0"]


def test_the_only_b0_exchanged_with_a_direction_is_refused():
    """What stands in the place of the b0 is as dark as the shell."""
    b0, shell = scan(n_b0=1)
    b0[0], shell[6] = shell[6].copy(), b0[0].copy()
    refuse(b0, shell, r"of the b0's brightness.*in the order of the gradient files\?")


@pytest.mark.parametrize("spread", [0.04, 0.1])
@pytest.mark.parametrize("pick", [np.argmin, np.argmax])
def test_the_only_b0_exchanged_with_the_dimmest_or_brightest_direction_is_refused(pick, spread):
    b0, shell = scan(n_b0=1, spread=spread)
    index = pick(shell.mean(axis=(1, 2, 3)))
    b0[0], shell[index] = shell[index].copy(), b0[0].copy()
    with pytest.raises(SignalError):
        check(b0, shell)


@pytest.mark.parametrize("ratio", [1.0, 1.2, 0.97])
def test_a_shell_as_bright_as_the_b0_is_refused(ratio):
    b0, shell = scan(ratio=1.0)
    refuse(b0, np.repeat(b0.mean(axis=0)[None], len(shell), axis=0) * ratio, "found a shell with .*% of the b0's")


@pytest.mark.parametrize("value", [0.0, 300.0, np.nan, np.inf])
def test_a_constant_scan_is_refused(value):
    b0, shell = (np.full_like(part, value) for part in scan())
    refuse(b0, shell, "found no signal in volumes 0 to 25, expected a b0 with one")


@pytest.mark.parametrize("value", [0.0, 300.0])
def test_a_constant_shell_or_b0_is_refused(value):
    b0, shell = scan()
    refuse(b0, np.full_like(shell, value), "found no signal in volumes 1 to 8, 10 to 24, expected a shell with one")
    refuse(np.full_like(b0, value), shell, "found no signal in volumes 0, 9, 25, expected a b0 with one")


def test_a_negative_scan_is_refused():
    b0, shell = scan()
    refuse(-b0, -shell, "expected")
    refuse(b0, -shell, "found a mean signal of .* at b = 0 and -.* in the shell, expected both above 0")


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_refused(seed):
    generator = np.random.default_rng(seed)
    b0, shell = (np.hypot(*generator.normal(0, 8, (2, n, *SHAPE))) for n in (3, 23))
    refuse(b0, shell, "expected")
    # of real parts without their sign, whose mean is further from their median
    refuse(np.abs(generator.normal(0, 24, b0.shape)), np.abs(generator.normal(0, 8, shell.shape)), "noise alone")
    # a head at b = 0, and nothing of it in the shell
    refuse(scan()[0], shell, "found a shell as bright in the head as around it, expected a signal and not noise alone")


def test_a_head_that_fills_the_image_with_no_air_around_is_used():
    """A brain that was cut out: zeros around it."""
    b0, shell = scan()
    inside = b0.mean(axis=0) > 500
    assert check(b0 * inside, shell * inside)[2] == []


def test_single_voxels_that_are_not_finite_are_no_reason():
    b0, shell = scan()
    shell[3, 5, 6, 7], b0[0, 6, 8, 5], shell[8, 2, 2, 2] = np.nan, np.inf, -np.inf
    use_b0, use_shell, notes = check(b0, shell)
    assert (use_b0.all(), use_shell.all(), notes) == (True, True, [])


def test_what_is_left_is_judged_without_what_is_left_out():
    """A b0 without signal does not darken the mean that the shell is compared with."""
    b0, shell = scan(ratio=0.7)
    b0[1] = 0
    assert check(b0, shell)[2] == ["volume 9 left out: no signal"]


HALF_X, SAGITTAL, AXIAL = np.s_[:7], np.s_[6:9], np.s_[:, :, 4:7]


@pytest.mark.parametrize("part", [HALF_X, SAGITTAL, AXIAL], ids=["half", "sagittal", "axial"])
@pytest.mark.parametrize("value", [0.0, 3.0, np.nan, "noise"])
def test_a_volume_that_lost_slices_is_left_out(part, value):
    b0, shell = scan()
    lost = shell[4][part]
    shell[4][part] = np.abs(np.random.default_rng(1).normal(0, 8, lost.shape)) if value == "noise" else value
    b0[1][part] = shell[4][part]
    use_b0, use_shell, notes = check(b0, shell)
    assert np.flatnonzero(~use_b0).tolist() == [1]
    assert np.flatnonzero(~use_shell).tolist() == [4]
    assert notes == ["volumes 5, 9 left out: hardly a signal, or empty or dark slices"]


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_outer_slice_may_leave_the_head_where_it_moves(shift):
    b0, shell = scan(noise=2.0)
    shell[4] = np.roll(shell[4], shift, axis=2)
    assert check(b0, shell)[2] == []


@pytest.mark.parametrize("move", [-9, -1, 1, 9])
def test_volumes_that_all_stand_a_number_of_places_off_are_refused(move):
    b0, shell = scan()
    volumes = np.empty((26, *SHAPE))
    volumes[B0], volumes[SHELL] = b0, shell
    moved = np.roll(volumes, -move, axis=0)
    refuse(moved[B0], moved[SHELL], f"only if these are moved by {move}, ")


def test_a_move_that_does_not_explain_all_volumes_is_none():
    b0, shell = scan()
    # of two volumes that changed places, one is the first b0 and the other no neighbour of another b0
    b0[0], shell[3] = shell[3].copy(), b0[0].copy()
    use_b0, use_shell, notes = check(b0, shell)
    assert (np.flatnonzero(~use_b0).tolist(), np.flatnonzero(~use_shell).tolist()) == ([0], [3])
    assert len(notes) == 2
