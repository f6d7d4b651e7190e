"""Pictures of the tasks: what a row of them shows is what its title says, in white matter only."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from scripts.training.pictures import NUFO_COLOURS, crossings, direction, direction_colours, slices

SHAPE = (12, 16, 10)


@pytest.fixture(scope="module")
def white_matter():
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) > 0.5


@pytest.fixture(scope="module")
def image():
    return torch.rand((6, *SHAPE), generator=torch.Generator().manual_seed(1))


def shown(figure):
    """What is drawn, by title."""
    return {axis.get_title(): axis.images[0] for axis in figure.axes if axis.get_title()}


def test_counts_are_drawn_in_white_matter(white_matter, image):
    generator = torch.Generator().manual_seed(2)
    count = torch.randint(0, 4, SHAPE, generator=generator)
    scores = torch.rand((4, *SHAPE), generator=generator)
    label = torch.where(white_matter, count.float(), torch.nan)[None]
    found = shown(crossings({"image": image, "label": label, "pred": scores}))
    for title, volume in (("true NuFO", count), ("predicted NuFO", scores.argmax(dim=0))):
        expected = slices(torch.where(white_matter, volume, -1).numpy())
        for view, plane in zip(("axial", "coronal", "sagittal"), expected, strict=True):
            np.testing.assert_array_equal(found[f"{title}, {view}"].get_array(), plane)
    drawn = found["true NuFO, axial"]
    for number, name in ((-1, "black"), (0, "dimgray"), (1, "tab:blue"), (2, "tab:orange"), (3, "gold")):
        assert drawn.to_rgba(number)[:3] == pytest.approx(to_rgb(name)), number
    assert NUFO_COLOURS.N == 5


def test_axes_are_red_to_the_side_green_to_the_front_and_blue_upwards():
    axes = torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, -1], [0, 0.6, -0.8]]).T.reshape(3, 4, 1, 1)
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.6, 0.8]]
    np.testing.assert_allclose(direction_colours(axes.numpy())[:, 0, 0], expected, rtol=1e-6)


def test_directions_and_their_angle_are_drawn_in_white_matter(white_matter, image):
    generator = torch.Generator().manual_seed(3)
    true, predicted = (
        torch.nn.functional.normalize(torch.randn((3, *SHAPE), generator=generator), dim=0) for _ in "ab"
    )
    label = torch.where(white_matter, true, torch.nan)
    found = shown(direction({"image": image, "label": label, "pred": predicted}))
    for title, axes in (("true direction", true), ("predicted direction", predicted)):
        colours = torch.where(white_matter, axes.abs(), 0).movedim(0, -1).numpy()
        for view, plane in zip(("axial", "coronal", "sagittal"), slices(colours), strict=True):
            np.testing.assert_allclose(found[f"{title}, {view}"].get_array(), plane, rtol=1e-6)
    degrees = torch.rad2deg(torch.arccos((true * predicted).sum(dim=0).abs()))
    expected = slices(torch.where(white_matter, degrees, torch.nan).numpy())
    drawn = found["error in degrees, axial"]
    np.testing.assert_allclose(drawn.get_array().filled(np.nan), expected[0], atol=0.05)
    assert drawn.get_clim() == (0, 90)
