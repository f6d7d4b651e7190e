"""Baselines give the answers that need no training, in the form that a network gives them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.transforms import Compose
from scipy.spatial.transform import Rotation

from scripts.io.files import write_json
from scripts.training import baselines as module
from scripts.training.metrics import Accuracy, angular_error
from transforms.diffusion.scheme import default_scheme
from transforms.label_classes import TISSUES
from transforms.targets import decode_direction, encode_direction

GRADIENTS = np.column_stack([default_scheme(), np.full(64, 1000.0)])
SHAPE = (2, 3, 4)


def signal(axes: np.ndarray, along: np.ndarray, across: np.ndarray) -> torch.Tensor:
    """Attenuations of axially symmetric tensors about ``axes`` ``(3, ...)``."""
    cosine = np.einsum("ci,i...->c...", GRADIENTS[:, :3], axes)
    return torch.from_numpy(np.exp(-1000 * (across + (along - across) * cosine**2))).float()


def random_axes(seed: int = 0) -> np.ndarray:
    return np.moveaxis(Rotation.random(np.prod(SHAPE), random_state=seed).apply([0, 0, 1]).reshape(*SHAPE, 3), -1, 0)


@pytest.mark.parametrize("encoding", ["dyad", "angles"])
def test_tensor_gives_the_fibre(encoding):
    true = random_axes()
    image = signal(true, np.full(SHAPE, 1.6e-3), np.full(SHAPE, 0.4e-3))
    label = encode_direction(torch.from_numpy(true), encoding)
    method = module.baselines("direction", {"dyad": 6, "angles": 2}[encoding], GRADIENTS, [label])["tensor"]
    found = decode_direction(method(image[None])[0], encoding)
    assert angular_error(found, torch.from_numpy(true)).max() < 0.1


def test_thresholds_give_the_tissue():
    axes = random_axes()
    along = np.full(SHAPE, 0.8e-3)
    across = along.copy()
    along[0], across[0] = 1.6e-3, 0.4e-3
    along[1, 0], across[1, 0] = 3e-3, 3e-3
    classes = module.tissue_by_tensor(signal(axes, along, across), GRADIENTS).argmax(dim=0)
    names = np.array(TISSUES)[classes.numpy()]
    assert set(names[0].ravel()) == {"white matter"}
    assert set(names[1, 0]) == {"cerebrospinal fluid"}
    assert set(names[1, 1:].ravel()) == {"gray matter"}


def test_majority_is_that_of_the_training_scans_where_they_count():
    first = torch.tensor([0.0, 1, 1, torch.nan]).reshape(1, 1, 2, 2)
    second = torch.tensor([2.0, 2, 2, torch.nan]).reshape(1, 1, 2, 2)
    logits = module.majority_class([first, second, first], 4)
    assert logits.argmax() == 1
    assert torch.softmax(logits, dim=0)[1] > 1 - 1e-6
    tissue = torch.tensor([0.0, 0, 0, 2]).reshape(1, 1, 2, 2)
    method = module.baselines("segmentation", 4, GRADIENTS, [tissue])["majority class"]
    assert method(torch.rand(1, 64, *SHAPE)).shape == (1, 4, *SHAPE)
    assert set(method(torch.rand(1, 64, *SHAPE)).argmax(dim=1).flatten().tolist()) == {2}


@pytest.mark.parametrize(("encoding", "channels"), [("dyad", 6), ("angles", 2)])
def test_mean_axis_is_the_middle_of_a_fan_without_regard_to_signs(encoding, channels):
    angles = np.radians([-30, -10, 10, 30])
    signs = np.array([1, -1, 1, -1])
    axes = torch.from_numpy(np.stack([signs * np.sin(angles), 0 * angles, signs * np.cos(angles)])[:, :, None, None])
    label = encode_direction(axes, encoding)
    label = torch.cat([label, torch.full_like(label[:, :1], torch.nan)], dim=1)
    answer = module.baselines("direction", channels, GRADIENTS, [label])["mean axis"](torch.rand(1, 64, *SHAPE))[0]
    assert answer.shape == (channels, *SHAPE)
    found = decode_direction(answer, encoding)
    expected = torch.tensor([0.0, 0, 1])[:, None, None, None].expand_as(found)
    assert angular_error(found, expected).max() < 0.01


@pytest.fixture(scope="module")
def crossing():
    """Two halves of a block: one fibre along an axis, and that one and a smaller one across it."""
    shape = (10, 8, 9)
    axis, other = np.array([0.6, 0.0, 0.8]), np.array([0.0, 1.0, 0.0])
    fibre = [np.exp(-1000 * (0.2e-3 + 1.5e-3 * (GRADIENTS[:, :3] @ v) ** 2)) for v in (axis, other)]
    image = np.tile(fibre[0][:, None, None, None], (1, *shape))
    image[:, 5:] = (0.6 * fibre[0] + 0.4 * fibre[1])[:, None, None, None]
    return torch.from_numpy(image).float(), torch.from_numpy(axis)


def test_deconvolution_counts_what_crosses(crossing):
    image, _ = crossing
    method = module.baselines("crossings", 4, GRADIENTS, [torch.ones(1, 2, 2, 2)])[module.LABEL_METHOD]
    counts = method(image[None])[0].argmax(dim=0)
    assert set(counts[:5].flatten().tolist()) == {1}
    assert set(counts[5:].flatten().tolist()) == {2}


@pytest.mark.parametrize(("encoding", "channels"), [("dyad", 6), ("angles", 2)])
def test_deconvolution_finds_the_larger_fibre_of_a_crossing(crossing, encoding, channels):
    image, axis = crossing
    label = encode_direction(axis[:, None, None, None], encoding)
    methods = module.baselines("direction", channels, GRADIENTS, [label])
    true = axis[:, None, None, None].expand(-1, *image.shape[1:])
    errors = {
        name: angular_error(decode_direction(method(image[None])[0], encoding), true)
        for name, method in methods.items()
    }
    assert errors[module.LABEL_METHOD].max() < 5
    assert errors["mean axis"].max() < 0.01


@pytest.mark.parametrize(
    ("task", "channels", "names"),
    [
        ("segmentation", 4, {"majority class", "FA and MD thresholds"}),
        ("crossings", 4, {"majority class"}),
        ("direction", 6, {"mean axis", "tensor"}),
    ],
)
def test_every_task_has_its_floor(task, channels, names):
    label = torch.zeros(channels if task == "direction" else 1, 2, 2, 2)
    label[0] = 1
    found = module.baselines(task, channels, GRADIENTS, [label])
    assert names <= set(found)
    for name in names:
        assert found[name](torch.full((1, 64, *SHAPE), 0.5)).shape == (1, channels, *SHAPE)


@pytest.mark.parametrize(
    ("records", "name"),
    [
        ([], "deconvolution (label method)"),
        ([{"Route": "T1", "Parameters": {"SharpResponse": False}}], "deconvolution (label method)"),
        ([{"Route": "truth"}] * 2, "deconvolution"),
        ([{"Route": "T1", "Parameters": {"SharpResponse": True}}], "deconvolution (label method, another response)"),
        # what the method made of some scans is no measure of truth either
        ([{"Route": "truth"}, {"Route": "T1", "Parameters": {"SharpResponse": False}}], "deconvolution (label method)"),
    ],
)
def test_deconvolution_is_named_by_how_the_labels_were_made(tmp_path, records, name):
    for index, record in enumerate(records):
        stem = tmp_path / f"sub-{index}" / "dwi" / f"sub-{index}"
        stem.parent.mkdir(parents=True)
        write_json(stem.with_name(f"{stem.name}_desc-labels.json"), record)
    assert module.name_deconvolution(tmp_path) == name
    for task, channels in (("crossings", 4), ("direction", 6)):
        label = torch.nn.functional.one_hot(torch.tensor([0]), channels).T.reshape(channels, 1, 1, 1)
        found = module.baselines(task, channels, GRADIENTS, [label[:1] if task == "crossings" else label], name)
        assert [method for method in found if method.startswith("deconvolution")] == [name]


def test_a_method_that_cannot_answer_leaves_the_others(tmp_path, capsys):
    """Of a ball without anisotropy nothing can be deconvolved."""
    (tmp_path / "scans.csv").write_text("scan,metric,class,value\nsub-01,val_accuracy,,0.25\n")
    np.savetxt(tmp_path / "scheme.bvec", default_scheme().T)
    write_json(tmp_path / "dataset_description.json", {"Preparation": {"bvalue": 1000.0, "voxel_size": 2.4}})
    scan = {"scan": "sub-01", "image": torch.full((64, *SHAPE), 0.5), "label": torch.ones(1, *SHAPE)}
    metric = IgniteMetricHandler(metric_fn=Accuracy(), output_transform=from_engine(["pred", "label"]))
    network = module.Voxelwise(module.constant(torch.eye(4)[1]))
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], network, key_val_metric={"val_accuracy": metric})
    evaluator.state.metrics["val_accuracy"] = 0.25
    loader = DataLoader([scan], batch_size=1)
    logged = []
    tracker = SimpleNamespace(log_afterwards=lambda *what: logged.append(what))
    module.compare(
        evaluator,
        loader,
        Compose([]),
        {"val_accuracy": metric},
        {},
        "crossings",
        4,
        str(tmp_path),
        [{key: MetaTensor(scan[key]) for key in ("image", "label")}],
        str(tmp_path),
        tracker,
    )
    scores = {f"val_accuracy/baseline_{name}": 1.0 for name in ("majority_class", "atlas")}
    assert logged == [(scores, tmp_path / "baselines.csv")]
    rows = [line.split(",") for line in (tmp_path / "baselines.csv").read_text().splitlines()]
    assert rows[1:] == [
        ["network", "sub-01", "val_accuracy", "", "0.25"],
        ["majority class", "sub-01", "val_accuracy", "", "1.0"],
        ["atlas", "sub-01", "val_accuracy", "", "1.0"],
    ]
    assert "deconvolution (label method): left out: found 0 voxels of white matter" in capsys.readouterr().out
