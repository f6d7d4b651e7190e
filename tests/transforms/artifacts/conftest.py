"""Scans on which artifacts are tested."""

import pytest
from artifact_scans import LINEAR, make_scan


@pytest.fixture(params=list(LINEAR))
def scan(request):
    """Random image and its scan, in each orientation."""
    return make_scan(LINEAR[request.param])
