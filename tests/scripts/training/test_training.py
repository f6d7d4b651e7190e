"""Training: what its errors count for, and that a resumed training is an unbroken one."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Events
from matplotlib.figure import Figure
from mlflow import MlflowClient
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandGaussianNoised, RandScaleIntensityd
from monai.utils import set_determinism

from scripts.engines import run
from scripts.io.files import read_json, write_json
from scripts.training.checkpoints import LARGEST
from scripts.training.losses import MaskedL1Loss
from scripts.training.seeds import EpochSeed
from scripts.training.weights import continue_from, read_checkpoint
from transforms.errors import InputError

CONFIGS = Path(__file__).parents[3] / "bundle" / "configs"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_the_loss_is_the_mean_over_what_counts_and_its_gradient_is_zero_elsewhere(seed, share):
    rng = np.random.default_rng(seed)
    shape = (2, 3, 4, 3, 2)
    prediction = rng.normal(size=shape)
    target = np.where(rng.random(shape) < share, rng.normal(size=shape), np.nan)
    counts = ~np.isnan(target)
    leaf = torch.tensor(prediction, requires_grad=True)
    loss = MaskedL1Loss()(leaf, torch.tensor(target))
    loss.backward()
    expected = np.nanmean(np.abs(prediction - target)) if counts.any() else 0.0
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    signs = np.where(counts, np.sign(prediction - np.nan_to_num(target)), 0) / max(counts.sum(), 1)
    np.testing.assert_allclose(leaf.grad.numpy(), signs, rtol=1e-12)


def draws(epochs, num_workers, seed=3, before=0):
    """What the loader gives in each epoch; ``before`` is what torch's and the dataset's generators did earlier."""
    set_determinism(seed=before)
    torch.rand(before)
    data = [{"image": torch.full((1, 2, 3, 4), float(index))} for index in range(7)]
    noise = [RandGaussianNoised("image", prob=0.7), RandScaleIntensityd("image", factors=0.1, prob=0.7)]
    dataset = CacheDataset(data, Compose(noise), progress=False)
    dataset.transform.set_random_state(before)
    loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=num_workers)
    network = torch.nn.Linear(4, 4)
    seen = {}
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        max_epochs=max(epochs),
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=torch.nn.L1Loss(),
        prepare_batch=lambda batch, *_, **__: (batch["image"], batch["image"]),
        train_handlers=[EpochSeed(dataset, seed)],
        decollate=False,
    )
    trainer.state.epoch = min(epochs) - 1
    trainer.state.epoch_length = len(loader)
    trainer.state.iteration = (min(epochs) - 1) * len(loader)

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine):
        seen.setdefault(engine.state.epoch, []).append(torch.as_tensor(engine.state.batch["image"]).clone())

    trainer.run()
    set_determinism(None)
    return {epoch: torch.cat(batches) for epoch, batches in seen.items()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_draws_the_same_whatever_came_before(num_workers):
    whole = draws([1, 2, 3, 4], num_workers)
    assert list(whole) == [1, 2, 3, 4]
    # both the order of the scans and what is drawn for each differ between epochs
    orders = [tuple(torch.round(images.mean(dim=(1, 2, 3, 4))).tolist()) for images in whole.values()]
    assert len(set(orders)) > 1
    assert all(not torch.equal(whole[1], whole[epoch]) for epoch in (2, 3, 4))
    resumed = draws([3, 4], num_workers, before=99)
    assert list(resumed) == [3, 4]
    for epoch, images in resumed.items():
        assert torch.equal(images, whole[epoch]), epoch


def test_seeds_and_epochs_share_no_draws():
    first, second = draws([1, 2, 3], 0, seed=0), draws([1, 2, 3], 0, seed=1)
    noise = [images - torch.round(images) for images in [*first.values(), *second.values()]]
    for index, one in enumerate(noise):
        assert all(not torch.equal(one.sort(dim=0).values, other.sort(dim=0).values) for other in noise[:index])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A prepared cohort of smooth random attenuations in 6 directions, on two sizes of grid."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    datalist = {"training": [], "validation": [], "test": []}
    for index, split in enumerate(["training"] * 3 + ["validation"]):
        name, shape = f"sub-{index:02d}", (11, 13, 9 + index)
        centred = [np.linspace(-1, 1, n) for n in shape]
        x, y, z = np.meshgrid(*centred, indexing="ij")
        mask = (x**2 + y**2 + z**2 < 0.9).astype(np.uint8)
        waves = [0.5 + 0.3 * np.sin(a * x + b * y + c * z) for a, b, c in rng.uniform(-3, 3, (6, 3))]
        image = (np.stack(waves, axis=-1) * mask[..., None]).astype(np.float32)
        affine = np.diag([2.4, 2.4, 2.4, 1.0])
        nib.save(nib.Nifti1Image(image, affine), folder / f"{name}_image.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"{name}_mask.nii.gz")
        nib.save(nib.Nifti1Image(100.0 * mask, affine), folder / f"{name}_b0.nii.gz")
        datalist[split].append(
            {
                "participant": name,
                "scan": name,
                "checksum": name,
                "image": f"{name}_image.nii.gz",
                "mask": f"{name}_mask.nii.gz",
                "b0": f"{name}_b0.nii.gz",
            }
        )
    write_json(folder / "datalist.json", {**datalist, "checksum": "abc"})
    write_json(folder / "dataset_description.json", {"Preparation": {"bvalue": 1000.0, "voxel_size": 2.4}})
    axes = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
    np.savetxt(folder / "scheme.bvec", axes.T)
    return folder


@pytest.fixture(scope="module")
def trainings(cohort, tmp_path_factory, mlflow_store):
    """The pretraining config with a small network: straight, stopped in its third epoch and resumed, and continued."""
    folder = tmp_path_factory.mktemp("runs")

    def parse(name, *overlays, **changes):
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / f"{config}.json") for config in ("pretrain", *overlays)])
        parser.update(
            {
                "dataset_dir": str(cohort),
                "output_dir": str(folder / name),
                "tracking_uri": mlflow_store,
                "max_epochs": 4,
                "batch_size": 2,
                "num_workers": 0,
                "learning_rate": 0.01,
                "device": "$torch.device('cpu')",
                "network_def::in_channels": 6,
                "output_channels": 6,
                "network_def::filters": [2, 4, 4, 4],
                **changes,
            }
        )
        parser.parse()
        parser.get_parsed_content("initialize")
        return parser

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # pictures have tests of their own, and take longer than the training
        patch.setattr("scripts.training.pictures.draw", lambda *_: Figure(figsize=(1, 1)))
        straight = parse("straight")
        straight.get_parsed_content("training")

        broken = parse("broken")
        trainer = broken.get_parsed_content("train::trainer")

        @trainer.on(Events.ITERATION_COMPLETED)
        def stop(engine):
            if engine.state.epoch == 3:
                raise KeyboardInterrupt

        with pytest.raises(SystemExit, match=r"resume\.json"):
            broken.get_parsed_content("training")
        torch.rand(1000)
        resumed = parse("broken", resume=True)
        first = {}

        @resumed.get_parsed_content("train::trainer").on(Events.EPOCH_STARTED)
        def note(engine):
            first.setdefault("epoch", engine.state.epoch)

        resumed.get_parsed_content("training")

        start = {"pretrained": str(folder / "straight" / "model.pt"), "max_epochs": 1, "learning_rate": 1e-12}
        parse("continued", "continued", **start).get_parsed_content("training")
    set_determinism(None)
    return folder, straight, resumed, first["epoch"], MlflowClient(mlflow_store)


def test_a_resumed_training_ends_with_the_weights_of_an_unbroken_one(trainings):
    folder, straight, resumed, first, _ = trainings
    assert first == 3
    for parser in (straight, resumed):
        assert parser.get_parsed_content("train::trainer").state.epoch == 4
    one, other = (parser.get_parsed_content("network").state_dict() for parser in (straight, resumed))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    first_weights = read_checkpoint(folder / "straight" / "checkpoint_epoch=3.pt")["network"]
    assert any(not torch.equal(value, first_weights[key]) for key, value in one.items())


def test_the_best_model_of_both_is_the_same(trainings):
    folder, straight, resumed, _, _ = trainings
    one, other = (read_checkpoint(folder / name / "model.pt") for name in ("straight", "broken"))
    for key, value in one["network"].items():
        assert torch.equal(value, other["network"][key]), key
    assert one["origin"]["val_loss"] == other["origin"]["val_loss"]
    best, also = (parser.get_parsed_content("best_model").best for parser in (straight, resumed))
    assert best == also == one["origin"]["val_loss"]
    assert one["origin"]["parameters"]["pretext"] == "artifact_removal"
    # every validation corrupts its scans alike, so the largest error of an input is no less than the mean of them
    mean = straight.get_parsed_content("validate::evaluator").state.metrics["val_loss_of_input"]
    assert one["origin"][LARGEST]["val_loss_of_input"] >= mean * (1 - 1e-6) > 0


def test_a_checkpoint_holds_what_a_training_goes_on_from_and_two_are_kept(trainings):
    folder = trainings[0]
    kept = sorted(path.name for path in (folder / "straight").glob("*.pt"))
    assert kept == ["checkpoint_epoch=3.pt", "checkpoint_epoch=4.pt", "model.pt"]
    assert {path.name for path in (folder / "broken").glob("*.pt")} >= set(kept)
    checkpoint = read_checkpoint(folder / "straight" / "checkpoint_epoch=4.pt")
    assert checkpoint.keys() == {"network", "optimizer", "best_model", "trainer", "origin"}
    pictures = sorted(path.name for path in (folder / "straight" / "pictures").iterdir())
    assert pictures == [f"epoch_{epoch:04d}.png" for epoch in (1, 2, 3, 4)]


def test_a_continued_training_begins_with_all_given_weights_and_says_so(trainings):
    folder = trainings[0]
    given, continued = (read_checkpoint(folder / name / "model.pt") for name in ("straight", "continued"))
    for key, value in given["network"].items():
        # its rate is all but 0
        torch.testing.assert_close(continued["network"][key], value, rtol=0, atol=1e-9, msg=key)
    assert continued["origin"]["val_loss"] == pytest.approx(given["origin"]["val_loss"], rel=1e-6)
    parameters = continued["origin"]["parameters"]
    assert parameters["initialisation"] == parameters["pretext"] == "artifact_removal"
    assert parameters["pretrained_run"] == given["origin"]["mlflow_run"]
    path, network = str(folder / "straight" / "model.pt"), trainings[1].get_parsed_content("network_def")
    with pytest.raises(InputError, match="found weights that learned artifact_removal, expected autoencoder to go on"):
        continue_from(network, path, None, "autoencoder")


def _history(trainings, name, metric):
    folder, client = trainings[0], trainings[4]
    return client.get_metric_history(read_json(folder / name / "mlflow_run.json")["run_id"], metric)


def test_losses_of_each_epoch_are_tracked_and_the_same_for_both(trainings):
    for metric in ("val_loss", "val_loss_of_input", "train_loss"):
        one, other = (_history(trainings, name, metric) for name in ("straight", "broken"))
        assert [point.step for point in one] == [1, 2, 3, 4], metric
        # the epoch that was cut off is there once, from the training that went on
        assert [(point.step, point.value) for point in one] == [(point.step, point.value) for point in other], metric


def test_the_validation_corrupts_the_same_way_in_each_epoch(trainings):
    values = {point.value for point in _history(trainings, "straight", "val_loss_of_input")}
    assert len(values) == 1
    assert values.pop() > 0


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
def test_mixed_precision_does_not_scale_the_loss(monkeypatch):
    """Scaling is for float16, and waits for the GPU in every step."""
    monkeypatch.setattr("torch.cuda.amp.GradScaler", lambda: torch.amp.GradScaler("cpu"))
    network = torch.nn.Conv3d(1, 1, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 1, 2, 3, 4), "label": torch.zeros(1, 1, 2, 3, 4)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.L1Loss(),
        amp=True,
    )
    before = network.weight.clone()
    run(trainer)
    assert not torch.equal(network.weight, before)
    assert not trainer.scaler.is_enabled()
