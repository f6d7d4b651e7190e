"""The cohort of a training without ``--dataset_dir``: made once, and kept."""

import json
import logging
from pathlib import Path

import pytest

from scripts import default_cohort
from scripts.cohort.datalist import read_cohort


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Folder of the default cohorts, which have two subjects here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(default_cohort, "SUBJECTS", {"auxiliary": 2, "clinical": 2})
    # a second process would mainly import the libraries
    monkeypatch.setattr(default_cohort.os, "cpu_count", lambda: 1)
    return tmp_path / "dmri-pretraining"


def test_it_is_made_once_and_a_training_can_use_it(cache, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    folder = default_cohort.default_cohort("auxiliary")
    assert folder.startswith(str(cache))
    assert sum(map(len, read_cohort(Path(folder)).values())) == 2
    assert "no --dataset_dir: making a phantom cohort once" in caplog.text
    monkeypatch.setattr(default_cohort, "make_cohort", None)
    assert default_cohort.default_cohort("auxiliary") == folder


def test_one_that_was_cut_off_is_finished(cache, monkeypatch):
    made = []

    def make(kind, subjects, folder, jobs):
        made.append(kind)
        if len(made) == 1:
            raise KeyboardInterrupt
        folder.mkdir(parents=True)

    monkeypatch.setattr(default_cohort, "make_cohort", make)
    with pytest.raises(KeyboardInterrupt):
        default_cohort.default_cohort("clinical")
    folder = default_cohort.default_cohort("clinical")
    assert made == ["clinical"] * 2
    (complete,) = cache.glob("*/complete.json")
    assert json.loads(complete.read_text())["kind"] == "clinical"
    assert folder == str(complete.parent / "prepared")
