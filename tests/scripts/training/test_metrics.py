"""Metrics of the tasks against scikit-learn and SciPy, per scan and then over scans."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from scipy.linalg import subspace_angles
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_squared_error, recall_score

from scripts.training.metrics import Accuracy, AngleError, AngularError, Recall, angular_error
from transforms import InputError, encode_direction

CONFIGS = Path(__file__).parents[3] / "bundle" / "configs"

SHAPES = [(3, 5, 4), (6, 2, 3), (4, 4, 7)]
"""Scans of several sizes."""


def random_counts(seed, shape):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(4, *shape))
    target = rng.choice(4, p=[0.1, 0.5, 0.3, 0.1], size=(1, *shape)).astype(np.float32)
    target[rng.random(target.shape) < 0.4] = np.nan
    counts = ~np.isnan(target[0])
    return torch.tensor(scores), torch.tensor(target), scores.argmax(axis=0)[counts], target[0][counts].astype(int)


def evaluate(metric, pairs):
    """Values per scan and over scans, as MONAI's handler calls a metric: lists of scans, one batch a scan."""
    for prediction, target in pairs:
        metric([prediction], [target])
    values, mean = metric.get_buffer(), metric.aggregate()
    metric.reset()
    return values.numpy(), float(mean)


def test_accuracies_are_those_of_scikit_learn():
    cases = [random_counts(seed, shape) for seed, shape in enumerate(SHAPES)]
    pairs = [case[:2] for case in cases]
    values, mean = evaluate(Accuracy(), pairs)
    expected = [accuracy_score(true, found) for *_, found, true in cases]
    np.testing.assert_allclose(values, np.array(expected)[:, None])
    assert mean == pytest.approx(np.mean(expected))
    values, mean = evaluate(Recall(), pairs)
    for line, (*_, found, true) in zip(values, cases, strict=True):
        np.testing.assert_allclose(line, recall_score(true, found, labels=range(4), average=None, zero_division=np.nan))
    assert mean == pytest.approx(np.mean([balanced_accuracy_score(true, found) for *_, found, true in cases]))


def test_a_class_that_a_scan_does_not_have_is_left_out_of_its_mean():
    scores = torch.eye(4)[:, [1, 1, 2, 0]].reshape(4, 1, 1, 4)
    target = torch.tensor([1.0, 2, 2, torch.nan]).reshape(1, 1, 1, 4)
    values, mean = evaluate(Recall(), [(scores, target)])
    np.testing.assert_array_equal(values, [[np.nan, 1.0, 0.5, np.nan]])
    assert mean == 0.75
    # and each scan counts alike, however many classes it has
    wrong = torch.tensor([2.0, torch.nan, torch.nan, torch.nan]).reshape(1, 1, 1, 4)
    _, mean = evaluate(Recall(), [(scores, target), (scores, wrong)])
    assert mean == 0.375


def random_axes(seed, shape):
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn((3, *shape), generator=generator, dtype=torch.float64)
    return axes / torch.linalg.vector_norm(axes, dim=0)


def test_angles_are_those_of_scipy_and_the_sign_does_not_matter():
    one, other = random_axes(0, (60,)), random_axes(1, (60,))
    # nearly equal, equal and opposite axes, where arccos is blind
    other[:, :20] = one[:, :20] + 1e-6 * other[:, :20]
    other[:, 20] = -one[:, 20]
    pairs = zip(one.T[:, :, None].numpy(), other.T[:, :, None].numpy(), strict=True)
    expected = [np.rad2deg(subspace_angles(u, v)[0]) for u, v in pairs]
    np.testing.assert_allclose(angular_error(one, other), expected, atol=1e-6)
    np.testing.assert_allclose(angular_error(-2 * one, other), expected, atol=1e-6)
    np.testing.assert_allclose(angular_error(other, one), expected, atol=1e-6)


def test_random_axes_are_a_radian_apart_on_average():
    errors = angular_error(random_axes(2, (200_000,)), random_axes(3, (200_000,)))
    assert errors.mean().item() == pytest.approx(np.rad2deg(1), abs=0.15)
    assert errors.median().item() == pytest.approx(60, abs=0.3)


def test_a_zero_vector_is_as_wrong_as_can_be():
    assert angular_error(torch.zeros(3, 1), torch.tensor([[0.0], [0.0], [1.0]])).item() == 90


@pytest.mark.parametrize(("statistic", "function"), [("mean", np.mean), ("median", np.median)])
def test_the_angular_error_is_that_of_a_scan_and_then_the_mean_of_scans(statistic, function):
    pairs, expected = [], []
    for seed, shape in enumerate(SHAPES):
        prediction, target = random_axes(seed, shape), random_axes(seed + 50, shape)
        outside = np.random.default_rng(seed).random(shape) < 0.3 + 0.2 * seed
        dot = np.abs((prediction * target).sum(dim=0).numpy()[~outside])
        expected.append(function(np.rad2deg(np.arccos(dot))))
        pairs.append((prediction, torch.where(torch.tensor(outside), torch.nan, target)))
    values, mean = evaluate(AngularError(statistic), pairs)
    np.testing.assert_allclose(values, np.array(expected)[:, None])
    assert mean == pytest.approx(np.mean(expected))


def test_the_median_of_two_lies_between_them():
    degrees = torch.deg2rad(torch.tensor([10.0, 30.0]))
    prediction = torch.stack([degrees.cos(), degrees.sin(), torch.zeros(2)])[..., None, None]
    target = torch.tensor([1.0, 0, 0])[:, None, None, None].expand(3, 2, 1, 1)
    assert evaluate(AngularError("median"), [(prediction, target)])[1] == pytest.approx(20, abs=1e-4)


def test_another_statistic_is_refused():
    with pytest.raises(InputError, match="found 'mode', expected one of mean, median"):
        AngularError("mode")


@pytest.mark.parametrize("encoding", ["angles", "dyad"])
def test_the_metric_of_the_paper_is_the_mean_square_of_normalised_angles(encoding):
    prediction, target = random_axes(0, (4, 5, 6)), random_axes(1, (4, 5, 6))
    outside = random_axes(2, (4, 5, 6))[0] > 0.3
    angles = [encode_direction(axes, "angles")[:, ~outside] for axes in (prediction, target)]
    codes = [encode_direction(axes, encoding) for axes in (prediction, target)]
    values, _ = evaluate(AngleError(encoding), [(codes[0], torch.where(outside, torch.nan, codes[1]))])
    assert values.item() == pytest.approx(mean_squared_error(*(pair.numpy().T for pair in angles)), rel=1e-6)


def test_angles_are_compared_as_the_network_returns_them():
    """A little beyond the seam is a little wrong, as in the paper, and not a turn around the sphere."""
    values, _ = evaluate(AngleError("angles"), [(torch.tensor([[0.3], [1.01]]), torch.tensor([[0.3], [0.99]]))])
    assert values.item() == pytest.approx(0.0002, rel=1e-4)


METRICS = {
    "accuracy": (Accuracy(), 4, 1),
    "recall": (Recall(), 4, 1),
    "angular error": (AngularError(), 3, 3),
    "median": (AngularError("median"), 3, 3),
    "angles": (AngleError("angles"), 2, 2),
    "dyads": (AngleError("dyad"), 6, 6),
}


@pytest.mark.parametrize(("metric", "channels", "labels"), METRICS.values(), ids=METRICS)
def test_a_scan_without_white_matter_is_left_out_of_the_mean(metric, channels, labels):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand((channels, 3, 4, 2), generator=generator)
    target = torch.randint(1, 3, (labels, 3, 4, 2), generator=generator).float()
    one, expected = evaluate(metric, [(prediction, target)])
    empty = torch.full_like(target, torch.nan)
    values, mean = evaluate(metric, [(prediction, target), (prediction, empty)])
    assert mean == expected
    np.testing.assert_array_equal(values[0], one[0])
    assert np.isnan(values[1]).all()


@pytest.mark.parametrize("name", ["angular error", "median", "angles", "dyads"])
def test_a_prediction_that_is_nan_shows(name):
    metric, channels, labels = METRICS[name]
    prediction = torch.full((channels, 3, 4, 2), torch.nan)
    assert np.isnan(evaluate(metric, [(prediction, torch.ones(labels, 3, 4, 2))])[1])


def test_the_macro_f1_of_a_segmentation_is_that_of_scikit_learn():
    """By the metric and the decoding that the configs have; nothing counts as predicted outside the brain mask."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ("finetune", "segmentation")])
    decode = Compose(parser.get_parsed_content("decode"))
    pairs, expected = [], []
    for seed, shape in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(4, *shape, generator=generator)
        mask = (torch.rand(1, *shape, generator=generator) > 0.3).float()
        target = torch.randint(0, 4, (1, *shape), generator=generator).float() * mask
        decoded = decode({"pred": logits, "label": target, "mask": mask})
        pairs.append((decoded["pred"], decoded["label"]))
        found = (logits.argmax(dim=0) * mask[0]).flatten()
        expected.append(f1_score(target.flatten(), found, average=None, labels=[1, 2, 3]))
    values, mean = evaluate(parser.get_parsed_content("key_metric")["val_macro_f1"].metric_fn, pairs)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert mean == pytest.approx(np.mean(expected), rel=1e-6)
