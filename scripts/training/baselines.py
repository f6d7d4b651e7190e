"""Baselines of the tasks: methods without training, in the form of networks.

The floor is a constant answer, which any network should beat. An atlas says what position alone gives
(:mod:`scripts.training.atlas`). The other baselines are classical methods on the same input. Each baseline takes
attenuations ``(B, C, X, Y, Z)`` and returns what a network for the task returns, so the same code decodes and scores
all of them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from monai.transforms import Transform
from rich.console import Console
from rich.table import Table
from scipy import ndimage
from torch import nn

from scripts.cohort.datalist import describe_input
from scripts.cohort.prepared import label_records
from scripts.io.files import write_table
from scripts.training.atlas import Atlas
from scripts.training.tracking import ScanTable, Tracker, metric_name
from transforms.diffusion.csd import Peaks, find_peaks
from transforms.diffusion.dti import fit_tensor_lls, fit_tensor_wls, fractional_anisotropy, mean_diffusivity
from transforms.errors import InputError
from transforms.label_classes import MAX_NUFO, TISSUES
from transforms.targets import CHANNELS, decode_direction, encode_direction

MIN_WHITE_FA = 0.25
MAX_WHITE_MD = 1.1e-3
"""Smallest fractional anisotropy and largest mean diffusivity in mm2/s of white matter. This pair of limits has the
best overlap (Dice 0.94) with the white matter of a phantom at 2.4 mm."""

MIN_CSF_MD = 1.6e-3
"""Smallest mean diffusivity of CSF in mm2/s: it lies between gray matter with 0.8e-3 and free water with 3.0e-3."""

MIN_DECONVOLUTION_FA = 0.1
"""Smallest fractional anisotropy for a deconvolution: no white matter has less, even where three fibres cross."""

LABEL_METHOD = "deconvolution (label method)"
"""Name of the baseline whose algorithm made the labels of a cohort: agreement with them is no measure of truth."""

CERTAIN = 20.0
"""Logit of a class that is certain: softmax turns it into a probability of 1, but for 2 in 10^9 per other class."""

console = Console()


class Voxelwise(nn.Module):
    """Network without weights that applies a method to each scan.

    Args:
        method: function from attenuations ``(C, X, Y, Z)`` to what a network returns for them, ``(K, X, Y, Z)``.
    """

    def __init__(self, method: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the answers for a batch ``(B, C, X, Y, Z)``."""
        return torch.stack([self.method(image) for image in images])


def class_logits(classes: torch.Tensor, count: int) -> torch.Tensor:
    """Return logits ``(count, X, Y, Z)`` of classes ``(X, Y, Z)`` that are certain."""
    return CERTAIN * torch.movedim(nn.functional.one_hot(classes.long(), count), -1, 0).float()


def tissue_by_tensor(image: torch.Tensor, gradients: np.ndarray) -> torch.Tensor:
    """Classify tissue by thresholds of FA and MD: white matter, CSF, and gray matter for the rest."""
    tensor = fit_tensor_lls(image, gradients)
    diffusivity = mean_diffusivity(tensor)
    white = (fractional_anisotropy(tensor) > MIN_WHITE_FA) & (diffusivity < MAX_WHITE_MD)
    names = ["gray matter", "white matter", "cerebrospinal fluid"]
    gray, white_matter, csf = (TISSUES.index(name) for name in names)
    classes = torch.full(image.shape[1:], gray, device=image.device)
    classes[white] = white_matter
    classes[diffusivity > MIN_CSF_MD] = csf
    return class_logits(classes, len(TISSUES))


def direction_by_tensor(image: torch.Tensor, gradients: np.ndarray, encoding: str) -> torch.Tensor:
    """Return the main eigenvector of the diffusion tensor, encoded."""
    matrices = fit_tensor_lls(image, gradients).movedim((0, 1), (-2, -1)).double()
    main = torch.linalg.eigh(matrices)[1][..., -1].movedim(-1, 0)
    return encode_direction(main, encoding).to(image.dtype)


def deconvolve(image: torch.Tensor, gradients: np.ndarray) -> Peaks:
    """Deconvolve attenuations, wherever FA is above ``MIN_DECONVOLUTION_FA``.

    The method is that of the labels, which deconvolve the scan itself. The response comes from voxels away from the
    brain's rim, because movement makes the rim anisotropic.
    """
    attenuation = image.cpu().numpy().astype(np.float32)
    inside = np.asarray(attenuation.any(axis=0))
    # the attenuation of a b0 volume is 1
    signal = np.concatenate([np.ones((1, *inside.shape), np.float32), attenuation])
    table = np.vstack([np.zeros(4), gradients])
    tensor = fit_tensor_wls(signal, table, inside)
    clear = ndimage.binary_erosion(inside) & (tensor.md < MAX_WHITE_MD)
    return find_peaks(signal, table, inside & (tensor.fa > MIN_DECONVOLUTION_FA), tensor.fa, clear)


def nufo_by_deconvolution(image: torch.Tensor, gradients: np.ndarray) -> torch.Tensor:
    """Return the NuFO of each voxel, as logits."""
    return class_logits(torch.from_numpy(deconvolve(image, gradients).nufo), MAX_NUFO + 1).to(image)


def direction_by_deconvolution(image: torch.Tensor, gradients: np.ndarray, encoding: str) -> torch.Tensor:
    """Return the largest peak, encoded; where there is no peak, the main eigenvector of the tensor."""
    peak = torch.from_numpy(np.moveaxis(deconvolve(image, gradients).peak, -1, 0))
    code = encode_direction(peak, encoding).to(image)
    return torch.where(torch.isnan(code), direction_by_tensor(image, gradients, encoding), code)


def majority_class(labels: Iterable[torch.Tensor], count: int) -> torch.Tensor:
    """Return logits ``(count,)`` of the most frequent class of labels ``(1, X, Y, Z)``; NaN does not count."""
    counts = torch.zeros(count)
    for label in labels:
        classes = label[~torch.isnan(label)].long()
        counts += torch.bincount(classes.flatten(), minlength=count)[:count]
    return CERTAIN * nn.functional.one_hot(counts.argmax(), count).float()


def mean_axis(labels: Iterable[torch.Tensor], encoding: str) -> torch.Tensor:
    """Return the code ``(K,)`` of the axis nearest to all encoded axes ``(K, X, Y, Z)``; NaN does not count."""
    total = torch.zeros(CHANNELS["dyad"], dtype=torch.float64)
    for label in labels:
        codes = label[:, ~torch.isnan(label).any(dim=0)].double()
        total += encode_direction(decode_direction(codes, encoding), "dyad").sum(dim=1)
    axis = decode_direction(total[:, None], "dyad")
    return encode_direction(axis, encoding)[:, 0].float()


def constant(answer: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a method that gives every voxel the same answer ``(K,)``."""
    return lambda image: answer.to(image)[:, None, None, None].expand(-1, *image.shape[1:])


def name_deconvolution(folder: Path) -> str:
    """Name the baseline that deconvolves by how the labels of a prepared cohort were made, as their records say."""
    records = label_records(folder)
    if records and all(record.get("Route") == "truth" for record in records):
        return "deconvolution"
    if records and all(record.get("Parameters", {}).get("SharpResponse") for record in records):
        return "deconvolution (label method, another response)"
    return LABEL_METHOD


def encoding_of(output_channels: int) -> str:
    """Return the encoding of a direction that has a number of channels."""
    return next(name for name, channels in CHANNELS.items() if channels == output_channels)


def baselines(
    task: str,
    output_channels: int,
    gradients: np.ndarray,
    labels: Iterable[torch.Tensor],
    deconvolution: str = LABEL_METHOD,
) -> dict[str, nn.Module]:
    """Make the baselines of a task.

    Args:
        task: ``segmentation``, ``crossings`` or ``direction``.
        output_channels: channels ``K`` of the output of a network for the task; they tell the encoding of a direction.
        gradients: gradient table of the input, ``(C, 4)``.
        labels: targets of the training scans, ``(1, X, Y, Z)`` or ``(K, X, Y, Z)``.
        deconvolution: name of the baseline that deconvolves, see :func:`name_deconvolution`.

    Returns:
        networks by name.
    """
    if task == "segmentation":
        # outside the brain the label is background, which every method knows, so only tissue inside counts
        inside = (torch.where(label > 0, label, torch.nan) for label in labels)
        return {
            "majority class": Voxelwise(constant(majority_class(inside, len(TISSUES)))),
            "FA and MD thresholds": Voxelwise(lambda image: tissue_by_tensor(image, gradients)),
        }
    if task == "crossings":
        return {
            "majority class": Voxelwise(constant(majority_class(labels, MAX_NUFO + 1))),
            deconvolution: Voxelwise(lambda image: nufo_by_deconvolution(image, gradients)),
        }
    encoding = encoding_of(output_channels)
    return {
        "mean axis": Voxelwise(constant(mean_axis(labels, encoding))),
        "tensor": Voxelwise(lambda image: direction_by_tensor(image, gradients, encoding)),
        deconvolution: Voxelwise(lambda image: direction_by_deconvolution(image, gradients, encoding)),
    }


def compare(
    evaluator: SupervisedEvaluator,
    data_loader: Iterable[Any],
    postprocessing: Transform,
    metrics: Mapping[str, Metric],
    classes: Mapping[str, Sequence[str]],
    task: str,
    output_channels: int,
    dataset_dir: str,
    training_data: Sequence[Mapping[str, Any]],
    folder: str,
    tracker: Tracker | None = None,
) -> None:
    """Score the baselines of a task on the scans that a network was evaluated on, and write all scores side by side.

    Writes ``<folder>/baselines.csv`` (columns ``method``, ``scan``, ``metric``, ``class``, ``value``; the network is
    one of the methods) and prints the means.

    Args:
        evaluator: evaluator of the network after its run, which wrote ``<folder>/scans.csv``.
        data_loader: loader of the scans.
        postprocessing: transform that decodes what a network returns.
        metrics: metrics of the evaluator, the leading one first.
        classes: names of the classes of each metric.
        task: see :func:`baselines`.
        output_channels: see :func:`baselines`.
        dataset_dir: folder of the prepared cohort.
        training_data: data set of the training scans, with ``image`` and ``label``.
        folder: folder of the evaluation.
        tracker: tracker of the evaluation; its run gets the scores, as ``test_macro_f1/baseline_atlas``.
    """
    prepared = describe_input(dataset_dir)
    scheme = np.array(prepared["scheme"])
    gradients = np.column_stack([scheme, np.full(len(scheme), prepared["bvalue"])])
    means = {"network": dict(evaluator.state.metrics)}
    rows = _read("network", Path(folder) / "scans.csv")
    labels = (item["label"].as_tensor() for item in training_data)
    methods = baselines(task, output_channels, gradients, labels, name_deconvolution(Path(dataset_dir)))
    encoding = encoding_of(output_channels) if task == "direction" else None
    methods["atlas"] = Atlas(training_data, output_channels, encoding)
    leading, *others = metrics
    with TemporaryDirectory() as temporary:
        for name, method in methods.items():
            table = Path(temporary) / f"{name}.csv"
            other = SupervisedEvaluator(
                device=torch.device("cpu"),
                val_data_loader=data_loader,
                network=method,
                postprocessing=postprocessing,
                key_val_metric={leading: metrics[leading]},
                additional_metrics={metric: metrics[metric] for metric in others},
                val_handlers=[ScanTable(str(table), classes)],
            )
            try:
                other.run()
            except InputError as error:
                # a method that cannot answer is left out, and the comparison goes on with the others
                console.print(f"{name}: left out: {error}", highlight=False, soft_wrap=True)
                continue
            means[name] = dict(other.state.metrics)
            rows += _read(name, table)
    path = Path(folder) / "baselines.csv"
    write_table(path, ("method", *ScanTable.COLUMNS), rows)
    if tracker:
        scores = {
            metric_name(metric, f"baseline {name}"): values[metric]
            for name, values in means.items()
            for metric in metrics
            if name != "network"
        }
        tracker.log_afterwards(scores, path)
    shown = Table("method", *metrics, title=f"{task}, means over the scans")
    for name, values in means.items():
        shown.add_row(name, *(f"{values[metric]:.4f}" for metric in metrics))
    console.print(shown)


def _read(method: str, path: Path) -> list[tuple[str, ...]]:
    """Read the rows of a table that ``ScanTable`` wrote, and put the method before each."""
    with path.open(newline="") as file:
        return [(method, *row) for row in list(csv.reader(file))[1:]]
