"""Labels: a segmentation's tissues come to stand at their places in the world, on the grid of the prepared scan."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine

from scripts.cohort.datalist import DATALIST, SPLITS, load_entries
from scripts.cohort.prepare import prepare_cohort
from scripts.cohort.prepared import KEYS_ON_DISK
from scripts.io.bids import LABEL_SUFFIXES
from scripts.io.files import read_json
from scripts.io.raw_scan import open_scan
from scripts.io.volume import read_volume
from scripts.labels import label_cohort, label_scan, tissue_sources
from scripts.labels.alignment import Alignment
from scripts.labels.shell_on_grid import load_shell
from scripts.labels.t1_tissue import read_t1, tissue_from_t1
from transforms.errors import InputError

SUBJECTS = ("sub-01", "sub-02", "sub-03")
CENTRE = np.array([2.0, -5.0, 3.0])
VOXEL_SIZE = 3.0
GRAY, WHITE, FLUID = 1, 2, 3
FILES = {KEYS_ON_DISK[key]: suffix for key, suffix in LABEL_SUFFIXES.items()}
"""End of the name of each label's file, by its key in the datalist."""


def grid(size: float, flip: bool = True, shift: float = 0.0) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine and shape of a segmentation that covers the head: LAS, or RAS where ``flip`` is False."""
    shape = tuple(int(np.ceil(length / size)) for length in (70.0, 80.0, 62.0))
    affine = np.diag([-size if flip else size, size, size, 1.0])
    affine[:3, 3] = CENTRE + np.array([shift, 0, 0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def place(world: np.ndarray) -> np.ndarray:
    """Fluid on the left; on the right gray matter in front and above, white matter elsewhere."""
    right, front, above = np.moveaxis(world > CENTRE, -1, 0)
    return np.where(~right, FLUID, np.where(front & above, GRAY, WHITE))


def write(path, affine, labels, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels.astype(dtype), affine), path)
    return path


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


def path_of(derivatives, subject, ending="desc-tissue_dseg"):
    return derivatives / subject / "dwi" / f"{subject}_{ending}.nii.gz"


def entries(cohort):
    datalist = read_json(cohort / DATALIST)
    return {entry["scan"]: entry for split in SPLITS for entry in datalist[split]}


@pytest.mark.parametrize(("size", "flip"), [(3.0, True), (1.7, True), (4.0, False), (5.0, True)])
def test_tissues_come_to_their_places_in_the_world(cohort, heads, tmp_path, size, flip):
    affine, shape = grid(size, flip)
    source = write(path_of(tmp_path / "truth", "sub-01"), affine, place(heads.world_grid(affine, shape)))
    outcomes = label_cohort(cohort, tmp_path / "truth")
    assert [outcome.failure is None for outcome in outcomes] == [str(outcome.item) == "sub-01" for outcome in outcomes]
    entry = entries(cohort)["sub-01"]
    assert entry["tissue"] == "sub-01/dwi/sub-01_desc-tissue_dseg.nii.gz"
    tissue, mask = (nib.load(cohort / entry[key]) for key in ("tissue", "mask"))
    np.testing.assert_array_equal(tissue.affine, mask.affine)
    assert nib.aff2axcodes(tissue.affine) == ("R", "A", "S")
    found, inside = np.asarray(tissue.dataobj), np.asarray(mask.dataobj) > 0
    assert found.dtype == np.uint8
    world = heads.world_grid(tissue.affine, tissue.shape)
    # half a voxel of either grid from a border, a label can be either
    clear = np.abs(world - CENTRE).min(axis=-1) > (size + VOXEL_SIZE) / 2
    for label in (GRAY, WHITE, FLUID):
        assert (inside & clear & (place(world) == label)).sum() > 20
    np.testing.assert_array_equal(found[inside & clear], place(world)[inside & clear])
    assert (found[~inside] == 0).all()
    assert (found[inside] > 0).all()
    sidecar = json.loads((cohort / "sub-01/dwi/sub-01_desc-tissue_dseg.json").read_text())
    assert sidecar["SourceChecksums"][source.name] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert sidecar["Route"] == "derivatives"
    assert sidecar["LabelMap"] == {"BG": 0, "GM": 1, "WM": 2, "CSF": 3}


def test_on_a_coarser_grid_the_largest_fraction_decides(cohort, tmp_path):
    """Stripes of a fifth fluid and the rest white matter are white matter everywhere; the nearest label is not."""
    affine, shape = grid(1.0)
    stripes = np.full(shape, WHITE)
    stripes[::5] = FLUID
    write(path_of(tmp_path / "truth", "sub-01"), affine, stripes)
    label_cohort(cohort, tmp_path / "truth")
    entry = entries(cohort)["sub-01"]
    found = np.asarray(nib.load(cohort / entry["tissue"]).dataobj)
    inside = np.asarray(nib.load(cohort / entry["mask"]).dataobj) > 0
    assert set(np.unique(found[inside])) == {WHITE}


def test_what_cannot_be_labelled_is_reported_and_keeps_what_it_had(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    first = tmp_path / "first"
    for subject in SUBJECTS:
        write(path_of(first, subject), affine, good)
    assert not any(outcome.failure for outcome in label_cohort(cohort, first))
    before, datalist = entries(cohort), read_json(cohort / DATALIST)
    kept = {name: (cohort / entry["tissue"]).read_bytes() for name, entry in before.items()}

    second = tmp_path / "second"
    write(path_of(second, "sub-01"), affine, np.where(good == FLUID, 4, good))
    shifted, _ = grid(4.0, shift=45.0)
    misplaced = write(path_of(second, "sub-02"), shifted, good)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, second)}
    assert "found the labels 1, 2, 4, expected 0 (background), 1 (gray matter)" in failures["sub-01"]
    assert str(misplaced) in failures["sub-02"]
    assert "of the brain, expected at least half; is it aligned?" in failures["sub-02"]
    assert failures["sub-03"].startswith(f"{second / 'sub-03'}: found none, expected one file sub-03_desc-tissue_dseg")
    assert entries(cohort) == before
    assert read_json(cohort / DATALIST) == datalist
    assert {name: (cohort / entry["tissue"]).read_bytes() for name, entry in entries(cohort).items()} == kept


@pytest.mark.parametrize("value", [-1, 0.5, 9])
def test_values_that_are_no_index_of_a_tissue_are_refused(cohort, heads, tmp_path, value):
    affine, shape = grid(4.0)
    labels = place(heads.world_grid(affine, shape)).astype(np.float32)
    labels[0, 0, 0] = value
    write(path_of(tmp_path / "truth", "sub-01"), affine, labels, np.float32)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, tmp_path / "truth")}
    assert f"found the labels {'-1, ' if value == -1 else ''}" in failures["sub-01"]
    assert "tissue" not in entries(cohort)["sub-01"]


def test_one_scan_gains_labels_and_the_others_and_the_split_stay(cohort, heads, tmp_path):
    before = read_json(cohort / DATALIST)
    affine, shape = grid(4.0)
    write(path_of(tmp_path / "truth", "sub-02"), affine, place(heads.world_grid(affine, shape)))
    label_cohort(cohort, tmp_path / "truth")
    after = read_json(cohort / DATALIST)
    for split in SPLITS:
        for old, new in zip(before[split], after[split], strict=True):
            stem = f"{old['scan']}/dwi/{old['scan']}"
            added = {key: f"{stem}_{end}.nii.gz" for key, end in FILES.items()}
            assert new == (old | added if old["scan"] == "sub-02" else old)
    assert after["checksum"] != before["checksum"]
    (split,) = [name for name in SPLITS if after[name][0]["scan"] == "sub-02"]
    assert load_entries(str(cohort), split, ["tissue"])[0]["tissue"] == str(cohort / after[split][0]["tissue"])
    rows = (cohort / "desc-tissue_dseg.tsv").read_text().splitlines()
    assert [row.split("\t")[0::2] for row in rows[1:]] == [["0", "BG"], ["1", "GM"], ["2", "WM"], ["3", "CSF"]]


def test_a_tissue_segmentation_is_preferred_to_another_and_two_are_refused(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    truth = tmp_path / "truth"
    for subject in SUBJECTS:
        write(path_of(truth, subject, "desc-aseg_dseg"), affine, np.full(shape, WHITE))
    write(path_of(truth, "sub-01"), affine, good)
    write(path_of(truth, "sub-03", "desc-lesion_dseg"), affine, good)
    failures = {str(outcome.item): outcome.failure for outcome in label_cohort(cohort, truth)}
    assert failures["sub-01"] is None
    assert failures["sub-02"] is None
    assert "found sub-03_desc-aseg_dseg.nii.gz, sub-03_desc-lesion_dseg.nii.gz, expected one file" in failures["sub-03"]
    assert GRAY in np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)


def test_folders_that_are_not_there_are_named(cohort, tmp_path):
    with pytest.raises(InputError, match="missing: no such folder, expected BIDS derivatives"):
        label_cohort(cohort, tmp_path / "missing")
    with pytest.raises(InputError, match=r"found no datalist\.json"):
        label_cohort(tmp_path, tmp_path)


def record(cohort, scan="sub-01"):
    return json.loads((cohort / f"{scan}/dwi/{scan}_desc-labels.json").read_text())


def failure_of(outcomes, scan="sub-01"):
    return {str(outcome.item): outcome.failure for outcome in outcomes}[scan]


def test_white_matter_that_is_none_by_the_diffusion_is_refused_and_doubt_is_noted(cohort, heads, tmp_path, capfd):
    affine, shape = grid(4.0)
    good = place(heads.world_grid(affine, shape))
    swapped = np.select([good == GRAY, good == WHITE], [WHITE, GRAY], good)
    path = write(path_of(tmp_path / "truth", "sub-01"), affine, swapped)
    failure = failure_of(label_cohort(cohort, tmp_path / "truth"))
    assert failure.startswith(f"{path}: found that its white matter overlaps the diffusion tensor's with a Dice of 0.")
    assert failure.endswith("expected at least 0.4; is it aligned, are its labels 1 (GM), 2 (WM), 3 (CSF)?")
    assert "tissue" not in entries(cohort)["sub-01"]
    # here all of the brain is anisotropic, white matter by the segmentation is not
    write(path, affine, good)
    capfd.readouterr()
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    (note,) = record(cohort)["Notes"]
    assert re.fullmatch(
        r"white matter overlaps .* Dice of 0\.4\d, expected 0\.6 or more: are the tissues aligned\?", note
    )
    assert note in (cohort / "labels.tsv").read_text()
    assert f"sub-01: {note}" in capfd.readouterr().err


def with_t1(cohort, scheme, voxels, affine):
    """Give the first participant a T1."""
    path = write(cohort.parent / "raw/sub-01/anat/sub-01_T1w.nii.gz", affine, voxels, np.float32)
    prepare_cohort("bids", cohort.parent / "raw", cohort, scheme, voxel_size=VOXEL_SIZE)
    return path


BAD_T1S = {
    "damaged": (lambda t1: t1, "found a damaged file ("),
    "blank": (lambda t1: 0 * t1, "found no voxel above 0, expected a T1-weighted image of a head"),
    "slice": (lambda t1: t1[:, :, 7:8], "found an image of 72x80x4 mm, expected at least 40 mm along each axis"),
    "two volumes": (
        lambda t1: np.stack([t1, t1], axis=-1),
        "found an image of shape 18x20x16x2, expected 3 dimensions",
    ),
}


@pytest.mark.parametrize("case", BAD_T1S)
def test_a_t1_that_cannot_be_used_costs_the_tissues_and_not_the_fibres(cohort, heads, scheme, tmp_path, case, capfd):
    change, fault = BAD_T1S[case]
    affine, shape = grid(4.0)
    head = np.random.default_rng(0).uniform(50, 90, shape) * heads.in_head(heads.world_grid(affine, shape))
    t1 = with_t1(cohort, scheme, change(head), affine)
    if case == "damaged":
        t1.write_bytes(t1.read_bytes()[:-1000])
    assert failure_of(label_cohort(cohort)) is None
    (note,) = record(cohort)["Notes"]
    assert note.startswith(f"T1 not used: {t1}: {fault}")
    assert not note.endswith(".")
    assert f"sub-01: T1 not used: {t1}" in capfd.readouterr().err
    assert record(cohort)["Route"] == "FA and MD"
    entry = entries(cohort)["sub-01"]
    assert "tissue" not in entry
    assert (np.asarray(nib.load(cohort / entry["n_peaks"]).dataobj) > 0).sum() > 100
    # what cannot be read does not become the space of a segmentation
    given = write(tmp_path / "truth/sub-01/anat/sub-01_dseg.nii.gz", affine, place(heads.world_grid(affine, shape)))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")).startswith(f"{t1}: {fault}"), given


def test_a_t1_with_a_fourth_axis_of_one_volume_is_the_same_t1(tmp_path):
    voxels = np.random.default_rng(0).uniform(1, 2, (12, 14, 16)).astype(np.float32)
    affine = np.diag([-5.0, 5.0, 5.0, 1.0])
    three = read_t1(write(tmp_path / "three.nii.gz", affine, voxels, np.float32))
    four = read_t1(write(tmp_path / "four.nii.gz", affine, voxels[..., None], np.float32))
    assert three.shape == four.shape == (1, 12, 14, 16)
    np.testing.assert_array_equal(three, four)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning:dipy")
@pytest.mark.parametrize(("inside", "outside", "fault"), [(100, 100, "no voxel of GM and WM"), (0, 100, "no brain")])
def test_a_t1_without_three_tissues_is_refused(heads, inside, outside, fault):
    affine, shape = grid(4.0)
    head = heads.in_head(heads.world_grid(affine, shape), scale=0.9)
    brain, t1 = (
        MetaTensor(torch.from_numpy(voxels)[None].float(), affine=torch.as_tensor(affine))
        for voxels in (head, np.where(head, inside, outside))
    )
    with pytest.raises(InputError, match=f"^found {fault}, expected"):
        tissue_from_t1(t1, brain)


@pytest.mark.parametrize("voxel_size", [3.0, 3.6])
def test_a_voxel_whose_signal_is_not_finite_costs_no_other(heads, scheme, tmp_path, voxel_size):
    cubes = [np.s_[10:12, 12:14, 9:11], np.s_[6:8, 15:17, 8:10]]
    found = {}
    for name in ("whole", "holes"):
        raw = heads.write_bids(tmp_path / name / "raw", ["sub-01"], dtype=np.float32)["sub-01"]
        if name == "holes":
            image = nib.load(raw.dwi)
            signal = np.array(image.dataobj)
            signal[(*cubes[0], 5)], signal[(*cubes[1], 0)] = np.nan, np.inf
            nib.save(nib.Nifti1Image(signal, image.affine), raw.dwi)
        out = tmp_path / name / "out"
        mask = heads.write_mask(tmp_path / name / "masks/sub-01/dwi/sub-01_desc-brain_mask.nii.gz", raw.affine)
        heads.describe(tmp_path / name / "masks", "derivative")
        prepare_cohort("bids", tmp_path / name / "raw", out, scheme, 1000.0, voxel_size, derivatives=mask.parents[2])
        (outcome,) = label_cohort(out)
        assert outcome.failure is None
        found[name] = {key: nib.load(out / path) for key, path in outcome.result.scan.entry.items() if key in FILES}
        found[name]["notes"] = record(out)["Notes"]
    affine = found["whole"]["white_matter"].affine
    assert found["whole"]["notes"] == []
    (note,) = found["holes"]["notes"]
    assert re.fullmatch(r"\d+ voxels of the brain left out: their signal is not finite", note)
    voxels = np.stack(np.meshgrid(*map(np.arange, found["whole"]["white_matter"].shape), indexing="ij"), axis=-1)
    world = apply_affine(affine, voxels)
    centres = [apply_affine(raw.affine, [(part.start + part.stop - 1) / 2 for part in cube]) for cube in cubes]
    away = np.min([np.linalg.norm(world - centre, axis=-1) for centre in centres], axis=0)
    near, far = away < 2.7, away > 10
    for key in ("white_matter", "n_peaks"):
        whole, holes = (np.asarray(found[name][key].dataobj) for name in ("whole", "holes"))
        assert (whole[near] > 0).any()
        assert (holes[near] == 0).all()
        # the response of fibres is an average that changes a little
        assert (whole == holes)[far & (whole > 0)].mean() > 0.99


def test_a_scan_without_a_finite_voxel_is_left_out(cohort, heads):
    path = cohort.parent / "raw/sub-01/dwi/sub-01_dwi.nii.gz"
    image = nib.load(path)
    signal = np.asarray(image.dataobj, dtype=np.float32)
    # each volume has a signal, and no voxel has one in all of them
    signal[:10, ..., 3], signal[10:, ..., 4] = np.nan, np.inf
    nib.save(nib.Nifti1Image(signal, image.affine), path)
    with pytest.raises(InputError, match=r"sub-01_dwi\.nii\.gz: found no voxel of the brain that is finite"):
        load_shell(open_scan(path), read_volume(cohort / entries(cohort)["sub-01"]["mask"]), VOXEL_SIZE)


def test_another_order_of_volumes_in_the_json_is_noticed(cohort, heads, tmp_path):
    affine, shape = grid(4.0)
    truth = place(heads.world_grid(affine, shape))
    shares = np.stack([truth == index for index in (FLUID, GRAY, WHITE)], axis=-1)
    path = write(path_of(tmp_path / "truth", "sub-01", "probseg"), affine, shares, np.float32)
    sidecar = Path(str(path).replace(".nii.gz", ".json"))
    sidecar.write_text(json.dumps({"LabelMap": ["WM", "GM", "CSF"]}))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    assert str(sidecar) in record(cohort)["Sources"]
    before = np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)
    sidecar.write_text(json.dumps({"LabelMap": ["CSF", "GM", "WM"]}))
    assert failure_of(label_cohort(cohort, tmp_path / "truth")) is None
    after = np.asarray(nib.load(cohort / entries(cohort)["sub-01"]["tissue"]).dataobj)
    assert ((before == WHITE) == (after == FLUID)).all()


def test_labels_that_are_cut_off_leave_no_mixture_of_old_and_new(cohort, heads, tmp_path, monkeypatch):
    affine, shape = grid(4.0)
    truth = place(heads.world_grid(affine, shape))
    path = write(path_of(tmp_path / "truth", "sub-01"), affine, truth)
    label_cohort(cohort, tmp_path / "truth")
    write(path, affine, np.full(shape, WHITE))
    right, written = label_scan.write_nifti, []

    def stop(path, *arguments):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        right(path, *arguments)

    monkeypatch.setattr(label_scan, "write_nifti", stop)
    with pytest.raises(KeyboardInterrupt):
        label_cohort(cohort, tmp_path / "truth")
    assert list(cohort.glob("sub-01/dwi/*_desc-labels.json")) == []
    there = {key for key in FILES if (cohort / entries(cohort)["sub-01"][key]).is_file()}
    assert there == {"tissue"}
    assert written == [cohort / entries(cohort)["sub-01"]["tissue"]]
    # what cannot be labelled then is not listed with what is gone
    monkeypatch.undo()
    path.unlink()
    assert "found none" in failure_of(label_cohort(cohort, tmp_path / "truth"))
    assert set(entries(cohort)["sub-01"]) & set(FILES) == {"tissue"}


def test_a_segmentation_of_all_sessions_without_its_t1_is_noted(heads, scheme, tmp_path, monkeypatch):
    heads.describe(tmp_path / "raw", "raw")
    stem = tmp_path / "raw/sub-01/ses-2"
    heads.write_scan(stem / "dwi/sub-01_ses-2_dwi.nii.gz")
    affine, shape = grid(4.0)
    world = heads.world_grid(affine, shape)
    t1 = write(stem / "anat/sub-01_ses-2_T1w.nii.gz", affine, 100 * heads.in_head(world))
    write(tmp_path / "truth/sub-01/anat/sub-01_dseg.nii.gz", affine, np.full(shape, WHITE))
    prepare_cohort("bids", tmp_path / "raw", tmp_path / "out", scheme, voxel_size=VOXEL_SIZE)
    aligned = Alignment(np.eye(4), shift=0, turn=0, scaling=1, covered=1, dependence=1)
    monkeypatch.setattr(tissue_sources, "register_t1", lambda *images: aligned)

    def notes():
        (outcome,) = label_cohort(tmp_path / "out", tmp_path / "truth")
        assert outcome.failure is None
        return outcome.result.measures["notes"]

    assert notes() == [
        "sub-01_dseg.nii.gz is one of all sessions without its T1 beside it: placed by this session's T1"
    ]
    shutil.copy(t1, tmp_path / "truth/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    assert notes() == []
