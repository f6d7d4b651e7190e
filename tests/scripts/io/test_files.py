"""Files appear whole or not at all, and hold what was written."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from scripts.io.files import (
    checksums_of,
    read_json,
    read_text,
    sha256,
    sweep_partials,
    whole_file,
    write_json,
    write_table,
    write_text,
)
from transforms.errors import InputError


def _interrupted(path, error):
    with whole_file(path) as partial:
        partial.write_bytes(b"half of the n")
        assert not path.exists() or path.read_bytes() == b"old"
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_no_other(tmp_path, error):
    path = tmp_path / "data.nii.gz"
    path.write_bytes(b"old")
    with pytest.raises(error):
        _interrupted(path, error)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_first_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        _interrupted(tmp_path / "new" / "data.txt", OSError("disk full"))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """A machine that fails after the rename and before the disk has the content would have neither version."""
    steps, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: (steps.append(os.readlink(f"/proc/self/fd/{number}")), fsync(number))
    )
    monkeypatch.setattr(os, "replace", lambda *paths: (steps.append("rename"), replace(*paths)))
    with whole_file(tmp_path / "data.txt") as partial:
        partial.write_text("new")
    assert steps == [str(partial), "rename", str(tmp_path)]


def test_a_disk_that_fills_up_is_named(tmp_path):
    with pytest.raises(OSError, match="No space") as raised:
        _interrupted(tmp_path / "data.txt", OSError(errno.ENOSPC, "No space left on device"))
    assert raised.value.filename == str(tmp_path / "data.txt")


def test_a_finished_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("old")
    with whole_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_partial_file_stands_beside_the_file_hidden_and_with_its_ending(tmp_path):
    with whole_file(tmp_path / "sub" / "data.nii.gz") as partial:
        assert partial.parent == tmp_path / "sub"
        assert partial.name.startswith(".")
        assert partial.name.endswith(".nii.gz")
        partial.touch()


def test_json_comes_back_as_written(tmp_path):
    content = {"a": [1, 2.5, None], "b": {"c": "µ"}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"{", "not JSON"),
        (b"[1]", "list"),
        (b"3", "int"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused_by_name(tmp_path, content, found):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=found) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"Ort": "Köln"}'.encode())
    assert read_json(path) == {"Ort": "Köln"}
    assert read_text(path, "text").startswith("{")


def test_text_of_another_encoding_is_refused_by_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('{"Ort": "Köln"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.json: found text that is not UTF-8 \(.*\), expected JSON\.$"):
        read_json(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, kind):
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"a\.json: no such file, expected JSON\.$"):
        read_json(path)


# what was left half-written


def ended_process():
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_is_removed_and_what_others_write_is_kept(tmp_path):
    folder, host = tmp_path / "sub-01" / "dwi", socket.gethostname()
    folder.mkdir(parents=True)
    dead, alive = ended_process(), os.getppid()
    names = {
        f".{host}.{dead}.partial.sub-01_dwi.nii.gz": False,
        f".{host}.{alive}.partial.sub-01_dwi.nii.gz": True,
        f".{host}.{os.getpid()}.partial.sub-01_dwi.json": True,
        # of another machine on the same disk, where that process may live
        f".other-{host}.{dead}.partial.sub-01_dwi.nii.gz": True,
        f".{host}.word.partial.sub-01_dwi.nii.gz": True,
        f"{host}.{dead}.partial.sub-01_dwi.nii.gz": True,
        "sub-01_dwi.partial.nii.gz": True,
    }
    for name in names:
        (folder / name).write_bytes(b"half")
    sweep_partials(tmp_path)
    assert {path.name for path in folder.iterdir()} == {name for name, kept in names.items() if kept}


def test_a_process_that_is_killed_while_it_writes_leaves_what_a_sweep_removes(tmp_path):
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom scripts.io.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_bytes(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.nii.gz")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".partial.a.nii.gz")
    with whole_file(tmp_path / "b.nii.gz") as partial:
        partial.write_bytes(b"half")
        sweep_partials(tmp_path)
        assert partial.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b.nii.gz"]


def test_missing_json_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")


def test_checksum_is_that_of_the_contents_in_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(np.random.default_rng(0).bytes(3 * (1 << 20) // 2))
    second.write_bytes(b"end")
    whole = hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert sha256(first, second) == whole
    assert sha256(second, first) != whole
    assert sha256(first) == hashlib.sha256(first.read_bytes()).hexdigest()


def test_json_is_indented_for_people(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1, "b": 2})
    text = (tmp_path / "a.json").read_text()
    assert len(text.splitlines()) == 4
    assert text.endswith("}\n")
    assert json.loads(text) == {"a": 1, "b": 2}


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table_has_the_delimiter_of_its_name(tmp_path, name, delimiter):
    write_table(tmp_path / name, ("scan", "value"), [("sub-01", 0.5), ("sub 2", "x")])
    lines = (tmp_path / name).read_bytes().decode().split("\n")
    assert lines == [delimiter.join(row) for row in (("scan", "value"), ("sub-01", "0.5"), ("sub 2", "x"))] + [""]


def test_names_in_another_encoding_can_be_written(tmp_path):
    name = os.fsdecode(b"K\xf6ln")
    write_text(tmp_path / "a.txt", name)
    write_table(tmp_path / "a.tsv", ["name"], [[name]])
    assert (tmp_path / "a.txt").read_text() == "K\\udcf6ln"
    assert (tmp_path / "a.tsv").read_text() == "name\nK\\udcf6ln\n"


def test_of_files_of_one_name_each_changes_the_checksum(tmp_path):
    paths = [tmp_path / "dwi.json", tmp_path / "sub-01" / "dwi.json", tmp_path / "dwi.bval"]
    paths[1].parent.mkdir()
    for path in paths:
        path.write_text("1")
    before = checksums_of(paths)
    assert before["dwi.bval"] == sha256(paths[2])
    for path in paths[:2]:
        path.write_text("2")
        after = checksums_of(paths)
        assert after.keys() == before.keys()
        assert after["dwi.json"] != before["dwi.json"]
        before = after
