"""NaN is never the best: it ends a training or an evaluation, and is never saved, loaded or scored."""

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, ValidationHandler, from_engine

from scripts.training.artifact_errors import artifact_errors
from scripts.training.checkpoints import BestModel, TrainingCheckpoint, write_checkpoint
from scripts.training.finite import RequireFinite
from scripts.training.losses import MaskedL1Loss
from scripts.training.metrics import Accuracy, AngleError, AngularError, Recall
from scripts.training.weights import describe_origin, initialise, load_network, read_checkpoint
from transforms.errors import InputError

SHAPE = (1, 2, 3, 4, 5)
BAD = [torch.nan, torch.inf, -torch.inf]


def spoilt(value):
    """A network with one weight that is not finite."""
    network = torch.nn.Conv3d(2, 2, 1)
    with torch.no_grad():
        network.weight[1, 0] = value
    return network


def train(folder, network, images, rate=0.01, epochs=3):
    """Train and validate as the configs do."""
    data = [{"image": image, "label": torch.zeros(SHAPE), "scan": ["sub-07"]} for image in images]
    output = from_engine(["pred", "label"])
    best = BestModel(network, str(folder / "model.pt"), "val_loss", lower_is_better=True)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        data[-1:],
        network,
        key_val_metric={"val_loss": IgniteMetricHandler(loss_fn=MaskedL1Loss(), output_transform=output)},
        val_handlers=[RequireFinite(), best],
    )
    optimizer = torch.optim.SGD(network.parameters(), rate)
    handlers = [
        RequireFinite(),
        ValidationHandler(1, evaluator),
        TrainingCheckpoint(str(folder), {"network": network, "optimizer": optimizer}),
    ]
    SupervisedTrainer(
        torch.device("cpu"), epochs, data, network, optimizer, MaskedL1Loss(), train_handlers=handlers
    ).run()


@pytest.mark.parametrize("value", BAD)
def test_a_loss_that_is_not_finite_ends_the_training_and_nothing_is_saved(tmp_path, value):
    images = [torch.rand(SHAPE) for _ in range(3)]
    images[1][0, 0, 1, 1, 1] = value
    with pytest.raises(InputError, match=r"^training: found a loss that is NaN or infinite in epoch 1, expected a num"):
        train(tmp_path, torch.nn.Conv3d(2, 2, 1), images)
    assert not list(tmp_path.glob("*.pt"))


def test_what_was_learned_before_is_kept(tmp_path):
    """The rate grows without bound: the first epoch is good, a later one is not."""
    network = torch.nn.Conv3d(2, 2, 1)
    train(tmp_path, network, [torch.rand(SHAPE)], epochs=1)
    before = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "checkpoint_epoch=1.pt").unlink()
    with pytest.raises(InputError, match=r"NaN or infin|= inf"):
        train(tmp_path, network, [torch.rand(SHAPE)], rate=1e38, epochs=9)
    assert (tmp_path / "model.pt").read_bytes() == before
    for path in tmp_path.glob("*.pt"):
        assert all(torch.isfinite(tensor).all() for tensor in read_checkpoint(path)["network"].values())


@pytest.mark.parametrize("value", BAD)
def test_a_network_that_returns_nan_is_not_evaluated(value):
    evaluator = SupervisedEvaluator(
        torch.device("cpu"),
        [{"image": torch.ones(SHAPE), "label": torch.zeros(SHAPE), "scan": ["sub-07"]}],
        spoilt(value),
        val_handlers=[RequireFinite()],
    )
    with pytest.raises(InputError, match="sub-07: found NaN or infinity in the network's output"):
        evaluator.run()


@pytest.mark.parametrize("value", BAD)
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, value):
    network, path = spoilt(value), tmp_path / "model.pt"
    with pytest.raises(InputError, match=r"model\.pt: found weights that are NaN or infinite \(weight\)"):
        write_checkpoint(path, {"network": network.state_dict()})
    assert not list(tmp_path.iterdir())
    torch.save({"network": network.state_dict()}, path)
    for use in (
        lambda: read_checkpoint(path),
        lambda: initialise(network, str(path), list(network.state_dict())),
        lambda: load_network(network, str(path)),
        lambda: describe_origin(str(path)),
    ):
        with pytest.raises(InputError, match="NaN or infinite"):
            use()


def test_a_metric_that_is_not_finite_is_never_the_best(tmp_path):
    network = torch.nn.Linear(1, 1)
    best = BestModel(network, str(tmp_path / "model.pt"), "score", lower_is_better=False)
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], network)
    for value in BAD:
        evaluator.state.metrics = {"score": value}
        with pytest.raises(InputError, match=r"validation: found score = .*, expected a number"):
            best(evaluator)
    assert best.best is None


@pytest.mark.parametrize("metric", [Accuracy(), Recall(), AngularError(), AngularError("median"), AngleError()])
@pytest.mark.parametrize("value", BAD)
def test_a_metric_is_nan_where_a_prediction_is_nan_and_counts(metric, value):
    channels = {"Accuracy": (4, 1), "Recall": (4, 1), "AngularError": (3, 3), "AngleError": (6, 6)}
    ours, theirs = channels[type(metric).__name__]
    good, target = torch.rand(ours, 2, 3, 4), torch.ones(theirs, 2, 3, 4)
    target[:, 0] = torch.nan
    # outside of what counts a prediction may be anything
    good[:, 0, 0, 0] = value
    bad = good.clone()
    bad[1, 1, 0, 0] = value
    metric([good], [target])
    assert metric.aggregate().isfinite()
    metric([bad], [target])
    assert metric.aggregate().isnan()
    metric.reset()


def test_errors_of_artifacts_that_are_not_finite_are_not_tabulated(tmp_path):
    scan = {"image": torch.rand(2, 3, 4, 5), "mask": torch.ones(1, 3, 4, 5), "scan": "sub-07"}
    path = tmp_path / "artifacts.csv"
    with pytest.raises(InputError, match="sub-07: found an error that is NaN or infinite"):
        artifact_errors(spoilt(torch.nan), [scan], [], [[1, 0, 0], [0, 1, 0]], str(path))
    assert not path.exists()
