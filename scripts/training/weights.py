"""Weights of networks: read from a checkpoint, transferred to another task, loaded for use."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks import copy_model_state
from numpy.typing import ArrayLike
from torch import nn

from scripts.io.files import read_json, sha256, write_json
from scripts.training.finite import require_finite_weights
from scripts.version import code_version
from transforms.diffusion.sh import SMOOTHING
from transforms.errors import InputError

SCHEME_TOLERANCE = 1e-4
"""Largest difference in a component of two unit vectors that count as the same: text files round them."""

ORIGIN_FILE = "origin.json"
"""File beside weights that hold no origin themselves, as a bundle of the MONAI model zoo has them."""

logger = logging.getLogger(__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and plain Python values.

    Args:
        path: file that holds the network's tensors by name, under ``network``, or directly with ``ORIGIN_FILE`` beside.

    Returns:
        a dictionary with ``network``, the tensors by name, and whatever else the file holds.

    Raises:
        InputError: the file is missing, is no checkpoint, or holds other objects, no tensors, or weights that are not
            finite; or the origin beside it is that of another file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file, expected a checkpoint.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        # torch does not compare the checksums that it writes
        if zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip():
            raise zipfile.BadZipFile
    except MemoryError:
        raise
    except Exception:
        # what unpickling raises on a file of another kind depends on its first bytes
        raise InputError(f"{path}: found no checkpoint of tensors and plain values, expected one.") from None
    if isinstance(checkpoint, Mapping) and "network" not in checkpoint:
        checkpoint = {"network": checkpoint, **_origin_beside(Path(path))}
    tensors = checkpoint["network"] if isinstance(checkpoint, Mapping) else None
    if not isinstance(tensors, Mapping) or not tensors or not all(map(torch.is_tensor, tensors.values())):
        raise InputError(f"{path}: found no tensors of a network, expected a checkpoint made by a training.")
    require_finite_weights(str(path), tensors)
    if not _is_origin(checkpoint.get("origin", {})):
        raise InputError(f"{path}: found an origin that is none, expected that of a checkpoint made by a training.")
    return dict(checkpoint)


def _is_origin(origin: Any) -> bool:
    """Whether an origin holds values of the types with which trainings write it."""
    if not isinstance(origin, Mapping) or not isinstance(origin.get("epoch", 1), int) or origin.get("epoch", 1) < 1:
        return False
    parameters, preparation = origin.get("parameters", {}), origin.get("preparation", {})
    if not isinstance(parameters, Mapping) or not isinstance(preparation, Mapping):
        return False
    numbers = [preparation.get(key) for key in ("bvalue", "voxel_size", "smoothing")]
    scheme = preparation.get("scheme", [[0.0, 0.0, 0.0]])
    return all(number is None or isinstance(number, int | float) for number in numbers) and _is_scheme(scheme)


def _is_scheme(scheme: Any) -> bool:
    rows = scheme if isinstance(scheme, list | tuple) else [None]
    return all(
        isinstance(row, list | tuple) and len(row) == 3 and all(isinstance(one, int | float) for one in row)
        for row in rows
    )


def _origin_beside(path: Path) -> dict[str, Any]:
    """Return ``origin`` of a file of bare weights, empty where no file beside it says where they come from."""
    if not (beside := path.parent / ORIGIN_FILE).is_file():
        return {}
    content = read_json(beside)
    if content.get("sha256") != sha256(path):
        raise InputError(f"{path}: found other weights than those that {ORIGIN_FILE} beside it describes.")
    return {"origin": content.get("origin")}


def write_origin(path: Path, origin: Mapping[str, Any]) -> None:
    """Write beside a file of bare weights where they come from; the checksum ties it to the file.

    Args:
        path: of the weights.
        origin: plain values, as a checkpoint of a training holds them.
    """
    write_json(path.parent / ORIGIN_FILE, {"sha256": sha256(path), "origin": dict(origin)})


def transferred(
    network: nn.Module, pretrained: str | None, layers: Sequence[str] | None = None, output: str = "output_block"
) -> list[str]:
    """Name the tensors that a network takes over from a pretrained one.

    Args:
        network: network.
        pretrained: checkpoint of the pretrained network; without one nothing is taken over.
        layers: names of the layers to take over, such as ``encoder``; None for all but the output layer.
        output: name of the output layer, which is never taken over.

    Raises:
        InputError: the network has no layer of a name.
    """
    if pretrained is None:
        return []
    names = [name for name in network.state_dict() if not name.startswith(f"{output}.")]
    if layers is None:
        return names
    for layer in layers:
        if not any(name.startswith(f"{layer}.") for name in names):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise InputError(f"transferred_layers: found {layer!r}, expected layers among {known}.")
    return [name for name in names if name.startswith(tuple(f"{layer}." for layer in layers))]


def transfer_weights(
    network: nn.Module, source: Mapping[str, torch.Tensor], name: str, wanted: Sequence[str] | None = None
) -> None:
    """Copy tensors into a network.

    Args:
        network: network that receives the tensors.
        source: tensors by name; those of a layer that is not wanted do not matter.
        name: name of the source, for messages.
        wanted: names of the tensors to copy; None for all.

    Raises:
        InputError: a tensor is missing, unexpected or of another shape. In this case nothing is copied.
    """
    own = network.state_dict()
    expected = own.keys() if wanted is None else set(wanted)
    missing = sorted(expected - source.keys())
    unexpected = sorted(source.keys() - own.keys())
    if missing or unexpected:
        raise InputError(
            f"{name}: found {len(source.keys() & expected)} of {len(expected)} expected tensors"
            + (f", none named {missing[0]}" if missing else "")
            + (f", and {len(unexpected)} unexpected ones such as {unexpected[0]}" if unexpected else "")
            + "; is it the checkpoint of another network?"
        )
    for key in expected:
        if source[key].shape != own[key].shape:
            raise InputError(
                f"{name}: found {key} of shape {tuple(source[key].shape)}, expected {tuple(own[key].shape)}."
            )
        # a cast would cut off what is behind the point, or the imaginary part
        if source[key].is_floating_point() != own[key].is_floating_point() or source[key].is_complex():
            raise InputError(f"{name}: found {key} of {source[key].dtype}, expected {own[key].dtype}.")
    _, copied, _ = copy_model_state(network, {key: source[key] for key in expected})
    if set(copied) != set(expected):
        raise InputError(f"{name}: {len(copied)} tensors were transferred, expected {len(expected)}.")


def require_origin(
    checkpoint: Mapping[str, Any], name: str, preparation: Mapping[str, Any] | None = None, task: str | None = None
) -> None:
    """Refuse a checkpoint that does not say what it is, or is of another task or of scans prepared in another way.

    Networks for tissue and for crossings have the same tensors, so only the origin tells them apart.

    Args:
        checkpoint: as :func:`read_checkpoint` returns it.
        name: of the checkpoint, for messages.
        preparation: see :func:`load_network`.
        task: see :func:`load_network`.

    Raises:
        InputError: says what was found and what was expected.
    """
    origin = checkpoint.get("origin", {})
    trained_for, trained_on = origin.get("parameters", {}).get("task"), origin.get("preparation", {})
    if missing := [key for key in ("bvalue", "voxel_size", "scheme") if key not in trained_on]:
        raise InputError(f"{name}: found weights that do not say their {missing[0]}, expected those of a training.")
    if trained_for is None:
        raise InputError(f"{name}: found weights that do not say their task, expected those of a training.")
    if task is not None and trained_for != task:
        raise InputError(f"{name}: found a network for {trained_for}, expected one for {task}.")
    if preparation is not None:
        _require_preparation(name, trained_on, {"smoothing": SMOOTHING, "version": code_version(), **preparation})


def _require_preparation(name: str, trained_on: Mapping[str, Any], preparation: Mapping[str, Any]) -> None:
    if (version := trained_on.get("version", "unknown")) != preparation["version"]:
        logger.warning(
            "%s: trained on scans prepared by version %s, these are by version %s; CHANGELOG.md says what differs",
            *(name, version, preparation["version"]),
        )
    for key in ("bvalue", "voxel_size", "smoothing"):
        # earlier versions did not state the smoothing
        if None not in (trained_on.get(key), preparation[key]) and trained_on[key] != preparation[key]:
            remedy = "train it again" if key == "smoothing" else f"prepare the scans with {key} {trained_on[key]:g}"
            raise InputError(
                f"{name}: found a network trained at {key} {trained_on[key]:g}, "
                f"expected {preparation[key]:g}; {remedy}."
            )
    if not same_scheme(trained_on["scheme"], preparation["scheme"]):
        raise InputError(
            f"{name}: found a network trained on another scheme of {len(trained_on['scheme'])} directions, "
            "expected that of the scans; prepare them with --scheme scheme.bvec of its cohort."
        )


def same_scheme(first: ArrayLike, second: ArrayLike) -> bool:
    """Whether two schemes ``(C, 3)`` are the same unit vectors in the same order, but for the rounding of a file."""
    one, other = np.asarray(first), np.asarray(second)
    return one.shape == other.shape and np.allclose(one, other, atol=SCHEME_TOLERANCE)


def initialise(
    network: nn.Module,
    pretrained: str | None,
    wanted: Sequence[str],
    preparation: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Give a network its first weights: some of a pretrained network, the others its own random ones.

    Args:
        network: network that receives the weights.
        pretrained: checkpoint of a network of the same layers, or None.
        wanted: names of the tensors to take over, as :func:`transferred` gives them.
        preparation: see :func:`load_network`.

    Returns:
        the network.

    Raises:
        InputError: the checkpoint does not hold exactly the expected tensors, does not say where they come from, or its
            training had scans that were prepared in another way.
    """
    if pretrained is None:
        logger.info("initialisation: random")
        return network
    content = read_checkpoint(pretrained)
    require_origin(content, str(pretrained), preparation)
    transfer_weights(network, content["network"], str(pretrained), wanted)
    total = len(network.state_dict())
    logger.info("initialisation: %d of %d tensors from %s, the others random", len(wanted), total, pretrained)
    return network


def continue_from(
    network: nn.Module, pretrained: str | None, preparation: Mapping[str, Any] | None, pretext: str
) -> nn.Module:
    """Give a network that is about to be pretrained all weights of one that was, the output layer's as well.

    Args:
        network: network that receives the weights.
        pretrained: checkpoint of a pretraining.
        preparation: see :func:`load_network`.
        pretext: pretext of the pretraining that begins; the weights must have learned the same.

    Returns:
        the network.

    Raises:
        InputError: there is no checkpoint, it is refused by :func:`load_network`, or it learned another pretext.
    """
    if pretrained is None:
        raise InputError("--pretrained: found none, expected the checkpoint that a pretraining goes on from.")
    load_network(network, pretrained, preparation, "restoration")
    known = read_checkpoint(pretrained).get("origin", {}).get("parameters", {}).get("pretext")
    if known != pretext:
        found = f"learned {known}" if known else "do not say their pretext"
        raise InputError(f"{pretrained}: found weights that {found}, expected {pretext} to go on with.")
    logger.info("initialisation: all tensors from %s", pretrained)
    return network


def describe_origin(pretrained: str | None) -> dict[str, str]:
    """Say what a training starts from.

    Args:
        pretrained: checkpoint, or None.

    Returns:
        ``initialisation`` and ``run``. The first is ``random``, or what the checkpoint was pretrained to do
        (``artifact_removal`` or ``autoencoder``); for a fine-tuned checkpoint it is what that one started from. The
        second is the MLflow run that the checkpoint comes from, if the checkpoint says so.
    """
    if pretrained is None:
        return {"initialisation": "random", "run": ""}
    origin = read_checkpoint(pretrained).get("origin", {})
    parameters = origin.get("parameters", {})
    start = parameters.get("pretext") or parameters.get("initialisation", "pretrained")
    return {"initialisation": start, "run": origin.get("mlflow_run", "")}


def evaluation_parameters(checkpoint: str, **own: Any) -> dict[str, Any]:
    """Parameters of an evaluation: those of the training of its checkpoint, and its own in their place.

    Args:
        checkpoint: checkpoint that is evaluated; it is one of the parameters.
        own: what the evaluation has of its own, such as its cohort.
    """
    origin = read_checkpoint(checkpoint).get("origin", {})
    return {**origin.get("parameters", {}), "checkpoint": checkpoint, **own}


def load_network(
    network: nn.Module, checkpoint: str, preparation: Mapping[str, Any] | None = None, task: str | None = None
) -> nn.Module:
    """Load all weights of a trained network.

    Args:
        network: network that receives the weights.
        checkpoint: checkpoint made by a training.
        preparation: preparation of the scans that the network is used on: ``bvalue``, ``voxel_size`` and ``scheme``,
            unit vectors ``(C, 3)``; ``smoothing`` and ``version`` are those of this code unless they stand there.
        task: task that the network is used for: ``restoration``, ``segmentation``, ``crossings`` or ``direction``.

    Returns:
        the network.

    Raises:
        InputError: the checkpoint does not hold exactly the network's tensors, does not say where they come from, or
            its training had another task or scans that were prepared in another way.
    """
    content = read_checkpoint(checkpoint)
    require_origin(content, str(checkpoint), preparation, task)
    transfer_weights(network, content["network"], str(checkpoint))
    return network
