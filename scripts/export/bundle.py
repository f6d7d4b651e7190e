"""A bundle for the MONAI model zoo: a folder that needs nothing of this project, and the same as a zip."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from scripts.export.card import data_license, model_card
from scripts.export.code import needed_files, required_packages
from scripts.export.configs import SCHEME, zoo_configs, zoo_metadata
from scripts.export.models import save_models
from scripts.io.files import sha256, whole_file, write_json, write_text
from scripts.training.tracking import PATHS
from scripts.training.weights import read_checkpoint, require_origin, same_scheme, transfer_weights, write_origin
from scripts.version import ROOT
from transforms.diffusion.scheme import default_scheme
from transforms.errors import InputError

if TYPE_CHECKING:
    from scripts.export.scores import Scores

PROJECT = ROOT / "bundle"
"""The project's own bundle, from which exports are made."""

SHIPPED = PROJECT / "models" / "restoration.pt"
"""The checkpoint that the project ships."""

SHIPPED_EVALUATION = PROJECT / "models" / "restoration_evaluation"
"""The evaluation of it; docs/artifacts.md has its command."""

LARGE_FILES = "large_files.yml"
LARGE_BYTES = 25_000_000
"""Size above which the model zoo does not keep a file itself: it lists its address in ``large_files.yml``."""

MIDNIGHT = (1980, 1, 1, 0, 0, 0)
"""Date of all files of a zip, so that the same content gives the same bytes: the earliest that a zip can hold."""


def export_bundle(
    task: str, out: Path, checkpoint: Path | None = None, name: str | None = None, evaluation: Path | None = None
) -> Path:
    """Write a bundle and its zip.

    Args:
        task: ``restoration``, ``segmentation``, ``crossings`` or ``direction``.
        out: folder that gets the bundle as the folder ``name``, and ``name.zip``.
        checkpoint: of the network; None for the one that the project ships, which restores.
        name: of the bundle, ``dmri_<task>`` by default.
        evaluation: folder of an evaluation of these weights, whose figures the model card gets; the shipped weights
            have one.

    Returns:
        folder of the bundle.

    Raises:
        InputError: the checkpoint is missing or is that of another task, the name is taken, or the evaluation is
            that of other weights.
    """
    name = name or f"dmri_{task}"
    if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
        raise InputError(f"--name: found {name!r}, expected a letter, then letters, digits, '_', '-' and '.'.")
    if not PROJECT.is_dir():
        raise InputError(f"{PROJECT}: no such folder, expected a checkout of the project, from which exports are made.")
    if checkpoint is None and task != "restoration":
        raise InputError(f"--checkpoint: found none, expected the model.pt of a fine-tuning for {task}.")
    content = read_checkpoint(checkpoint or SHIPPED)
    require_origin(content, str(checkpoint or SHIPPED), task=task)
    scores = None
    if checkpoint is None:
        evaluation = evaluation or SHIPPED_EVALUATION
    if evaluation is not None:
        # its libraries are those of comparisons
        from scripts.export.scores import read_scores  # noqa: PLC0415

        scores = read_scores(evaluation, checkpoint or SHIPPED)
    for place in (out / name, out / f"{name}.zip"):
        if place.exists():
            raise InputError(f"{place}: found a folder or file there, expected a name that is free in {out}.")
    out.mkdir(parents=True, exist_ok=True)
    # whole or not at all: what is unfinished goes with this folder
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}.") as unfinished:
        bundle = Path(unfinished) / name
        network = write_bundle(bundle, task, content, checkpoint is None, scores)
        save_models(network, bundle)
        _remove_caches(bundle)
        list_large_files(bundle)
        write_zip(bundle, out / f"{name}.zip")
        bundle.rename(out / name)
    return out / name


def write_bundle(
    bundle: Path, task: str, content: Mapping[str, Any], shipped: bool, scores: Scores | None = None
) -> torch.nn.Module:
    """Write all of a bundle but the formats that are made from its network.

    Args:
        bundle: folder to write.
        task: a key of ``SOURCES``.
        content: checkpoint with its origin, of this task.
        shipped: whether the weights are those that the project ships.
        scores: of a test, for the model card.

    Returns:
        the network with its weights.

    Raises:
        InputError: the weights are not those of the network.
    """
    origin = _without_paths(content["origin"])
    preparation = origin["preparation"]
    scheme = np.array(preparation["scheme"])
    own_scheme = not same_scheme(scheme, default_scheme())
    configs = zoo_configs(PROJECT / "configs", task, preparation, own_scheme)
    network = ConfigParser(configs["inference"]).get_parsed_content("network_def")
    transfer_weights(network, content["network"], "the checkpoint")
    files = needed_files(json.dumps(config) for config in configs.values())
    for file in files:
        _copy(ROOT / file, bundle / file)
    for config, values in configs.items():
        write_json(bundle / "configs" / f"{config}.json", values)
    channels = len(network.get_submodule("output_block").weight)
    metadata = zoo_metadata(PROJECT / "configs", task, origin, channels, required_packages(files))
    write_json(bundle / "configs" / "metadata.json", metadata)
    _copy(PROJECT / "configs" / "logging.conf", bundle / "configs" / "logging.conf")
    _copy(PROJECT / "LICENSE", bundle / "LICENSE")
    write_text(bundle / "docs" / "data_license.txt", data_license(PROJECT / "docs", shipped))
    write_text(
        bundle / "docs" / "README.md",
        model_card(PROJECT / "docs", bundle.name, task, metadata, origin, shipped, scores),
    )
    models = bundle / "models"
    models.mkdir()
    torch.save(dict(content["network"]), models / "model.pt")
    write_origin(models / "model.pt", origin)
    if own_scheme:
        np.savetxt(bundle / SCHEME, scheme.T, fmt="%.8f")
    return network


def list_large_files(bundle: Path) -> None:
    """Write ``large_files.yml`` if the model zoo does not take a file for its size; the user fills in its address."""
    large = [
        {
            "path": file.relative_to(bundle).as_posix(),
            "url": "",
            "hash_val": sha256(file),
            "hash_type": "sha256",
        }
        for file in sorted(bundle.rglob("*"))
        if file.is_file() and file.stat().st_size > LARGE_BYTES
    ]
    if large:
        # JSON is YAML
        write_json(bundle / LARGE_FILES, {"large_files": large})


def write_zip(folder: Path, path: Path) -> None:
    """Write a folder as a zip; the same content gives the same bytes."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}", MIDNIGHT)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, file.read_bytes())


def _without_paths(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the parameters that are paths: they tell strangers of a machine, and mean nothing elsewhere."""
    parameters = {key: value for key, value in origin["parameters"].items() if key not in PATHS}
    return {**origin, "parameters": parameters}


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _remove_caches(bundle: Path) -> None:
    for folder in list(bundle.rglob("__pycache__")):
        shutil.rmtree(folder)
