"""What the network sees: the strength of its input, the brain, and nothing else."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.network import SH_ORDER, BrainNorm, BrainUNet, see_directions, start_as_copy
from transforms.diffusion.scheme import default_scheme
from transforms.diffusion.sh import n_coefficients, sh_basis

CONFIGS = Path(__file__).parents[2] / "bundle" / "configs"
SHAPE = (24, 32, 16)


def brain(shape=SHAPE, seed=0):
    """An asymmetric ellipsoid of random attenuations, not in the middle; zeros around it."""
    grid = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    places = zip(grid, (0.1, -0.2, 0.3), (0.6, 0.7, 0.8), strict=True)
    radius = sum(((axis - centre) / half) ** 2 for axis, centre, half in places)
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 64, *shape, generator=generator) * (radius < 1) * 0.8


@pytest.fixture
def network():
    torch.manual_seed(1)
    made = BrainUNet(64, 5).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name and name.endswith("bias"):
            # as after a training: a shift of features that is not zero would leak into the background
            torch.nn.init.uniform_(parameter, 0.05, 0.2)
    return made


@torch.no_grad()
@pytest.mark.parametrize("margin", [8, 16, 24])
def test_zeros_around_a_scan_change_nothing_in_the_brain(network, margin):
    image = brain()
    alone = network(image)
    padded = network(torch.nn.functional.pad(image, (margin,) * 6))
    middle = (..., *(slice(margin, margin + n) for n in SHAPE))
    inside = (image != 0).any(dim=1)[0]
    assert inside[:, :, -1].any(), "the brain reaches the border, as a field of view that cuts it"
    difference = (padded[middle] - alone)[0][:, inside]
    assert difference.abs().max() < 1e-4 * alone.abs().max()
    labels = [output[0][:, inside].argmax(dim=0) for output in (padded[middle], alone)]
    assert (labels[0] != labels[1]).float().mean() < 0.001


@torch.no_grad()
def test_a_batch_equals_its_elements_whatever_their_sizes(network):
    small, large = brain((16, 24, 16), 2), brain(SHAPE, 3)
    fitted = torch.zeros_like(large)
    fitted[..., :16, :24, :16] = small
    batch = network(torch.cat([fitted, large]))
    assert torch.allclose(batch[1:], network(large), atol=1e-4)
    assert torch.allclose(batch[:1, ..., :16, :24, :16], network(small), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("gain", [0.5, 0.8, 1.2])
def test_a_factor_on_the_input_is_seen(network, gain):
    image = brain()
    once, scaled = network(image), network(gain * image)
    inside = (image != 0).any(dim=1)[0]
    assert (scaled - once)[0][:, inside].abs().mean() > 0.01 * once[0][:, inside].abs().mean()


@torch.no_grad()
def test_features_of_the_norm_have_mean_0_and_variance_1_in_the_brain_and_are_zero_outside():
    torch.manual_seed(5)
    features, inside = 3.0 + 7.0 * torch.randn(2, 4, 6, 5, 7), torch.zeros(2, 1, 6, 5, 7)
    inside[0, :, :4], inside[1, :, :, 2:] = 1.0, 1.0
    normed = BrainNorm(4)(features, inside)
    for scan in range(2):
        in_brain = normed[scan][:, inside[scan, 0] > 0]
        assert torch.allclose(in_brain.mean(dim=1), torch.zeros(4), atol=1e-5)
        assert torch.allclose(in_brain.var(dim=1, correction=0), torch.ones(4), atol=1e-4)
    assert not normed[(inside == 0).expand_as(normed)].any()
    assert not BrainNorm(4)(features, torch.zeros_like(inside)).any(), "an empty brain is no division by zero"


@torch.no_grad()
def test_without_skips_all_goes_through_the_coarsest_features():
    def follows_input(skips):
        torch.manual_seed(7)
        made = BrainUNet(64, 5, skips=skips).eval()
        made.encoder[-1].register_forward_hook(lambda module, given, features: torch.zeros_like(features))
        return not torch.equal(made(brain(seed=1)), made(brain(seed=2)))

    assert follows_input(True)
    assert not follows_input(False)
    names = [BrainUNet(64, 5, skips=skips).state_dict().keys() for skips in (True, False)]
    assert names[0] == names[1]


def test_onnx_gives_the_same_output_at_another_size_in_another_runtime(network, tmp_path):
    free = {"image": dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)}
    path = tmp_path / "network.onnx"
    torch.onnx.export(network, (brain(),), path, dynamo=True, dynamic_shapes=free, input_names=["image"], verbose=False)
    session = onnxruntime.InferenceSession(path)
    for image in (brain(), brain((16, 40, 24)).repeat(2, 1, 1, 1, 1)):
        (output,) = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(output, network(image), atol=1e-4)


@torch.no_grad()
def test_torchscript_gives_the_same_output_at_another_size(network):
    script = torch.jit.script(network)
    image = brain((16, 8, 24), 4)
    assert torch.allclose(script(image), network(image), atol=1e-6)


def in_directions(seed=0, order=SH_ORDER):
    """The same brain with an SH signal of an order on the default scheme."""
    inside = (brain(seed=seed) != 0).any(dim=1)[0]
    coefficients = torch.randn(n_coefficients(order), *SHAPE, generator=torch.Generator().manual_seed(seed))
    basis = torch.from_numpy(sh_basis(default_scheme(), order)).float()
    return (0.5 + 0.02 * torch.einsum("ck,kxyz->cxyz", basis, coefficients))[None] * inside, inside


@torch.no_grad()
def test_restoration_starts_by_returning_what_the_harmonics_hold():
    made = start_as_copy(BrainUNet(64, 64), default_scheme().tolist()).eval()
    image, inside = in_directions()
    torch.testing.assert_close(made(image)[0][:, inside], image[0][:, inside], atol=1e-5, rtol=0)
    fine, _ = in_directions(order=8)
    assert (made(fine) - fine)[0][:, inside].abs().mean() > 0.01
    closed = start_as_copy(BrainUNet(64, 64, skips=False), default_scheme().tolist()).eval()
    assert not closed(image).any()


def test_the_projection_has_coefficients_of_about_one_size():
    made = see_directions(BrainUNet(64, 4), default_scheme().tolist())
    image, inside = in_directions()
    basis = sh_basis(default_scheme(), SH_ORDER)
    expected = np.linalg.lstsq(basis, image[0][:, inside].numpy(), rcond=None)[0]
    factors = np.repeat([0.7, 10.0, 20.0, 20.0], [1, 5, 9, 13])
    found = made.projection(image).detach()[0][:, inside].numpy()
    np.testing.assert_allclose(found, factors[:, None] * expected, atol=1e-4)


def test_few_directions_get_the_harmonics_that_they_support():
    axes = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
    made = BrainUNet(6, 6, filters=(2, 4, 4))
    before = made.projection.weight.detach().clone()
    start_as_copy(made, axes.tolist())
    assert torch.equal(made.projection.weight[6:], before[6:])
    image = brain(seed=4)[:, :6]
    inside = (image != 0).any(dim=1)[0]
    torch.testing.assert_close(made.eval()(image).detach()[0][:, inside], image[0][:, inside], atol=1e-5, rtol=0)


@pytest.mark.parametrize("overlays", [[], ["autoencoder"], ["autoencoder", "without_skips"], ["paper"]])
def test_pretraining_learns_in_every_layer(overlays, monkeypatch):
    torch.manual_seed(3)
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in ["pretrain", *overlays]])
    parser.update({"device": "$torch.device('cpu')", "preparation": {"scheme": default_scheme().tolist()}})
    network = parser.get_parsed_content("network")
    target, inside = in_directions()
    noisy = (target + 0.1 * torch.randn(target.shape)) * inside
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (network(noisy) - target)[0][:, inside].abs().mean().backward()
        optimizer.step()
    assert network(noisy).any()
    # without skips nothing passes the gate
    unused = {"gate.weight", "gate.bias"} if "without_skips" in overlays else set()
    for name, parameter in network.named_parameters():
        assert parameter.grad.any() or name in unused, name


@pytest.mark.parametrize("overlays", [["pretrain"], ["finetune", "direction"]])
def test_the_paper_has_the_instance_norm_of_its_authors(overlays):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in [*overlays, "paper"]])
    made = parser.get_parsed_content("network_def")
    norms = [module for module in made.modules() if isinstance(module, torch.nn.InstanceNorm3d)]
    assert norms
    assert not any(norm.affine or norm.track_running_stats for norm in norms)
