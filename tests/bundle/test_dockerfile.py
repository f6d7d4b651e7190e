"""The Dockerfile: what it copies is all that its commands need. No image is built."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_what_is_copied_into_the_image_is_all_that_a_command_needs(python, tiny_scan, tmp_path):
    text = (ROOT / "Dockerfile").read_text()
    image = tmp_path / "project"
    for words in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        *sources, place = words.split()
        for name in sources:
            target = image / place / ("" if (ROOT / name).is_dir() else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    (entry,) = re.findall(r'^ENTRYPOINT \["python", (.*)\]$', text, re.MULTILINE)
    assert entry == '"-m"'
    # the editable install would lead to the project
    (tmp_path / "sitecustomize.py").write_text(
        "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if '__editable__' not in str(finder)]"
    )
    inference = ["monai.bundle", "run", "--config_file", "bundle/configs/inference_restoration.json"]
    for command in (
        ["scripts", "--help"],
        ["scripts", "phantom", "--kind", "clinical", "--subjects", "1", "--out", tmp_path / "raw"],
        [*inference, "--dwi", tiny_scan, "--output_dir", tmp_path / "results"],
    ):
        done = subprocess.run(
            [python, "-m", *map(str, command)],
            cwd=image,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "results" / "sub-01_desc-restored_dwi.nii.gz").is_file()
