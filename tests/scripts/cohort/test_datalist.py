"""Splits are by participant, seeded, and stay; a datalist that breaks this is refused."""

import json
import random
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from scripts.cohort.datalist import (
    DATALIST,
    SPLITS,
    assign_splits,
    check_splits,
    cohort_checksum,
    describe_input,
    load_entries,
    read_assigned,
    read_cohort,
    write_datalist,
)
from scripts.cohort.prepared import PreparedScan
from scripts.io.bids import DESCRIPTION
from scripts.io.files import read_json, write_json
from transforms.errors import InputError


def _scan(participant, checksum, name=None, folder=Path(), **images):
    name = name or participant
    files = {"image": f"{name}.nii.gz", "b0": f"{name}_b0.nii.gz", "mask": f"{name}_mask.nii.gz", **images}
    return PreparedScan(folder, {"participant": participant, "scan": name, "checksum": checksum, **files})


def test_one_scan_or_participant_in_two_splits_is_refused():
    same_scan = {"training": [_scan("sub-01", "a")], "test": [_scan("sub-02", "a")]}
    with pytest.raises(InputError, match=r"same scan in two splits \(sub-01 in training, sub-02 in test\)"):
        check_splits(same_scan)
    same_person = {
        "validation": [_scan("sub-01", "a", "sub-01_ses-1")],
        "test": [_scan("sub-01", "b", "sub-01_ses-2")],
    }
    with pytest.raises(InputError, match=r"same participant.*sub-01_ses-1 in validation, sub-01_ses-2 in test"):
        check_splits(same_person)
    two_sessions = [_scan("sub-01", "a", "sub-01_ses-1"), _scan("sub-01", "b", "sub-01_ses-2")]
    check_splits({"training": two_sessions, "validation": [_scan("sub-02", "c")], "test": []})


AFFINE = np.array([[2.4, 0, 0, -7], [0, 2.4, 0, 5], [0, 0, 2.4, 3], [0, 0, 0, 1]])


def write_image(path, shape=(3, 4, 5), affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.ones(shape, dtype=np.uint8), affine).to_filename(path)


@pytest.fixture
def cohort(tmp_path):
    """Three participants, of whom the first has two sessions; test is empty."""
    scans = [
        _scan(name[:6], str(index), name, tmp_path)
        for index, name in enumerate(["sub-01_ses-1", "sub-01_ses-2", "sub-02", "sub-03"])
    ]
    for scan in scans:
        for key, shape in (("image", (3, 4, 5, 2)), ("b0", (3, 4, 5)), ("mask", (3, 4, 5))):
            write_image(scan.path(key), shape)
    splits = {"sub-01": "training", "sub-02": "validation", "sub-03": "training"}
    write_datalist(tmp_path, scans, splits)
    return tmp_path


def test_sessions_of_a_participant_stay_together(cohort):
    scans = {split: [scan.name for scan in listed] for split, listed in read_cohort(cohort).items()}
    assert scans == {"training": ["sub-01_ses-1", "sub-01_ses-2", "sub-03"], "validation": ["sub-02"], "test": []}


def test_entries_have_absolute_paths_of_the_asked_images(cohort):
    entries = load_entries(str(cohort), "training", ["mask"])
    assert [entry["scan"] for entry in entries] == ["sub-01_ses-1", "sub-01_ses-2", "sub-03"]
    assert entries[0] == {
        "scan": "sub-01_ses-1",
        "participant": "sub-01",
        "mask": str(cohort / "sub-01_ses-1_mask.nii.gz"),
    }


@pytest.mark.parametrize(("participants", "scans"), [(1, 2), (2, 3), (None, 3)])
def test_few_participants_come_with_all_of_their_scans(cohort, participants, scans):
    entries = load_entries(str(cohort), "training", ["mask"], participants=participants)
    assert [entry["scan"] for entry in entries] == ["sub-01_ses-1", "sub-01_ses-2", "sub-03"][:scans]


@pytest.mark.parametrize("participants", [0, 3])
def test_participants_that_are_not_there_are_said(cohort, participants):
    with pytest.raises(InputError, match=rf"training: found 2 participants, expected {participants} as asked for"):
        load_entries(str(cohort), "training", ["mask"], participants=participants)


def test_the_checksum_follows_scans_splits_preparation_and_labels_but_not_the_order(cohort):
    def checksum(scans, splits):
        write_datalist(cohort, scans, splits)
        return read_json(cohort / DATALIST)["checksum"]

    def changed(scan, **values):
        return PreparedScan(cohort, {**scan.entry, **values})

    before = read_json(cohort / DATALIST)["checksum"]
    listed = read_cohort(cohort)
    first, *others = [scan for split in SPLITS for scan in listed[split]]
    scans = [first, *others]
    splits = {scan.participant: split for split in SPLITS for scan in listed[split]}
    (cohort / "tissue.nii.gz").write_bytes(b"labels")
    labelled = [changed(first, tissue="tissue.nii.gz"), *others]
    known = [
        checksum(scans, splits),
        checksum([changed(first, checksum="new"), *others], splits),
        checksum(scans, {**splits, "sub-03": "test"}),
        checksum(labelled, splits),
    ]
    assert known[0] == before == checksum(scans[::-1], splits)
    (cohort / "tissue.nii.gz").write_bytes(b"others")
    known.append(checksum(labelled, splits))
    (cohort / "dataset_description.json").write_text('{"Preparation": {"voxel_size": 3}}')
    known.append(checksum(scans, splits))
    assert len(set(known)) == len(known)


def test_the_checksum_of_an_edited_cohort_is_that_of_what_is_used(cohort, caplog):
    """A training that goes on, and tracking, go by it: the checksum that stands in the list is of before."""

    def edit(change):
        datalist = json.loads((cohort / DATALIST).read_text())
        change(datalist)
        (cohort / DATALIST).write_text(json.dumps(datalist))

    stated = read_json(cohort / DATALIST)["checksum"]
    edit(lambda datalist: datalist["training"].reverse())
    assert cohort_checksum(str(cohort)) == stated
    assert caplog.messages == []
    edit(lambda datalist: datalist["test"].append(datalist["training"].pop(0)))
    moved = cohort_checksum(str(cohort))
    assert moved != stated
    (message,) = caplog.messages
    assert message.startswith(f"{cohort / DATALIST}: the lists, masks or labels were edited after")
    assert message.endswith(f"{moved} now")
    write_image(cohort / "sub-02_mask.nii.gz", (5, 4, 3))
    assert cohort_checksum(str(cohort)) not in (moved, stated)
    # once the cohort is written again, the two are one
    listed = read_cohort(cohort)
    scans = [scan for split in SPLITS for scan in listed[split]]
    write_datalist(cohort, scans, {scan.participant: split for split in SPLITS for scan in listed[split]})
    assert cohort_checksum(str(cohort)) == read_json(cohort / DATALIST)["checksum"]
    assert cohort_checksum(str(cohort / "nowhere")) == ""


@pytest.mark.parametrize("split", ["training", "validation"])
def test_an_image_that_is_listed_twice_is_refused(cohort, split):
    """An entry that was copied, whether its other fields were changed or not."""
    datalist = json.loads((cohort / DATALIST).read_text())
    copied = datalist["training"][0] | {"scan": "sub-09", "participant": "sub-09", "checksum": "9"}
    datalist[split].append(copied if split == "validation" else datalist["training"][0])
    (cohort / DATALIST).write_text(json.dumps(datalist))
    other = "sub-09" if split == "validation" else "sub-01_ses-1"
    image = cohort / "sub-01_ses-1.nii.gz"
    with pytest.raises(InputError, match=rf"^{image}: found it listed for sub-01_ses-1 and for {other}, expected once"):
        load_entries(str(cohort), "training")


def test_a_list_that_was_edited_into_an_overlap_is_refused(cohort):
    datalist = json.loads((cohort / DATALIST).read_text())
    datalist["test"] = datalist["training"][:1]
    (cohort / DATALIST).write_text(json.dumps(datalist))
    with pytest.raises(InputError, match="in two splits"):
        read_cohort(cohort)
    with pytest.raises(InputError, match=r".*in two splits"):
        load_entries(str(cohort), "training")


def test_a_cohort_that_cannot_be_used_is_refused_with_a_sentence(cohort, tmp_path_factory):
    with pytest.raises(InputError, match=r".*found no datalist\.json.*scripts prepare"):
        load_entries(str(tmp_path_factory.mktemp("none")), "training")
    with pytest.raises(InputError, match=r".*found no datalist\.json"):
        load_entries(str(cohort / "missing"), "training")
    with pytest.raises(InputError, match=r".*found no scan in test"):
        load_entries(str(cohort), "test")
    with pytest.raises(InputError, match=r".*found no scan in training with image and tissue.*scripts label"):
        load_entries(str(cohort), "training", ["image", "tissue"])
    (cohort / "sub-02.nii.gz").unlink()
    with pytest.raises(InputError, match=r".*sub-02\.nii\.gz: no such file"):
        load_entries(str(cohort), "validation")
    assert len(load_entries(str(cohort), "training")) == 3


def test_scans_without_labels_are_left_out_with_a_warning(cohort, caplog):
    datalist = json.loads((cohort / DATALIST).read_text())
    datalist["training"][2]["tissue"] = "sub-03_tissue.nii.gz"
    write_image(cohort / "sub-03_tissue.nii.gz")
    (cohort / DATALIST).write_text(json.dumps(datalist))
    (found,) = load_entries(str(cohort), "training", ["tissue"])
    assert found["scan"] == "sub-03"
    assert "sub-01_ses-1: left out of training, it has no tissue" in caplog.text


# those who are gone for a time


@pytest.mark.parametrize("case", range(40))
def test_who_could_not_be_read_for_a_time_comes_back_to_the_same_split(tmp_path, case):
    """Runs of preparation over a cohort that grows, each with other scans that fail."""
    generator = random.Random(case)
    weights = generator.choice([(15, 5, 8), (45, 5, 0), (1, 1, 1), (98, 1, 1)])
    names = [f"sub-{index:02d}" for index in range(generator.randint(2, 24))]
    first: dict[str, str] = {}
    for run in range(6):
        present = generator.sample(names, generator.randint(1, len(names)))
        splits = assign_splits(present, weights, seed=run, known=read_assigned(tmp_path))
        write_datalist(tmp_path, [_scan(name, name, folder=tmp_path) for name in present], splits)
        listed = {scan.participant: split for split, scans in read_cohort(tmp_path).items() for scan in scans}
        assert listed.keys() == set(present)
        for name, split in listed.items():
            assert first.setdefault(name, split) == split
        assert read_assigned(tmp_path) == first
        names.append(f"sub-9{run}")


def test_a_cohort_of_an_earlier_version_keeps_its_splits(cohort):
    datalist = json.loads((cohort / DATALIST).read_text())
    assert datalist.pop("splits") == {"sub-01": "training", "sub-02": "validation", "sub-03": "training"}
    (cohort / DATALIST).write_text(json.dumps(datalist))
    assert read_assigned(cohort) == {"sub-01": "training", "sub-02": "validation", "sub-03": "training"}


@pytest.mark.parametrize("assigned", [[], "training", {"sub-01": "train"}, {"sub-01": ["test"]}, {"sub-01": None}, 3])
def test_remembered_splits_that_are_none_are_refused(cohort, assigned):
    datalist = json.loads((cohort / DATALIST).read_text())
    (cohort / DATALIST).write_text(json.dumps({**datalist, "splits": assigned}))
    with pytest.raises(InputError, match=r"datalist\.json: found splits that names no splits, expected training"):
        read_assigned(cohort)


def test_the_checksum_of_a_cohort_does_not_depend_on_who_is_gone(cohort):
    before = read_json(cohort / DATALIST)
    listed = read_cohort(cohort)
    scans = [scan for split in SPLITS for scan in listed[split]]
    splits = {scan.participant: split for split in SPLITS for scan in listed[split]}
    write_datalist(cohort, scans, {**splits, "sub-77": "test"})
    after = read_json(cohort / DATALIST)
    assert after["splits"] == {**before["splits"], "sub-77": "test"}
    assert after["checksum"] == before["checksum"]


# what people edit into a list


def edit(cohort, **changes):
    """Change the first entry of training; None takes a key out."""
    datalist = json.loads((cohort / DATALIST).read_text())
    entry = {**datalist["training"][0], **changes}
    datalist["training"][0] = {key: value for key, value in entry.items() if value is not None}
    (cohort / DATALIST).write_text(json.dumps(datalist))


def refused(cohort, match):
    for attempt in (lambda: read_cohort(cohort), lambda: load_entries(str(cohort), "training", ["image"])):
        with pytest.raises(InputError, match=match) as error:
            attempt()
        assert str(error.value).startswith(str(cohort / DATALIST))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["participant", "scan", "checksum", "image", "b0", "mask"])
@pytest.mark.parametrize("value", [None, 3, ["a"], {"a": "b"}])
def test_an_entry_without_what_every_scan_has_is_refused(cohort, key, value):
    edit(cohort, **{key: value})
    if (key, value) == ("b0", None):
        # training does without the b0
        assert len(load_entries(str(cohort), "training")) == 3
        return
    refused(cohort, rf": training: found {key} = .*, expected a text\.$")


@pytest.mark.parametrize("key", ["image", "b0", "mask", "tissue", "n_peaks", "peak", "white_matter", "tissue_prob"])
@pytest.mark.parametrize("path", ["../sub-02.nii.gz", "sub-01/../../a.nii.gz", "/etc/passwd", "/tmp/a.nii.gz"])
def test_a_path_out_of_the_cohort_is_refused(cohort, key, path):
    edit(cohort, **{key: path})
    refused(cohort, rf": training: found '{path}', expected a path within the cohort\.$")


def test_a_label_that_is_no_text_is_refused(cohort):
    edit(cohort, n_peaks=5)
    refused(cohort, ": training: found n_peaks = 5 of sub-01_ses-1, expected a text")


def test_other_keys_of_an_entry_are_left_alone(cohort):
    edit(cohort, age=31, site={"a": 1})
    assert len(load_entries(str(cohort), "training")) == 3


@pytest.mark.parametrize("listed", [None, {}, "sub-01", 3])
@pytest.mark.parametrize("split", SPLITS)
def test_a_split_that_is_no_list_is_refused(cohort, split, listed):
    datalist = json.loads((cohort / DATALIST).read_text())
    (cohort / DATALIST).write_text(json.dumps({**datalist, split: listed}))
    refused(cohort, f": found {split} = .*, expected a list of scans")
    del datalist[split]
    (cohort / DATALIST).write_text(json.dumps(datalist))
    refused(cohort, f": found {split} = None, expected a list of scans")


@pytest.mark.parametrize("entry", [None, "sub-01", 3, ["image"]])
def test_an_entry_that_is_no_object_is_refused(cohort, entry):
    datalist = json.loads((cohort / DATALIST).read_text())
    datalist["training"].append(entry)
    (cohort / DATALIST).write_text(json.dumps(datalist))
    refused(cohort, ": training: found .*, expected an object for each scan")


@pytest.mark.parametrize("content", ["{}", "[]", "null", "{", ""])
def test_a_list_that_is_none_is_refused(cohort, content):
    (cohort / DATALIST).write_text(content)
    refused(cohort, "expected")


MOVED, FLIPPED = AFFINE.copy(), AFFINE @ np.diag([-1, 1, 1, 1])
MOVED[1, 3] += 2.4


@pytest.mark.parametrize("key", ["mask", "tissue"])
@pytest.mark.parametrize(("shape", "affine"), [((4, 3, 5), AFFINE), ((3, 4, 5), MOVED), ((3, 4, 5), FLIPPED)])
def test_a_mask_or_label_on_another_grid_is_refused(cohort, key, shape, affine):
    edit(cohort, tissue="tissue.nii.gz")
    write_image(cohort / "tissue.nii.gz")
    assert load_entries(str(cohort), "training", ["image", "mask", "tissue"])[0]["tissue"].endswith("tissue.nii.gz")
    changed = cohort / ("tissue.nii.gz" if key == "tissue" else "sub-01_ses-1_mask.nii.gz")
    write_image(changed, shape, affine)
    with pytest.raises(InputError) as error:
        load_entries(str(cohort), "training", ["image", "mask", "tissue"])
    found = "4x3x5" if shape == (4, 3, 5) else "another affine"
    assert str(error.value) == (
        f"{changed}: found another grid ({found}) than that of sub-01_ses-1.nii.gz (3x4x5), "
        "expected one for all images of a scan."
    )


def test_a_label_with_too_many_dimensions_is_refused(cohort):
    edit(cohort, tissue="tissue.nii.gz")
    write_image(cohort / "tissue.nii.gz", (3, 4, 5, 4))
    with pytest.raises(InputError, match=r"tissue\.nii\.gz: found an image of shape 3x4x5x4, expected 3 dimensions"):
        load_entries(str(cohort), "training", ["image", "tissue"])


@pytest.mark.parametrize("value", [None, 7, "x", [7], {"bvalue": "x"}])
def test_a_preparation_that_is_none_is_refused_with_a_sentence(cohort, value):
    write_json(cohort / DESCRIPTION, {"Preparation": value})
    with pytest.raises(InputError, match=r"dataset_description\.json: found .*Preparation"):
        describe_input(str(cohort))
