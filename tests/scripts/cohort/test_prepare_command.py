"""The command: what it prints, refuses and exits with, by one process or two."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cohort_files import GOOD, VOXEL_SIZE, same_images, state
from typer.testing import CliRunner

import scripts.cohort.prepare as module
from scripts.__main__ import app
from scripts.cohort.datalist import DATALIST
from scripts.io.files import read_json
from transforms.errors import InputError


def test_a_folder_of_something_else_is_refused(raw, prepare, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    before = state(out)
    with pytest.raises(InputError, match="other files in it"):
        prepare(raw[0], out)
    with pytest.raises(InputError, match="other files in it"):
        prepare(raw[0], raw[0])
    assert state(out) == before


def test_unusable_arguments_are_refused_before_anything_is_written(raw, prepare, tmp_path):
    out = tmp_path / "out"
    sizes = [{"voxel_size": size} for size in (0, 0.0024, 24, np.nan)]
    for options in ({"split": (0, 1, 1)}, {"split": (1, -1, 1)}, {"split": (1, 1)}, {"bvalue": -1}, *sizes):
        with pytest.raises(InputError, match="expected"):
            prepare(raw[0], out, **options)
        assert not out.exists()


def test_two_processes_give_what_one_gives_and_the_command_reports_who_is_left_out(hcp, heads, scheme, tmp_path):
    root, out = tmp_path / "raw", tmp_path / "out"
    # the same two scans, and a third that cannot be used
    for subject in ("100206", "100307"):
        shutil.copytree(hcp[0] / subject, root / subject)
    heads.write_hcp(root, ["100408"], gradients=heads.table((1000, 16)))
    options = ["--layout", "hcp", "--scheme", scheme, "--voxel-size", VOXEL_SIZE, "--jobs", 2]
    result = CliRunner().invoke(app, ["prepare", "--input", str(root), "--out", str(out), *map(str, options)])
    assert result.exit_code == 0, result.output
    assert f"{out}: 2 scans done, 1 left out\n" in result.stdout
    assert "  left out sub-100408: " in result.stdout
    assert "expected at least one volume of b <= 50." in result.stdout
    same_images(out, hcp[1])
    assert read_json(out / DATALIST) == read_json(hcp[1] / DATALIST)


def test_the_command_fails_where_every_scan_is_left_out(tmp_path, heads):
    heads.write_hcp(tmp_path / "raw", ["100408"], gradients=heads.table((1000, 16)))
    arguments = ["prepare", "--layout", "hcp", "--input", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "0 scans done, 1 left out" in result.stdout
    assert isinstance(result.exception, SystemExit)


def test_the_command_ends_with_one_sentence_where_there_is_no_cohort(tmp_path, python):
    command = [python, "-m", "scripts", "prepare", "--layout", "bids"]
    command += ["--input", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    root = Path(module.__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"error: {tmp_path / 'none'}: no such folder, expected a cohort."
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_no_numbers_is_a_wrong_use_of_the_command(tmp_path):
    arguments = [
        "prepare",
        "--layout",
        "hcp",
        "--input",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        "--split",
        "a,b",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "expected numbers as" in result.output


@pytest.mark.parametrize("place", ["out", "out/below"])
def test_a_file_in_the_place_of_the_folder_is_refused_in_one_sentence(raw, tmp_path, place):
    (tmp_path / "out").write_text("precious")
    arguments = ["prepare", "--layout", "bids", "--input", str(raw[0]), "--out", str(tmp_path / place)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code not in (0, None)
    assert str(result.exception) == f"error: {tmp_path / 'out'}: found a file, expected a folder or a new name."
    assert (tmp_path / "out").read_text() == "precious"


def test_brackets_in_a_path_are_printed_as_they_are(tmp_path, heads, scheme, capfd):
    root = tmp_path / "[red]raw[/red] [1]"
    scans = heads.write_bids(root, GOOD[:2])
    scans["sub-01"].bvec.unlink()
    out = tmp_path / "out[/b]"
    options = ["--input", root, "--out", out, "--scheme", scheme, "--voxel-size", VOXEL_SIZE]
    result = CliRunner().invoke(app, ["prepare", "--layout", "bids", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert f"left out sub-01: {scans['sub-01'].bvec}: no such file" in result.stdout
    assert f"{out}: 1 scans done, 1 left out" in result.stdout
    assert f"left out sub-01: {scans['sub-01'].bvec}: no such file" in result.stderr + capfd.readouterr().err


def test_a_folder_whose_name_is_in_another_encoding_is_no_obstacle(tmp_path, heads, scheme, python):
    """What is printed and what stands in the table names it."""
    folder = tmp_path / os.fsdecode(b"K\xf6ln")
    heads.write_bids(folder / "raw", GOOD[:1])
    (folder / "masks").mkdir()
    options = ["--input", folder / "raw", "--out", folder / "out", "--scheme", scheme, "--voxel-size", VOXEL_SIZE]
    command = [
        python,
        "-m",
        "scripts",
        "prepare",
        "--layout",
        "bids",
        *options,
        "--derivatives",
        folder / "masks",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "K\\udcf6ln/out: 1 scans done" in done.stdout
    assert "K\\udcf6ln/masks" in (folder / "out" / "scans.tsv").read_text()
