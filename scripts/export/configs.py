"""The configs and the metadata of an exported bundle, made from those of the project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from scripts.io.files import read_json

SOURCES = {
    "restoration": (["pretrain"], "evaluate_restoration"),
    **{task: (["finetune", task], "evaluate") for task in ("segmentation", "crossings", "direction")},
}
"""Tasks that can be exported, and the project's configs that become ``train.json`` and ``evaluate.json``."""

DATASET_DIR = "data"
"""Default of a training in an exported bundle, which does not carry the phantoms."""

SCHEME = "models/scheme.bvec"
"""Directions of a network that has others than the project's."""

OUTPUTS: dict[str, dict[str, Any]] = {
    "restoration": {
        "name": "Diffusion MRI restoration",
        "task": "Removal of artifacts from diffusion MRI",
        "description": "A 3D U-Net that removes motion, eddy currents, bias field, ghosting and noise from the "
        "attenuations of a diffusion MRI scan. It learned without labels, from simulated artifacts.",
        "label_classes": "The same attenuations without artifacts",
        "pred_classes": "One attenuation for each direction of the scheme",
        "format": "diffusion attenuation",
        "value_range": [0, 1],
    },
    "segmentation": {
        "name": "Diffusion MRI tissue segmentation",
        "task": "Tissue segmentation of the brain from diffusion MRI",
        "description": "A 3D U-Net that finds gray matter, white matter and cerebrospinal fluid in a diffusion MRI "
        "scan.",
        "label_classes": "Background, gray matter, white matter, cerebrospinal fluid",
        "pred_classes": "Four logits, one for each class",
        "format": "segmentation",
        "channel_def": {"0": "background", "1": "gray matter", "2": "white matter", "3": "cerebrospinal fluid"},
    },
    "crossings": {
        "name": "Diffusion MRI fibre crossings",
        "task": "Number of fibre orientations in white matter from diffusion MRI",
        "description": "A 3D U-Net that counts the fibre orientations (NuFO) in the white matter of a diffusion MRI "
        "scan.",
        "label_classes": "Number of fibre orientations, 0 to 3",
        "pred_classes": "Four logits, one for each number of fibre orientations",
        "format": "classes",
        "channel_def": {str(count): f"{count} fibre orientations" for count in range(4)},
    },
    "direction": {
        "name": "Diffusion MRI fibre direction",
        "task": "Direction of the largest fibre peak in white matter from diffusion MRI",
        "description": "A 3D U-Net that finds the direction of the largest fibre peak in the white matter of a "
        "diffusion MRI scan.",
        "label_classes": "Axis of the largest fODF peak in world RAS",
        "pred_classes": "Six entries of a dyad v v^T; its main eigenvector is the axis",
        "format": "dyad",
        "channel_def": {str(i): entry for i, entry in enumerate(("xx", "yy", "zz", "xy", "xz", "yz"))},
    },
}
"""What metadata says of each task."""


def zoo_configs(folder: Path, task: str, preparation: Mapping[str, Any], own_scheme: bool) -> dict[str, dict[str, Any]]:
    """Make the configs of a bundle, by the names that the model zoo gives them.

    Args:
        folder: configs of the project.
        task: a key of ``SOURCES``.
        preparation: of the scans that the network learned from: ``bvalue``, ``voxel_size`` and ``scheme``.
        own_scheme: whether the scheme stands in ``SCHEME`` of the bundle.

    Returns:
        ``train`` and ``inference``, which are self-contained, and the overlays of ``train``: ``evaluate`` and
        ``multi_gpu_train``.
    """

    training, evaluation = SOURCES[task]
    train = ConfigParser.load_config_files([str(folder / f"{name}.json") for name in training])
    inference, evaluate = (read_json(folder / f"{name}.json") for name in (f"inference_{task}", evaluation))
    train |= {"bundle_root": ".", "dataset_dir": DATASET_DIR}
    inference |= {"bundle_root": ".", "bvalue": preparation["bvalue"], "voxel_size": preparation["voxel_size"]}
    evaluate["checkpoint"] = inference["checkpoint"] = "$@bundle_root + '/models/model.pt'"
    if own_scheme:
        inference["scheme"] = f"$@bundle_root + '/{SCHEME}'"
    directions = len(preparation["scheme"])
    for config in (train, inference):
        config["network_def"]["in_channels"] = directions
        if task == "restoration":
            config["output_channels"] = directions
    several = read_json(folder / "multi_gpu.json")
    return {"train": train, "inference": inference, "evaluate": evaluate, "multi_gpu_train": several}


def zoo_metadata(
    folder: Path, task: str, origin: Mapping[str, Any], channels: int, packages: Mapping[str, str]
) -> dict[str, Any]:
    """Make the metadata of a bundle for one task.

    Args:
        folder: configs of the project.
        task: a key of ``SOURCES``.
        origin: what the checkpoint says of itself.
        channels: of the network's output.
        packages: versions of the packages that the bundle imports.
    """
    metadata = read_json(folder / "metadata.json")
    preparation = origin["preparation"]
    directions = len(preparation["scheme"])
    says = dict(OUTPUTS[task])
    each_direction = {f"0-{directions - 1}": "directions of the reference scheme, in its order"}
    output = metadata["network_data_format"]["outputs"]["pred"]
    output |= {"format": says.pop("format"), "num_channels": channels}
    output |= {"value_range": says.pop("value_range", []), "channel_def": says.pop("channel_def", each_direction)}
    metadata["network_data_format"]["inputs"]["image"] |= {"num_channels": directions, "channel_def": each_direction}
    metadata["image_classes"] = (
        f"Diffusion-weighted signal of {directions} directions at b = {preparation['bvalue']:g} s/mm2 divided by b0, "
        f"0 to 1, RAS, {preparation['voxel_size']:g} mm"
    )
    metadata["data_source"] = "A cohort of one's own, which the project prepares from BIDS or HCP scans"
    return metadata | says | {"required_packages_version": dict(packages), "eval_metrics": measured(origin)}


def measured(origin: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that a checkpoint holds: those of the validation that it was chosen by."""
    return {name: value for name, value in origin.items() if name.startswith("val_")}
