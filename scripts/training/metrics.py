"""Metrics of the tasks, one value per scan or class: NaN in a target means that the voxel does not count.

The metrics fit MONAI's ``IgniteMetricHandler``, which keeps the values of each scan for ``MetricsSaver``. A validation
reports their mean over scans. A scan without any voxel that counts has the value NaN, and the mean leaves it out. A
scan with a prediction that is not finite where a voxel counts has the value infinity, and then the mean is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from monai.metrics import CumulativeIterationMetric

from transforms.errors import InputError
from transforms.targets import decode_direction, encode_direction

T = TypeVar("T")

STATISTICS = ("mean", "median")

LOWER_IS_BETTER = ("loss", "error", "mse", "mae", "distance", "hd95")
"""Ends of the names of metrics that are better where they are lower."""


def name_on_test(metric: str) -> str:
    """Name of a validation's metric on test scans: ``test_macro_f1`` for ``val_macro_f1``."""
    return f"test_{metric.removeprefix('val_')}" if metric.startswith("val_") else metric


def lower_is_better(metric: str) -> bool:
    """Whether a metric is better where it is lower, by its name: an error, a loss or a distance."""
    return metric.lower().endswith(LOWER_IS_BETTER)


def for_test(by_name: Mapping[str, T]) -> dict[str, T]:
    """Return what has the names of a validation's metrics under the names that they have on test scans."""
    return {name_on_test(name): value for name, value in by_name.items()}


class _ScanMetric(CumulativeIterationMetric):
    """A metric with one value per scan, or one per scan and class."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        if y is None:
            raise InputError("metric: found no target, expected one.")
        values = []
        for prediction, target in zip(torch.as_tensor(y_pred), torch.as_tensor(y), strict=True):
            value = self.score(prediction, target)
            finite = torch.isfinite(prediction[:, ~torch.isnan(target).any(dim=0)]).all()
            values.append(value if finite else torch.full_like(value, torch.inf))
        return torch.stack(values)

    def score(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Score one scan.

        Args:
            prediction: ``(C, X, Y, Z)``.
            target: ``(C, X, Y, Z)``, NaN where a voxel does not count.

        Returns:
            one value per class, or a single one; ``(N,)``.
        """
        raise NotImplementedError

    def aggregate(self) -> torch.Tensor:
        """Return the mean over scans of each scan's mean over classes; both leave NaN out. NaN if one is infinite."""
        mean = torch.nanmean(torch.nanmean(torch.as_tensor(self.get_buffer()), dim=1))
        return mean if torch.isfinite(mean) else torch.full_like(mean, torch.nan)


def _classes(prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    counts = ~torch.isnan(target[0])
    return prediction.argmax(dim=0)[counts], target[0][counts].long()


class Accuracy(_ScanMetric):
    """Fraction of the voxels whose most probable class is the right one.

    Predictions are probabilities or logits ``(C, X, Y, Z)``, targets classes ``(1, X, Y, Z)``.
    """

    def score(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Score one scan, ``(1,)``."""
        found, expected = _classes(prediction, target)
        return (found == expected).double().mean(dim=0, keepdim=True)


class Recall(_ScanMetric):
    """Fraction of the voxels of each class that are found; NaN for a class that the scan does not have.

    The mean over classes is the balanced accuracy: chance and any constant answer reach 1 / number of classes.
    Predictions are probabilities or logits ``(C, X, Y, Z)``, targets classes ``(1, X, Y, Z)``.
    """

    def score(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Score one scan, ``(C,)``."""
        found, expected = _classes(prediction, target)
        n = len(prediction)
        right = torch.bincount(expected[found == expected], minlength=n)
        # 0 / 0 is NaN
        return right.double() / torch.bincount(expected, minlength=n)


def angular_error(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the angle between axes in degrees, 0 to 90.

    It is ``arccos |u.v|``, in a form that is exact for small angles too.

    Args:
        one: vectors of any length, ``(3, ...)``; a zero vector is no axis, and has 90 degrees to everything.
        other: vectors of the same shape.
    """
    one, other = one.double(), other.double()
    across = torch.linalg.vector_norm(torch.linalg.cross(one, other, dim=0), dim=0)
    along = (one * other).sum(dim=0).abs()
    degrees = torch.rad2deg(torch.atan2(across, along))
    return torch.where((across == 0) & (along == 0), 90.0, degrees)


class AngularError(_ScanMetric):
    """Angle in degrees between predicted and true axes, unit vectors ``(3, X, Y, Z)``; random axes have a mean of 57.3.

    Args:
        statistic: statistic over the voxels of a scan, ``mean`` or ``median``.

    Raises:
        InputError: there is no such statistic.
    """

    def __init__(self, statistic: str = "mean") -> None:
        super().__init__()
        if statistic not in STATISTICS:
            raise InputError(f"statistic: found {statistic!r}, expected one of {', '.join(STATISTICS)}.")
        self.statistic = statistic

    def score(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Score one scan, ``(1,)``."""
        counts = ~torch.isnan(target).any(dim=0)
        errors = angular_error(prediction[:, counts], target[:, counts])
        if not len(errors):
            return errors.new_full((1,), torch.nan)
        return errors.mean(dim=0, keepdim=True) if self.statistic == "mean" else errors.quantile(0.5)[None]


class AngleError(_ScanMetric):
    """Mean squared error of the two normalised angles, the metric of Weninger et al., BVM 2022, for ``direction``.

    Predictions and targets are encoded axes, as the network returns them. The metric compares angles as they are, and
    turns dyads into angles first.

    Args:
        encoding: ``dyad`` or ``angles``.
    """

    def __init__(self, encoding: str = "dyad") -> None:
        super().__init__()
        self.encoding = encoding

    def score(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Score one scan, ``(1,)``."""
        counts = ~torch.isnan(target).any(dim=0)
        pair = [code[:, counts].double() for code in (prediction, target)]
        if self.encoding != "angles":
            pair = [encode_direction(decode_direction(code, self.encoding), "angles") for code in pair]
        return ((pair[0] - pair[1]) ** 2).mean()[None]
