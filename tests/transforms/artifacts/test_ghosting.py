"""Ghosting: copies of the image, and what full Fourier transforms give."""

import numpy as np
import pytest
import torch
from artifact_scans import assert_uniform, generator

from transforms.artifacts import Ghosting, GhostingParams
from transforms.errors import InputError


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("n", "sign", "restored"), [(16, -1, 0.8 / 16), (18, 1, 0.0)])
def test_two_ghosts_are_one_copy_half_a_field_of_view_away(axis, n, sign, restored):
    position, shape = (3, 5, 4), [12, 12, 12]
    shape[axis] = n
    point, expected = torch.zeros(1, *shape), torch.zeros(1, *shape)
    point[(0, *position)] = 1.0
    result = GhostingParams(num_ghosts=2, axis=axis, intensity=0.8, restore=None).apply(point)
    profile = torch.full((n,), restored)  # the central plane, where it is one of those weakened, spread over the line
    profile[position[axis]] += 0.6
    profile[position[axis] + n // 2] += sign * 0.4
    line = [slice(None) if a == axis else position[a] for a in range(3)]
    expected[(0, *line)] = profile
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("num_ghosts", [2, 3, 5])
@pytest.mark.parametrize("restore", [None, 0.0, 0.05, 0.3, 1.0])
def test_equals_full_fourier_transforms(axis, num_ghosts, restore):
    image = torch.rand(2, 13, 16, 11, generator=generator(3), dtype=torch.float64)
    n = image.shape[1 + axis]
    spectrum = torch.fft.fftshift(torch.fft.fftn(image, dim=(1, 2, 3)), dim=(1, 2, 3)).movedim(1 + axis, 0)
    before, half = spectrum.clone(), round((restore or 0) * n) // 2
    spectrum[::num_ghosts] *= 1 - 0.7
    kept = slice(n // 2 - half, n // 2 + half) if half else slice(n // 2, n // 2 + 1)
    spectrum[kept] = before[kept]
    shifted = torch.fft.ifftshift(spectrum.movedim(0, 1 + axis), dim=(1, 2, 3))
    expected = torch.fft.ifftn(shifted, dim=(1, 2, 3)).real
    result = GhostingParams(num_ghosts, axis, 0.7, restore).apply(image)
    torch.testing.assert_close(result, expected, atol=1e-12, rtol=0)
    # zero frequency is always kept, and with it the sum along the axis
    torch.testing.assert_close(result.sum(1 + axis), image.sum(1 + axis), atol=1e-10, rtol=0)


def test_draws_follow_the_ranges():
    source = generator(17)
    ghosting = Ghosting(num_ghosts=[2, 5], axes=[0, 2], restore=[0.1, 0.3])
    drawn = [ghosting.sample(source, (5, 4, 4, 4)) for _ in range(2000)]
    assert_uniform([p.intensity for p in drawn], 0.5, 1)
    assert_uniform([p.restore for p in drawn], 0.1, 0.3)
    for numbers, values in (([p.num_ghosts for p in drawn], [2, 3, 4, 5]), ([p.axis for p in drawn], [0, 2])):
        found, counts = np.unique(numbers, return_counts=True)
        assert found.tolist() == values
        assert counts.min() > 0.85 * 2000 / len(values)
    assert {Ghosting().sample(source, (5, 4, 4, 4)).num_ghosts for _ in range(50)} == {2}


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_ghosts", [1.5, 2]),
        ("num_ghosts", [-1, 2]),
        ("axes", []),
        ("axes", [0, 3]),
        ("axes", 1),
        ("intensity", [0.5, 1.5]),
        ("restore", 0.3),
    ],
)
def test_unusable_arguments_are_named(argument, value):
    with pytest.raises(InputError, match=f"^{argument}: found .* expected"):
        Ghosting(**{argument: value})
