"""A tiny raw scan and a tiny prepared cohort, made once."""

import pytest

from scripts.default_cohort import make_cohort


@pytest.fixture(scope="session")
def tiny_clinical(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinical")
    make_cohort("clinical", 3, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def tiny_cohort(tiny_clinical):
    return tiny_clinical / "prepared"


@pytest.fixture(scope="session")
def tiny_scan(tiny_clinical):
    return tiny_clinical / "raw" / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
