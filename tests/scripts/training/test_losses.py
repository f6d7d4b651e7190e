"""Losses: those of other implementations over what counts, and blind to the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss
from scipy.spatial.transform import Rotation
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from scripts.training.losses import (
    CalibratedL1Loss,
    DyadCosineLoss,
    MaskedCrossEntropyLoss,
    MaskedDiceCrossEntropyLoss,
    MaskedL1Loss,
    MaskedMSELoss,
    OneHotL1Loss,
    slope_of_directions,
)
from transforms import encode_direction

SHAPE = (2, 3, 4, 5)
"""Batch and space."""

seeds = given(st.integers(0, 2**31 - 1))
few = settings(deadline=None, max_examples=15)


def random_classes(seed, classes=4):
    """Logits ``(B, C, X, Y, Z)``, classes ``(B, 1, X, Y, Z)`` with NaN, and both of what counts as arrays."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(SHAPE[0], classes, *SHAPE[1:]))
    target = rng.choice(classes, p=[0.05, 0.5, 0.4, 0.05], size=(SHAPE[0], 1, *SHAPE[1:])).astype(float)
    target[rng.random(target.shape) < 0.4] = np.nan
    counts = ~np.isnan(target[:, 0])
    flat = np.moveaxis(logits, 1, -1)[counts]
    probabilities = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    return torch.tensor(logits), torch.tensor(target), probabilities, target[:, 0][counts].astype(int)


@few
@seeds
def test_cross_entropy_is_that_of_scikit_learn(seed):
    logits, target, probabilities, classes = random_classes(seed)
    expected = log_loss(classes, probabilities, labels=range(4))
    assert MaskedCrossEntropyLoss()(logits, target).item() == pytest.approx(expected, rel=1e-5)
    weights = compute_sample_weight("balanced", classes)
    for balance in (0.5, 1):
        expected = log_loss(classes, probabilities, labels=range(4), sample_weight=weights**balance)
        assert MaskedCrossEntropyLoss(balance)(logits, target).item() == pytest.approx(expected, rel=1e-5)


@few
@seeds
def test_l1_on_one_hot_is_the_mean_over_classes_and_what_counts(seed):
    logits, target, probabilities, classes = random_classes(seed)
    expected = np.abs(probabilities - np.eye(4)[classes]).mean()
    assert OneHotL1Loss()(logits, target).item() == pytest.approx(expected, rel=1e-5)


@few
@seeds
def test_squares_are_averaged_over_what_counts(seed):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(2, 2, 2, *SHAPE[1:]))
    target[rng.random(target.shape) < 0.3] = np.nan
    expected = np.nanmean((prediction - target) ** 2)
    assert MaskedMSELoss()(torch.tensor(prediction), torch.tensor(target)).item() == pytest.approx(expected)


@few
@seeds
def test_the_slope_is_that_of_a_regression_through_the_origin(seed):
    rng = np.random.default_rng(seed)
    prediction, target = rng.normal(size=(2, 2, 5, *SHAPE[1:]))
    outside = rng.random((2, 1, *SHAPE[1:])) < 0.3
    target = np.where(outside, np.nan, target)
    slopes = []
    for one, other, hidden in zip(prediction, target, outside[:, 0], strict=True):
        rows = [image[:, ~hidden] - image[:, ~hidden].mean(axis=0) for image in (one, other)]
        slopes.append(np.linalg.lstsq(rows[1].reshape(-1, 1), rows[0].ravel())[0].item())
    tensors = torch.tensor(prediction), torch.tensor(target)
    np.testing.assert_allclose(slope_of_directions(*tensors), slopes, rtol=1e-4, atol=1e-6)
    expected = MaskedL1Loss()(*tensors) + 0.3 * np.abs(np.array(slopes) - 1).mean()
    assert CalibratedL1Loss(0.3)(*tensors).item() == pytest.approx(expected.item(), rel=1e-4)


@few
@seeds
def test_the_slope_sees_differences_between_directions_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    mean = 0.1 + torch.rand((2, 1, *SHAPE[1:]), generator=generator)
    differences = torch.randn((2, 5, *SHAPE[1:]), generator=generator)
    differences -= differences.mean(dim=1, keepdim=True)
    shrunk = mean + torch.tensor([0.6, 1.1]).reshape(2, 1, 1, 1, 1) * differences
    torch.testing.assert_close(slope_of_directions(shrunk + mean, mean + differences), torch.tensor([0.6, 1.1]))
    alike = mean.expand_as(differences)
    assert slope_of_directions(shrunk, alike).tolist() == [1.0, 1.0]


def random_dyads(seed):
    generator = torch.Generator().manual_seed(seed)
    axes = torch.randn((3, *SHAPE), generator=generator, dtype=torch.float64)
    target = encode_direction(axes, "dyad").movedim(0, 1)
    prediction = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return prediction, torch.where(torch.rand(SHAPE, generator=generator)[:, None] < 0.3, torch.nan, target)


def as_matrices(code):
    """Symmetric matrices ``(..., 3, 3)`` of dyads ``(B, 6, ...)``, written out."""
    xx, yy, zz, xy, xz, yz = code.movedim(1, 0)
    rows = [torch.stack(row, dim=-1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    return torch.stack(rows, dim=-2)


def as_code(matrices):
    places = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    return torch.stack([matrices[..., row, column] for row, column in places], dim=1)


def test_dyads_are_compared_as_matrices():
    prediction, target = random_dyads(0)
    counts = ~target.isnan().any(dim=1)
    pair = [as_matrices(code)[counts].flatten(1) for code in (prediction, target)]
    expected = 1 - torch.nn.functional.cosine_similarity(*pair).mean()
    torch.testing.assert_close(DyadCosineLoss()(prediction, target), expected, check_dtype=False, atol=1e-6, rtol=1e-5)


def test_the_frame_and_the_scale_of_dyads_do_not_matter_and_the_best_is_the_dyad_itself():
    prediction, target = random_dyads(1)
    loss = DyadCosineLoss()
    expected = loss(prediction, target)
    turn = torch.tensor(Rotation.from_euler("xyz", [10, 50, -70], degrees=True).as_matrix())
    turned = [as_code(turn @ as_matrices(code) @ turn.T) for code in (prediction, target)]
    torch.testing.assert_close(loss(*turned), expected)
    torch.testing.assert_close(loss(0.01 * prediction, target), expected)
    assert loss(torch.nan_to_num(3 * target), target).item() == pytest.approx(0, abs=1e-6)
    # an axis across the true one: the matrices have nothing in common
    across = torch.tensor([0.0, 1, 0, 0, 0, 0]).reshape(1, 6, 1, 1, 1)
    assert loss(across, torch.tensor([1.0, 0, 0, 0, 0, 0]).reshape(1, 6, 1, 1, 1)).item() == pytest.approx(1)


CASES = {
    "cross-entropy": (MaskedCrossEntropyLoss(), 4, 1),
    "balanced cross-entropy": (MaskedCrossEntropyLoss(balance=0.5), 4, 1),
    "one-hot": (OneHotL1Loss(), 4, 1),
    "L1": (MaskedL1Loss(), 2, 2),
    "MSE": (MaskedMSELoss(), 2, 2),
    "calibrated L1": (CalibratedL1Loss(), 2, 2),
    "dyad": (DyadCosineLoss(), 6, 6),
}


@pytest.mark.parametrize(("loss", "channels", "labels"), CASES.values(), ids=CASES)
def test_what_does_not_count_has_no_gradient_and_no_say(loss, channels, labels):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn((2, channels, 3, 4, 5), generator=generator).requires_grad_()
    target = torch.randint(0, 3, (2, labels, 3, 4, 5), generator=generator).float()
    outside = torch.rand((2, 1, 3, 4, 5), generator=generator) < 0.5
    target = torch.where(outside, torch.nan, target)
    value = loss(prediction, target)
    value.backward()
    assert value > 0
    everywhere = outside.expand_as(prediction)
    assert not prediction.grad[everywhere].any()
    assert prediction.grad[~everywhere].abs().sum() > 0
    disturbed = torch.where(outside, 1e3, prediction.detach())
    torch.testing.assert_close(loss(disturbed, target), value.detach())


@pytest.mark.parametrize(("loss", "channels", "labels"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("prediction", [0.0, 1.0])
def test_a_target_of_nothing_gives_zero_and_no_prediction_gives_nan(loss, channels, labels, prediction):
    leaf = torch.full((1, channels, 2, 2, 2), prediction, requires_grad=True)
    value = loss(leaf, torch.full((1, labels, 2, 2, 2), torch.nan))
    value.backward()
    assert value == 0
    assert not leaf.grad.any()
    value = loss(leaf, torch.ones(1, labels, 2, 2, 2))
    value.backward()
    assert leaf.grad.isfinite().all()


def test_tissue_outside_the_mask_does_not_count_and_inside_the_loss_is_dice_and_cross_entropy():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 5, 6, 7, generator=generator, requires_grad=True)
    target = torch.randint(0, 4, (2, 1, 5, 6, 7), generator=generator).float()
    dice = DiceLoss(to_onehot_y=True, softmax=True, include_background=False)(logits, target)
    whole = dice + torch.nn.functional.cross_entropy(logits, target[:, 0].long())
    assert float(MaskedDiceCrossEntropyLoss()(logits, target)) == pytest.approx(float(whole), rel=1e-5)

    masked = torch.where(torch.rand(target.shape, generator=generator) < 0.6, torch.nan, target)
    loss = MaskedDiceCrossEntropyLoss()(logits, masked)
    (gradient,) = torch.autograd.grad(loss, logits)
    outside = torch.isnan(masked).expand_as(logits)
    assert not gradient[outside].any()
    assert gradient[~outside].any()
    other = torch.where(outside, 9.0 * torch.randn(logits.shape, generator=generator), logits)
    assert float(MaskedDiceCrossEntropyLoss()(other, masked)) == pytest.approx(float(loss), rel=1e-6)
    nothing = MaskedDiceCrossEntropyLoss()(logits, torch.full_like(target, torch.nan))
    assert float(nothing) == pytest.approx(0.0, abs=1e-6)
