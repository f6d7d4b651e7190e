"""Bundles of the atlas and of two subjects, and the white matter of the template."""

import numpy as np
import pytest
from phantom_fibres import WhiteMatter

from scripts.phantom.bundles import Bundle, atlas_bundles, sample_bundles


@pytest.fixture(scope="session")
def atlas() -> list[Bundle]:
    return atlas_bundles()


@pytest.fixture(scope="session")
def subjects() -> list[list[Bundle]]:
    return [sample_bundles(np.random.default_rng(seed)) for seed in (1, 2)]


@pytest.fixture(scope="session")
def white() -> WhiteMatter:
    return WhiteMatter()
