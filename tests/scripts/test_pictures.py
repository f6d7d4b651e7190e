"""Slices: what is left, anterior and superior in the subject is where a reader of the picture looks for it."""

import numpy as np
import pytest

from scripts.training.pictures import draw, slices

SHAPE = (12, 16, 10)


@pytest.mark.parametrize("corner", [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
def test_sides_of_the_three_slices(corner):
    """One bright bar through the middle of each view marks a side; 0 is left, posterior, inferior."""
    right, anterior, superior = corner
    ends = [side * (n - 1) for side, n in zip(corner, SHAPE, strict=True)]
    x, y, z = (n // 2 for n in SHAPE)
    volume = np.zeros(SHAPE)
    for place in ((ends[0], ends[1], z), (ends[0], y, ends[2]), (x, ends[1], ends[2])):
        volume[place] = 1
    axial, coronal, sagittal = slices(volume)
    # an image drawn with its origin below has rows upwards and columns to the right
    for image, column, row in ((axial, right, anterior), (coronal, right, superior), (sagittal, anterior, superior)):
        (found,) = np.argwhere(image)
        assert found.tolist() == [row * (image.shape[0] - 1), column * (image.shape[1] - 1)]


def test_the_pictures_are_drawn_as_the_slices_are_meant():
    volume = np.arange(np.prod(SHAPE), dtype=float).reshape(SHAPE)
    figure = draw({"b0": volume, "negative": -volume}, {"b0": {"cmap": "gray"}, "negative": {}})
    assert len(figure.axes) == 6
    views = [("axial", "L", "R"), ("coronal", "L", "R"), ("sagittal", "P", "A")]
    for axis, image, (view, left, right) in zip(figure.axes[:3], slices(volume), views, strict=True):
        (shown,) = axis.images
        np.testing.assert_array_equal(shown.get_array(), image)
        assert shown.origin == "lower"
        assert axis.get_title() == f"b0, {view}"
        letters = {text.get_text(): text.get_position()[0] for text in axis.texts}
        assert letters.keys() == {left, right}
        assert letters[left] < 0.5 < letters[right]
