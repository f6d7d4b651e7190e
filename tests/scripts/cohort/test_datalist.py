"""Splits are by participant, seeded, and stay; a datalist that breaks this is refused."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.cohort.datalist import (
    DATALIST,
    SPLITS,
    assign_splits,
    check_splits,
    load_entries,
    read_cohort,
    split_sizes,
    write_datalist,
)
from scripts.cohort.prepared import PreparedScan
from scripts.io.files import read_json
from transforms.errors import InputError

WEIGHTS = st.tuples(st.integers(1, 60), st.integers(0, 60), st.integers(0, 60))


@pytest.mark.parametrize(
    ("n", "weights", "sizes"),
    [
        (28, (15, 5, 8), [15, 5, 8]),
        (56, (15, 5, 8), [30, 10, 16]),
        (50, (45, 5, 0), [45, 5, 0]),
        (2, (15, 5, 8), [1, 1, 0]),
        (2, (45, 5, 0), [1, 1, 0]),
        (3, (98, 1, 1), [1, 1, 1]),
        (1, (15, 5, 8), [1, 0, 0]),
        (1, (1, 50, 50), [1, 0, 0]),
        (0, (15, 5, 8), [0, 0, 0]),
    ],
)
def test_sizes_of_known_cohorts(n, weights, sizes):
    assert split_sizes(n, weights) == sizes


@settings(deadline=None)
@given(st.integers(0, 200), WEIGHTS)
def test_sizes_add_up_and_each_wanted_split_has_someone(n, weights):
    sizes = split_sizes(n, weights)
    assert sum(sizes) == n
    assert min(sizes) >= 0
    wanted = [index for index, weight in enumerate(weights) if weight > 0]
    assert all(sizes[index] == 0 for index in range(3) if index not in wanted)
    assert all(sizes[index] >= 1 for index in wanted[:n])
    if n >= 3 * sum(weights):
        exact = [n * weight / sum(weights) for weight in weights]
        assert all(abs(size - share) < 1 for size, share in zip(sizes, exact, strict=True))


@settings(deadline=None)
@given(st.integers(0, 200), WEIGHTS)
def test_a_larger_weight_never_gets_fewer(n, weights):
    sizes = split_sizes(n, weights)
    # where a split has less than one by its share, another one gives it a participant
    if all(n * weight >= sum(weights) for weight in weights if weight > 0):
        for first in range(3):
            for second in range(3):
                if weights[first] > weights[second]:
                    assert sizes[first] >= sizes[second]


NAMES = [f"sub-{index:02d}" for index in range(28)]


def _count(assigned):
    return [sum(split == name for split in assigned.values()) for name in SPLITS]


def test_assignment_is_a_function_of_names_and_seed():
    first = assign_splits(NAMES, (15, 5, 8), 0)
    assert assign_splits(list(reversed(NAMES)), (15, 5, 8), 0) == first
    assert set(first) == set(NAMES)
    assert _count(first) == [15, 5, 8]
    others = [assign_splits(NAMES, (15, 5, 8), seed) for seed in range(1, 6)]
    assert all(other != first for other in others)
    assert all(_count(other) == [15, 5, 8] for other in others)
    # not by the alphabet
    assert {name for name, split in first.items() if split == "training"} != set(NAMES[:15])


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), WEIGHTS, st.integers(0, 5))
def test_nobody_moves_when_a_cohort_grows(before, more, weights, seed):
    names = [f"sub-{index:02d}" for index in range(before + more)]
    first = assign_splits(names[:before], weights, seed)
    second = assign_splits(names, weights, seed, known=first)
    assert set(second) == set(names)
    assert all(second[name] == split for name, split in first.items())
    allowed = {split for split, weight in zip(SPLITS, weights, strict=True) if weight > 0}
    assert set(second.values()) <= allowed


def test_a_grown_cohort_comes_to_the_sizes_asked_for():
    first = assign_splits(NAMES[:14], (15, 5, 8), 0)
    assert _count(assign_splits(NAMES, (15, 5, 8), 0, known=first)) == [15, 5, 8]


def test_who_is_gone_is_forgotten():
    known = {"sub-90": "test", NAMES[0]: "test"}
    assigned = assign_splits(NAMES, (15, 5, 8), 0, known)
    assert set(assigned) == set(NAMES)
    assert assigned[NAMES[0]] == "test"


def _scan(participant, checksum, name=None, folder=Path(), **images):
    return PreparedScan(
        folder, {"participant": participant, "scan": name or participant, "checksum": checksum, **images}
    )


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


@pytest.fixture
def cohort(tmp_path):
    """Three participants, of whom the first has two sessions; test is empty."""
    scans = [
        _scan(name[:6], str(index), name, tmp_path, image=f"{name}.nii.gz", mask=f"{name}_mask.nii.gz")
        for index, name in enumerate(["sub-01_ses-1", "sub-01_ses-2", "sub-02", "sub-03"])
    ]
    for scan in scans:
        for key in ("image", "mask"):
            scan.path(key).touch()
    splits = {"sub-01": "training", "sub-02": "validation", "sub-03": "training"}
    write_datalist(tmp_path, scans, splits)
    return tmp_path


def test_sessions_of_a_participant_stay_together(cohort):
    scans = {split: [scan.name for scan in listed] for split, listed in read_cohort(cohort).items()}
    assert scans == {"training": ["sub-01_ses-1", "sub-01_ses-2", "sub-03"], "validation": ["sub-02"], "test": []}


def test_entries_have_absolute_paths_of_the_asked_images(cohort):
    entries = load_entries(str(cohort), "training", ["mask"])
    assert [entry["scan"] for entry in entries] == ["sub-01_ses-1", "sub-01_ses-2", "sub-03"]
    assert entries[0] == {"scan": "sub-01_ses-1", "mask": str(cohort / "sub-01_ses-1_mask.nii.gz")}


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
    datalist["training"][2]["tissue"] = "sub-03.nii.gz"
    (cohort / DATALIST).write_text(json.dumps(datalist))
    (found,) = load_entries(str(cohort), "training", ["tissue"])
    assert found["scan"] == "sub-03"
    assert "sub-01_ses-1: left out of training, it has no tissue" in caplog.text
