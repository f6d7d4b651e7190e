"""A prepared cohort of small heads, to be labelled."""

import shutil

import pytest
from label_files import SUBJECTS, VOXEL_SIZE

from scripts.cohort.prepare import prepare_cohort


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, heads, scheme):
    folder = tmp_path_factory.mktemp("cohort")
    heads.write_bids(folder / "raw", SUBJECTS, orientation="LAS")
    prepare_cohort("bids", folder / "raw", folder / "out", scheme, voxel_size=VOXEL_SIZE)
    return folder / "out"


@pytest.fixture
def cohort(prepared, tmp_path):
    # raw and prepared scans are moved together
    return shutil.copytree(prepared.parent, tmp_path / "moved") / prepared.name
