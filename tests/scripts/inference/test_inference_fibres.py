"""Maps of fibres lie on the grid of the raw scan, in world directions; several networks are averaged as axes are."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from torch import nn

from scripts.inference import MeanAxesd, MeanProbabilitiesd, SaveCrossings, SaveDirection, load_networks
from transforms.errors import InputError

AXIS = np.array([0.48, -0.64, 0.6])


def world_x(data, heads):
    """World x of the voxels of the network's grid, ``(X, Y, Z)``."""
    return heads.world_grid(data["image"].affine.numpy(), data["image"].shape[1:])[..., 0]


def left_half(data, heads):
    return torch.from_numpy((world_x(data, heads) < 2)[None].astype(np.float32)) * (data["mask"] > 0.5)


def read(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def test_directions_are_unit_vectors_in_world_axes_of_the_scan(case, checkpoint, heads, tmp_path):
    """Of arbitrary signs on the network's grid, and in white matter only."""
    raw, data = case
    signs = np.random.default_rng(0).choice([-1.0, 1.0], data["image"].shape[1:])
    pred = torch.from_numpy((AXIS[:, None, None, None] * signs).astype(np.float32))
    data = {**data, "pred": pred, "white_matter": left_half(data, heads)}
    SaveDirection(data["raw_scan"], str(tmp_path), str(checkpoint))(data)
    peaks, affine = read(tmp_path / "sub-01_ses-2_desc-peak_dwi.nii.gz")
    assert peaks.shape == (*nib.load(raw.dwi).shape[:3], 3)
    np.testing.assert_array_equal(affine, nib.load(raw.dwi).affine)
    there = np.linalg.norm(peaks, axis=-1) > 0
    assert there.sum() > 100
    np.testing.assert_allclose(np.abs(peaks[there] @ AXIS), 1, atol=1e-5)
    x = heads.world_grid(raw.affine, peaks.shape)[..., 0]
    assert x[there].max() < 2 + 4  # half a voxel of either grid
    assert not there[x > 6].any()

    colours, _ = read(tmp_path / "sub-01_ses-2_desc-peakcolour_map.nii.gz")
    red = colours["R"][there].astype(float)
    np.testing.assert_allclose(red, 255 * abs(AXIS[0]), atol=1)
    np.testing.assert_allclose(colours["B"][there], 255 * AXIS[2], atol=1)
    assert not colours["G"][~there].any()
    for name in ("peak_dwi", "peakcolour_map"):
        sidecar = json.loads((tmp_path / f"sub-01_ses-2_desc-{name}.json").read_text())
        assert sidecar["Task"] == "direction"
        assert sidecar["Model"]["File"] == "model.pt"
    assert (tmp_path / "sub-01_ses-2_desc-peak_dwi.png").stat().st_size > 1000


def test_counts_are_those_of_white_matter_and_none_elsewhere(case, checkpoint, heads, tmp_path):
    raw, data = case
    two = torch.tensor([0.1, 0.2, 0.6, 0.1])[:, None, None, None].expand(-1, *data["image"].shape[1:])
    data = {**data, "pred": two, "white_matter": left_half(data, heads)}
    SaveCrossings(data["raw_scan"], str(tmp_path), str(checkpoint))(data)
    counts, affine = read(tmp_path / "sub-01_ses-2_desc-npeaks_dseg.nii.gz")
    np.testing.assert_array_equal(affine, nib.load(raw.dwi).affine)
    assert set(np.unique(counts)) == {0, 2}
    x = heads.world_grid(raw.affine, counts.shape)[..., 0]
    assert x[counts == 2].max() < 2 + 4
    probabilities = nib.load(tmp_path / "sub-01_ses-2_desc-npeaks_probseg.nii.gz").get_fdata()
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, atol=1e-3)
    np.testing.assert_allclose(probabilities[counts == 2].max(axis=0), [0.1, 0.2, 0.6, 0.1], atol=0.15)
    np.testing.assert_allclose(probabilities[x > 6], np.tile([1.0, 0, 0, 0], ((x > 6).sum(), 1)), atol=1e-8)


def test_what_lies_outside_white_matter_does_not_mix_with_what_lies_inside(case, checkpoint, heads, tmp_path):
    """Across its border the axis turns, another count is certain, and the members are far apart."""
    _, data = case
    white = left_half(data, heads)
    inside = white > 0.5
    other = np.cross(AXIS, [1.0, 0.0, 0.0])
    axes = [torch.tensor(axis, dtype=torch.float32)[:, None, None, None] for axis in (AXIS, other)]
    counts = [torch.tensor(p)[:, None, None, None] for p in ([0.1, 0.2, 0.6, 0.1], [0.0, 0.0, 0.0, 1.0])]
    data = {**data, "white_matter": white}

    directions = {"pred": torch.where(inside, *axes), "disagreement": torch.where(inside, 5.0, 90.0)}
    SaveDirection(data["raw_scan"], str(tmp_path), str(checkpoint))({**data, **directions})
    peaks, _ = read(tmp_path / "sub-01_ses-2_desc-peak_dwi.nii.gz")
    apart, _ = read(tmp_path / "sub-01_ses-2_desc-peakdisagreement_map.nii.gz")
    there = np.linalg.norm(peaks, axis=-1) > 0
    np.testing.assert_allclose(np.abs(peaks[there] @ AXIS), 1, atol=1e-5)
    np.testing.assert_allclose(apart[there], 5, atol=1e-3)
    assert (apart[~there] == 0).all()

    classes = {"pred": torch.where(inside, *counts), "disagreement": torch.where(inside, 0.25, 1.0)}
    SaveCrossings(data["raw_scan"], str(tmp_path), str(checkpoint))({**data, **classes})
    found = nib.load(tmp_path / "sub-01_ses-2_desc-npeaks_probseg.nii.gz").get_fdata()
    apart = nib.load(tmp_path / "sub-01_ses-2_desc-npeaksdisagreement_map.nii.gz").get_fdata()
    expected = np.where(there[..., None], [0.1, 0.2, 0.6, 0.1], [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(found, expected, atol=2 / 65535)
    np.testing.assert_allclose(apart, np.where(there, 0.25, 0), atol=2 / 65535)


@pytest.mark.parametrize("save", [SaveDirection, SaveCrossings])
def test_an_answer_that_is_no_number_makes_no_map(case, checkpoint, heads, tmp_path, save):
    raw, data = case
    white = left_half(data, heads)
    pred = torch.full((3 if save is SaveDirection else 4, *white.shape[1:]), 0.25)
    pred[1, *torch.nonzero(white[0])[0]] = torch.nan
    data = {**data, "dwi": str(raw.dwi), "pred": pred, "white_matter": white}
    with pytest.raises(
        InputError, match=r"sub-01_ses-2_dwi\.nii\.gz: found NaN or infinity in 1 voxel of the network's"
    ):
        save(data["raw_scan"], str(tmp_path), str(checkpoint))(data)
    assert not list(tmp_path.iterdir())


def test_several_networks_leave_a_map_of_their_disagreement(case, checkpoint, heads, tmp_path):
    _, data = case
    pred = torch.zeros(3, *data["image"].shape[1:])
    pred[2] = 1
    disagreement = torch.full((1, *data["image"].shape[1:]), 12.5)
    data = {**data, "pred": pred, "white_matter": left_half(data, heads), "disagreement": disagreement}
    SaveDirection(data["raw_scan"], str(tmp_path), [str(checkpoint)] * 3)(data)
    apart, _ = read(tmp_path / "sub-01_ses-2_desc-peakdisagreement_map.nii.gz")
    assert apart.max() == pytest.approx(12.5, rel=1e-4)
    sidecar = json.loads((tmp_path / "sub-01_ses-2_desc-peakdisagreement_map.json").read_text())
    assert sidecar["Units"] == "degrees"
    assert len(sidecar["Model"]) == 3


def same(data):
    return data


def axes(*degrees: float, signs=None) -> torch.Tensor:
    """Members' axes in the plane of x and y, joined along the channels, ``(3 M, 1, 1, 1)``."""
    angles = np.radians(degrees)
    vectors = np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], axis=-1)
    vectors *= np.array(signs or [1] * len(angles))[:, None]
    return torch.from_numpy(vectors.astype(np.float32)).reshape(-1, 1, 1, 1)


def test_mean_of_axes_ignores_their_signs():
    found = MeanAxesd(same, 2)({"pred": axes(20, 60, signs=[1, -1])})
    angle = np.degrees(np.arctan2(*found["pred"].flatten()[[1, 0]].tolist())) % 180
    assert angle == pytest.approx(40, abs=1e-3)
    assert found["disagreement"].item() == pytest.approx(20, abs=1e-2)
    # about the seam of a half circle too, where the mean of the angles would be 90
    found = MeanAxesd(same, 2)({"pred": axes(10, 170)})
    assert abs(found["pred"][0].item()) == pytest.approx(1, abs=1e-5)
    assert MeanAxesd(same, 3)({"pred": axes(70, 70, 70, signs=[1, -1, 1])})["disagreement"].item() < 0.1


def test_where_no_network_has_an_axis_the_ensemble_has_none_and_agrees():
    """So it is outside of the brain; NaN of a member stays NaN."""
    found = MeanAxesd(same, 2)({"pred": torch.zeros(6, 1, 1, 1)})
    assert found["pred"].flatten().tolist() == [0, 0, 0]
    assert found["disagreement"].item() == 0
    found = MeanAxesd(same, 2)({"pred": torch.cat([axes(20), torch.full((3, 1, 1, 1), torch.nan)])})
    assert found["pred"].isnan().all()
    assert found["disagreement"].isnan().all()


def test_mean_of_probabilities_and_their_distance():
    pred = torch.tensor([1.0, 0, 0, 0.5, 0.5, 0]).reshape(-1, 1, 1, 1)
    found = MeanProbabilitiesd(same, 2)({"pred": pred})
    np.testing.assert_allclose(found["pred"].flatten(), [0.75, 0.25, 0])
    assert found["disagreement"].item() == pytest.approx(0.25)


def test_one_network_is_decoded_and_nothing_else():
    found = MeanProbabilitiesd(lambda data: {**data, "pred": 2 * data["pred"]}, 1)({"pred": torch.ones(4, 1, 1, 1)})
    assert set(found) == {"pred"}
    assert found["pred"].flatten().tolist() == [2.0] * 4


def test_members_are_decoded_one_by_one():
    """Softmax of each member, not of the sum."""
    logits = torch.tensor([4.0, 0, 0, 4.0]).reshape(-1, 1, 1, 1)
    found = MeanProbabilitiesd(lambda data: {"pred": data["pred"].softmax(dim=0)}, 2)({"pred": logits})
    np.testing.assert_allclose(found["pred"].flatten(), [0.5, 0.5])
    assert found["disagreement"].item() == pytest.approx(torch.tensor([4.0, 0]).softmax(0)[0].item() - 0.5)


def test_an_ensemble_has_each_checkpoint_once(tmp_path):
    preparation = {"bvalue": 1000.0, "voxel_size": 2.4, "scheme": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]}
    origin = {"parameters": {"task": "crossings"}, "preparation": preparation}
    paths = []
    for seed in range(3):
        torch.manual_seed(seed)
        paths.append(str(tmp_path / f"{seed}.pt"))
        torch.save({"network": nn.Conv3d(2, 4, 1).state_dict(), "origin": origin}, paths[-1])
    image = torch.rand(1, 2, 3, 4, 5)
    together = load_networks(nn.Conv3d(2, 4, 1), paths)(image)
    single = [load_networks(nn.Conv3d(2, 4, 1), path)(image) for path in paths]
    assert not torch.equal(single[0], single[1])
    torch.testing.assert_close(together, torch.cat(single, dim=1))
    torch.testing.assert_close(load_networks(nn.Conv3d(2, 4, 1), paths[:1])(image), single[0])
    with pytest.raises(InputError, match=r"missing\.pt: no such file"):
        load_networks(nn.Conv3d(2, 4, 1), [paths[0], str(tmp_path / "missing.pt")])


@pytest.mark.parametrize("task", ["segmentation", "crossings", "direction"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.pt", ["a.pt"]),
        (["a.pt", "b.pt"], ["a.pt", "b.pt"]),
        (("a.pt", "b.pt"), ["a.pt", "b.pt"]),
        (None, ["one.pt"]),
    ],
)
def test_an_ensemble_is_one_file_or_several(task, given, expected):
    parser = ConfigParser()
    parser.read_config(f"bundle/configs/inference_{task}.json")
    parser["ensemble"], parser["checkpoint"] = given, "one.pt"
    assert parser.get_parsed_content("checkpoints") == expected


def test_prediction_keeps_the_network_s_grid():
    """What a network returns has lost its place; it is that of its input."""
    from scripts.inference.result import on_network_grid

    affine = torch.diag(torch.tensor([2.4, 2.4, 2.4, 1.0]))
    data = {"image": MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine), "pred": MetaTensor(torch.ones(1, 2, 2, 2))}
    assert torch.equal(on_network_grid(data, "pred").affine.float(), affine)
