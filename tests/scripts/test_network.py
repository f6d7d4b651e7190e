"""What the network sees: the strength of its input, the brain, and nothing else."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.network import BrainNorm, BrainUNet

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
def test_without_skips_fine_detail_does_not_reach_the_output():
    torch.manual_seed(6)
    image, checkers = brain(), torch.ones(1, 1, *SHAPE)
    checkers[..., ::2, :, :] = 0.9

    def change(skips):
        torch.manual_seed(7)
        made = BrainUNet(64, 5, skips=skips).eval()
        output = made(image * checkers) - made(image)
        # what alternates between neighbours, against the whole change
        return (output[..., 1::2, :, :] - output[..., ::2, :, :]).abs().mean() / output.abs().mean()

    names = [BrainUNet(64, 5, skips=skips).state_dict().keys() for skips in (True, False)]
    assert names[0] == names[1]
    assert change(False) < change(True)


@torch.no_grad()
def test_torchscript_gives_the_same_output_at_another_size(network):
    script = torch.jit.script(network)
    image = brain((16, 8, 24), 4)
    assert torch.allclose(script(image), network(image), atol=1e-6)


@pytest.mark.parametrize("overlays", [["pretrain"], ["finetune", "direction"]])
def test_the_paper_has_the_instance_norm_of_its_authors(overlays):
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.json") for name in [*overlays, "paper"]])
    made = parser.get_parsed_content("network_def")
    norms = [module for module in made.modules() if isinstance(module, torch.nn.InstanceNorm3d)]
    assert norms
    assert not any(norm.affine or norm.track_running_stats for norm in norms)
