"""A folder belongs to one raw cohort, wherever that lies; a check that was asked for later is made then."""

import json
import shutil

import numpy as np
import pytest

import scripts.cohort.prepare as module
from scripts.cohort.datalist import DATALIST, SPLITS, describe_input
from scripts.cohort.prepare import prepare_cohort
from scripts.io.files import read_json, write_json
from scripts.io.gradients import read_scheme
from scripts.version import code_version
from transforms.errors import InputError

NAMES = ("sub-01", "sub-02")


@pytest.fixture
def prepare(scheme, tmp_path):
    def call(root, **options):
        return prepare_cohort("bids", root, tmp_path / "out", scheme, voxel_size=4.0, **options)

    return call


@pytest.fixture
def first(tmp_path, heads, prepare):
    heads.write_bids(tmp_path / "first", NAMES)
    prepare(tmp_path / "first")
    return tmp_path / "first"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("names", [NAMES, ("sub-08", "sub-09")])
def test_another_cohort_is_refused_whatever_its_participants_are_called(first, tmp_path, heads, prepare, names):
    heads.write_bids(tmp_path / "second", names, orientation="LPS")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError) as error:
        prepare(tmp_path / "second")
    assert str(error.value) == (
        f"{tmp_path / 'out'}: found a cohort of other scans, as {first / 'sub-01/dwi/sub-01_dwi.nii.gz'}, "
        f"expected that of {tmp_path / 'second'}; use a new folder."
    )
    assert contents(tmp_path / "out") == before


def test_a_training_is_told_how_the_cohort_was_prepared_and_by_which_version(first, tmp_path, scheme, prepare):
    path = tmp_path / "out" / "dataset_description.json"
    known = describe_input(str(tmp_path / "out"))
    np.testing.assert_allclose(known.pop("scheme"), read_scheme(scheme), atol=1e-6)
    assert known == {"bvalue": 1000.0, "voxel_size": 4.0, "smoothing": 0.002, "version": code_version()}
    # another version prepares all scans anew
    old = read_json(path) | {"GeneratedBy": [{"Name": "dmri-pretraining", "Version": "0.0.1"}]}
    path.write_text(json.dumps(old))
    assert describe_input(str(tmp_path / "out"))["version"] == "0.0.1"
    prepare(first)
    assert describe_input(str(tmp_path / "out"))["version"] == code_version()


def test_a_cohort_that_was_moved_and_grew_is_the_same(first, tmp_path, heads, prepare):
    shutil.move(first, tmp_path / "moved")
    heads.write_bids(tmp_path / "moved", ["sub-03"])
    # one that is known is enough: another may have changed
    heads.write_scan(tmp_path / "moved/sub-01/dwi/sub-01_dwi.nii.gz", seed=77)
    assert [outcome.failure for outcome in prepare(tmp_path / "moved")] == [None] * 3


def test_a_cohort_whose_scans_all_changed_in_their_place_is_the_same(first, heads, prepare):
    for name in NAMES:
        heads.write_scan(first / name / "dwi" / f"{name}_dwi.nii.gz", seed=50 + int(name[4:]))
    assert [outcome.failure for outcome in prepare(first)] == [None, None]


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_damaged_sidecar_is_not_in_the_way(first, tmp_path, prepare, content):
    for path in (tmp_path / "out").rglob("*_desc-attenuation_dwi.json"):
        path.write_text(content)
    assert [outcome.failure for outcome in prepare(first)] == [None, None]


def test_a_check_that_is_asked_for_later_is_made_then_and_once(first, tmp_path, prepare, monkeypatch):
    checked = []

    def check(data):
        checked.append(data)
        return "doubt"

    monkeypatch.setattr(module, "doubt_about_gradients", check)
    for check_gradients, times in ((False, 0), (True, 2), (True, 2), (False, 2)):
        prepare(first, check_gradients=check_gradients)
        assert len(checked) == times
    sidecar = read_json(tmp_path / "out/sub-01/dwi/sub-01_desc-attenuation_dwi.json")
    assert (sidecar["GradientsChecked"], sidecar["Notes"]) == (True, ["doubt"])
    assert "doubt" in (tmp_path / "out" / "scans.tsv").read_text()


def test_a_split_that_was_edited_by_hand_is_kept(first, tmp_path, heads, prepare, caplog):
    datalist = read_json(tmp_path / "out" / DATALIST)
    (person,) = [entry["participant"] for entry in datalist["training"]]
    datalist["test"] += datalist.pop("training")
    datalist["training"] = []
    (tmp_path / "out" / DATALIST).write_text(json.dumps(datalist))
    for _ in range(2):
        caplog.clear()
        prepare(first)
        after = read_json(tmp_path / "out" / DATALIST)
        assert [entry["participant"] for entry in after["test"]] == [person]
        assert after["training"] == []
        assert after["splits"][person] == "test"
    assert after["checksum"] != datalist["checksum"]
    # said once: then the list and what is remembered agree
    assert "splits says" not in caplog.text


def test_an_edit_of_the_remembered_splits_alone_is_said_to_be_none(first, tmp_path, prepare, caplog):
    path = tmp_path / "out" / DATALIST
    datalist = read_json(path)
    (person,) = [entry["participant"] for entry in datalist["training"]]
    path.write_text(json.dumps({**datalist, "splits": {**datalist["splits"], person: "test", "sub-77": "test"}}))
    prepare(first)
    assert f"{path}: {person} stays in training, where it is listed; splits says test" in caplog.messages
    after = read_json(path)
    assert {split: after[split] for split in SPLITS} == {split: datalist[split] for split in SPLITS}
    assert after["splits"] == {**datalist["splits"], "sub-77": "test"}


@pytest.mark.parametrize("key", ["RawFiles", "SourceChecksums", "VoxelChecksum", "Volumes", "Notes"])
@pytest.mark.parametrize("value", [None, 7, [7], {"dwi": 7}])
def test_a_sidecar_that_was_edited_into_none_is_made_again(first, tmp_path, prepare, key, value):
    sidecar = tmp_path / "out/sub-01/dwi/sub-01_desc-attenuation_dwi.json"
    whole = read_json(sidecar)
    write_json(sidecar, whole | {key: value})
    assert [outcome.failure for outcome in prepare(first)] == [None, None]
    assert read_json(sidecar) == whole
