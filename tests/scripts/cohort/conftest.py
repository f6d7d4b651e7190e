"""Raw and prepared cohorts that the tests of this folder share."""

import shutil

import pytest
from cohort_files import GOOD, VOXEL_SIZE

from scripts.cohort.prepare import prepare_cohort


@pytest.fixture(scope="session")
def prepare(scheme):
    """Prepare on the small scheme and the large voxels of these tests."""

    def call(root, out, layout="bids", **options):
        return prepare_cohort(layout, root, out, **{"scheme": scheme, "voxel_size": VOXEL_SIZE, **options})

    return call


@pytest.fixture(scope="session")
def raw(tmp_path_factory, heads):
    """Three good participants, one of them oblique, and three that cannot be used."""
    root = tmp_path_factory.mktemp("raw")
    scans = heads.write_bids(root, [*GOOD, "sub-04", "sub-05"])
    scans |= heads.write_bids(root, ["sub-02"], orientation="oblique")
    scans |= heads.write_bids(root, ["sub-06"], gradients=heads.table((0, 1), (3000, 16)))
    content = scans["sub-04"].dwi.read_bytes()
    scans["sub-04"].dwi.write_bytes(content[: len(content) // 2])
    scans["sub-05"].bvec.write_text("1 0 0\n0 1 0\n0 0 1\n")
    for subject in GOOD[:2]:
        scans[subject].dwi.with_name(f"{subject}_dwi.json").write_text('{"PhaseEncodingDirection": "j-"}')
    return root, scans


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory, prepare):
    out = tmp_path_factory.mktemp("prepared") / "cohort"
    return out, prepare(raw[0], out)


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the prepared cohort, to be changed."""
    return shutil.copytree(prepared[0], tmp_path / "copy")


@pytest.fixture(scope="session")
def hcp(tmp_path_factory, heads, prepare):
    """An HCP-like cohort of two, with given masks that are smaller than the head."""
    folder = tmp_path_factory.mktemp("hcp")
    shells = heads.table((5, 1), (1000, 16), (5, 1), (3000, 8))
    scans = heads.write_hcp(folder / "raw", ["100206", "100307"], gradients=shells, orientation="LAS")
    for scan in scans.values():
        heads.write_mask(scan.mask, scan.affine, scale=0.7)
    return folder / "raw", folder / "out", prepare(folder / "raw", folder / "out", "hcp")
