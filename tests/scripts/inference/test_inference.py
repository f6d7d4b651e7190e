"""Results of inference lie on the grid of the raw scan, at the right places, on its own scale."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from scripts.inference import SaveRestoration, SaveTissue
from scripts.io.raw_scan import open_scan
from scripts.training.checkpoints import LARGEST
from transforms.errors import InputError

AXIS = np.array([0.8, 0.6, 0.0])


def read(path):
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def shell_and_b0(raw):
    b = raw.gradients[:, 3]
    return np.flatnonzero(np.abs(b - 1000) < 100), np.flatnonzero(b <= 50)


def smooth_inside(mask, affine, heads, world, scale):
    """Voxels at ``world`` whose whole neighbourhood in the mask is inside it (1), or outside of it (0); else NaN."""
    values = np.full(world.shape[:3], np.nan)
    offsets = scale * np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    inverse = np.linalg.inv(affine)
    near = []
    for offset in offsets:
        index = np.round((world + offset) @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        within = ((index >= 0) & (index < mask.shape)).all(axis=-1)
        index = np.where(within[..., None], index, 0)
        near.append(within & mask[tuple(np.moveaxis(index, -1, 0))])
    values[np.all(near, axis=0)] = 1
    values[~np.any(near, axis=0)] = 0
    return values


def test_a_network_that_changes_nothing_gives_the_scan_itself(case, checkpoint, tmp_path):
    raw, data = case
    SaveRestoration(data["raw_scan"], str(tmp_path), str(checkpoint))({**data, "pred": data["image"].clone()})
    restored, affine = read(tmp_path / "sub-01_ses-2_desc-restored_dwi.nii.gz")
    original, _ = read(raw.dwi)
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored, original)
    np.testing.assert_array_equal(affine, nib.load(raw.dwi).affine)
    stem = tmp_path / "sub-01_ses-2_desc-restored_dwi"
    np.testing.assert_array_equal(np.loadtxt(stem.with_suffix(".bval")), raw.gradients[:, 3])
    np.testing.assert_allclose(np.loadtxt(stem.with_suffix(".bvec")).T, raw.bvecs, atol=1e-6)
    sidecar = json.loads(stem.with_suffix(".json").read_text())
    assert sidecar["MeanAbsoluteChangeOfAttenuation"] == 0
    assert sidecar["Model"] == {"File": "model.pt", "SHA256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}
    assert sidecar["SourceChecksums"][str(raw.dwi)] == hashlib.sha256(raw.dwi.read_bytes()).hexdigest()


def test_a_change_arrives_at_its_place_in_its_directions_times_b0(case, heads, checkpoint, tmp_path):
    """Plus 0.1 and a multiple of ``(g . axis)^2`` that grows to the right and to the front of the head."""
    raw, data = case
    grid = heads.world_grid(data["image"].affine.numpy(), data["image"].shape[1:])
    ramp = lambda world: 0.1 + 0.008 * (world[..., 0] - 2) + 0.004 * (world[..., 1] + 5)  # noqa: E731
    along = lambda directions: (directions @ AXIS) ** 2  # noqa: E731
    change = 0.1 + along(np.asarray(data["gradients"])[:, :3])[:, None, None, None] * ramp(grid)
    pred = data["image"] + torch.from_numpy(change.astype(np.float32))
    SaveRestoration(data["raw_scan"], str(tmp_path), str(checkpoint))({**data, "pred": pred})
    restored = read(tmp_path / "sub-01_ses-2_desc-restored_dwi.nii.gz")[0].astype(np.float64)
    original = read(raw.dwi)[0].astype(np.float64)
    shell, b0 = shell_and_b0(raw)
    assert len(shell) == 18
    assert len(b0) == 3
    others = np.setdiff1d(np.arange(original.shape[3]), shell)
    np.testing.assert_array_equal(restored[..., others], original[..., others])

    world = heads.world_grid(raw.affine, original.shape)
    mask = data["mask"][0].numpy() > 0.5
    inside = smooth_inside(mask, data["mask"].affine.numpy(), heads, world, 5.0)
    assert (inside == 1).sum() > 50
    np.testing.assert_array_equal(restored[inside == 0], original[inside == 0])
    ratio = (restored - original)[..., shell] / original[..., b0].mean(axis=-1, keepdims=True)
    expected = 0.1 + along(raw.gradients[shell, :3]) * ramp(world)[..., None]
    # the change is of order 2 in the directions and linear in space, so that nothing of it is lost on the way
    error = np.abs(ratio - expected)[inside == 1]
    assert error.max() < 0.002
    # a mirrored place or direction would be further off than that
    mirrored = 0.1 + along(raw.gradients[shell, :3]) * ramp(world * [-1, 1, 1] + [4, 0, 0])[..., None]
    assert np.abs(mirrored - expected)[inside == 1].max() > 0.1
    turned = 0.1 + along(raw.gradients[shell, :3] * [-1, 1, 1]) * ramp(world)[..., None]
    assert np.abs(turned - expected)[inside == 1].max() > 0.1
    sidecar = json.loads((tmp_path / "sub-01_ses-2_desc-restored_dwi.json").read_text())
    np.testing.assert_allclose(sidecar["MeanAbsoluteChangeOfAttenuation"], np.abs(change[:, mask]).mean(), rtol=1e-4)


def test_a_change_beyond_what_training_saw_is_noted_and_logged(case, tmp_path, caplog):
    raw, data = case
    path = tmp_path / "model.pt"
    torch.save({"network": {"w": torch.zeros(3)}, "origin": {LARGEST: {"val_loss_of_input": 0.05}}}, path)
    written = tmp_path / "sub-01_ses-2_desc-restored_dwi.json"
    for change, doubtful in ((0.04, False), (-0.06, True)):
        caplog.clear()
        SaveRestoration(data["raw_scan"], str(tmp_path), str(path))({**data, "pred": data["image"] + change})
        sidecar = json.loads(written.read_text())
        assert sidecar["LargestMeanAbsoluteChangeInTraining"] == 0.05
        assert sidecar["MeanAbsoluteChangeOfAttenuation"] == pytest.approx(abs(change), rel=1e-4)
        mean = float(data["image"][:, data["mask"][0] > 0.5].mean())
        assert sidecar["AttenuationChangePercent"] == pytest.approx(100 * change / mean, rel=1e-3)
        said = "by 0.060 on average, the artifacts of the training's validation by 0.050 at most"
        assert (said in sidecar.get("Notes", "")) == doubtful
        assert (said in caplog.text) == doubtful
        assert not doubtful or raw.dwi.name in caplog.text


def test_what_a_network_does_outside_the_mask_is_ignored_and_no_signal_turns_negative(case, checkpoint, tmp_path):
    raw, data = case
    outside = data["image"] + 0.5 * (1 - data["mask"])
    SaveRestoration(data["raw_scan"], str(tmp_path / "1"), str(checkpoint))({**data, "pred": outside})
    np.testing.assert_array_equal(read(tmp_path / "1" / "sub-01_ses-2_desc-restored_dwi.nii.gz")[0], read(raw.dwi)[0])
    SaveRestoration(data["raw_scan"], str(tmp_path / "2"), str(checkpoint))({**data, "pred": data["image"] - 2})
    restored = read(tmp_path / "2" / "sub-01_ses-2_desc-restored_dwi.nii.gz")[0]
    assert restored.min() >= 0
    assert (restored[..., shell_and_b0(raw)[0]] == 0).sum() > 1000


def probabilities(world):
    """Linear in place, so that linear interpolation keeps them; different along each axis and to either side."""
    x, y, z = np.moveaxis(world - [2.0, -5.0, 3.0], -1, 0) / 100
    return np.stack([0.1 + 0 * x, 0.3 + 0.5 * x - 0.2 * z, 0.3 - 0.5 * x + 0.3 * y, 0.3 - 0.3 * y + 0.2 * z])


@pytest.mark.parametrize("voxel_size", [4.0, 2.5])
def test_tissue_comes_to_its_place_in_the_world(case, heads, scheme, checkpoint, tmp_path, voxel_size, load):
    raw, data = case
    if voxel_size != 4.0:
        data = load(raw, scheme, voxel_size)
    affine = data["image"].affine
    pred = probabilities(heads.world_grid(affine.numpy(), data["image"].shape[1:])).astype(np.float32)
    mask = data["mask"].as_tensor()
    pred = torch.where(mask > 0.5, torch.from_numpy(pred), torch.eye(4)[0][:, None, None, None])
    SaveTissue(data["raw_scan"], str(tmp_path), str(checkpoint))({**data, "pred": MetaTensor(pred, affine=affine)})

    stem = tmp_path / "sub-01_ses-2_desc-tissue"
    found, found_affine = read(f"{stem}_probseg.nii.gz")
    labels, label_affine = read(f"{stem}_dseg.nii.gz")
    original = nib.load(raw.dwi)
    assert found.shape == (*original.shape[:3], 4)
    for stored in (found_affine, label_affine):
        np.testing.assert_array_equal(stored, original.affine)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=2.5 / 65535)
    assert found.min() >= 0

    world = heads.world_grid(raw.affine, original.shape)
    inside = smooth_inside(mask[0].numpy() > 0.5, affine.numpy(), heads, world, 6.0)
    assert (inside == 1).sum() > 50
    expected = np.moveaxis(probabilities(world), 0, -1)
    np.testing.assert_allclose(found[inside == 1], expected[inside == 1], atol=0.004)
    np.testing.assert_allclose(found[inside == 0], [[1, 0, 0, 0]] * (inside == 0).sum(), atol=1e-9)
    # the tissue that grows to the right is on the right, and so on
    for channel, axis, sign in ((1, 0, 1), (2, 0, -1), (3, 1, -1)):
        place = world[inside == 1][:, axis]
        assert sign * np.corrcoef(place, found[inside == 1][:, channel])[0, 1] > 0.3
    assert labels.dtype == np.uint8
    assert (labels[inside == 0] == 0).all()
    top = np.sort(expected, axis=-1)
    sure = (inside == 1) & (top[..., -1] - top[..., -2] > 0.02)
    assert {1, 2, 3} <= set(labels[sure])
    np.testing.assert_array_equal(labels[sure], expected.argmax(axis=-1)[sure])

    for name in ("dseg", "probseg"):
        sidecar = json.loads((tmp_path / f"sub-01_ses-2_desc-tissue_{name}.json").read_text())
        assert sidecar["Model"]["SHA256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        assert sidecar["SourceChecksums"][str(raw.bvec)] == hashlib.sha256(raw.bvec.read_bytes()).hexdigest()
    assert (tmp_path / "sub-01_ses-2_desc-tissue_dseg.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


def test_beyond_the_field_of_view_is_background_and_probabilities_still_add_up(case, checkpoint, tmp_path):
    """The brain is cut through the middle: scan voxels across the cut are partly in the network's view."""
    _, data = case
    cropped = dict(data)
    for key in ("image", "b0", "mask"):
        cropped[key] = data[key][:, : data[key].shape[1] // 2]
    pred = torch.zeros(4, *cropped["mask"].shape[1:])
    pred[2] = 1
    cropped["pred"] = MetaTensor(pred, affine=data["image"].affine)
    SaveTissue(data["raw_scan"], str(tmp_path), str(checkpoint))(cropped)
    found = read(tmp_path / "sub-01_ses-2_desc-tissue_probseg.nii.gz")[0]
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=2.5 / 65535)
    white = found[..., 2]
    assert white.max() > 0.99
    assert ((white > 0.4) & (white < 0.9)).any()
    np.testing.assert_allclose(found[..., 0], 1 - white, atol=2.5 / 65535)


def test_a_sidecar_says_what_a_result_was_made_of_and_its_folder_is_described_once(case, checkpoint, heads, tmp_path):
    raw, data = case
    mask = heads.write_mask(tmp_path / "mask.nii.gz", raw.affine)
    scan = open_scan(raw.dwi, raw.bval, raw.bvec, mask)
    data = {**data, "raw_scan": scan, "pred": data["image"].clone()}
    out = tmp_path / "out"
    SaveRestoration(data["raw_scan"], str(out), str(checkpoint))(data)
    SaveTissue(data["raw_scan"], str(out), str(checkpoint))({**data, "pred": data["mask"].expand(4, -1, -1, -1) / 4})
    for name in ("restored_dwi", "tissue_dseg", "tissue_probseg"):
        sidecar = json.loads((out / f"sub-01_ses-2_desc-{name}.json").read_text())
        assert sidecar["Sources"] == [str(path) for path in (raw.dwi, raw.bval, raw.bvec, mask)]
        assert sidecar["SourceChecksums"][str(mask)] == hashlib.sha256(mask.read_bytes()).hexdigest()
        assert sidecar["BValue"] == 1000
        assert sidecar["VoxelSize"] == [4, 4, 4]
    description = out / "dataset_description.json"
    content = json.loads(description.read_text())
    assert content["DatasetType"] == "derivative"
    assert content["Name"]
    assert content["BIDSVersion"]
    assert content["GeneratedBy"][0]["Name"] == "dmri-pretraining"
    # one that is there stays
    description.write_text('{"Name": "mine"}')
    SaveRestoration(data["raw_scan"], str(out), str(checkpoint))(data)
    assert json.loads(description.read_text()) == {"Name": "mine"}


def test_an_opened_scan_names_the_files_that_it_was_opened_from(heads, tmp_path):
    raw = heads.write_scan(tmp_path / "a_dwi.nii.gz", mask=tmp_path / "mask.nii.gz")
    gradients = {"bval": tmp_path / "a_dwi.bval", "bvec": tmp_path / "a_dwi.bvec"}
    assert open_scan(str(raw.dwi)).files == {"dwi": raw.dwi, **gradients}
    everything = {"dwi": raw.dwi, "bval": raw.bval, "bvec": raw.bvec, "brain_mask": raw.mask}
    assert open_scan(**{key: str(path) for key, path in everything.items()}).files == everything


def test_scans_that_cannot_be_used_are_refused_with_a_sentence(heads, tmp_path):
    raw = heads.write_scan(tmp_path / "a_dwi.nii.gz")
    shell_only = heads.write_scan(tmp_path / "b_dwi.nii.gz", gradients=heads.table((1000, 7)))
    short = tmp_path / "short.bval"
    short.write_text("0 1000\n")
    (tmp_path / "text.nii.gz").write_text("no image")
    cases = [
        ({"dwi": None}, r"--dwi: found nothing, expected the NIfTI file"),
        ({"dwi": tmp_path / "none.nii.gz"}, r"none\.nii\.gz: no such file"),
        ({"dwi": tmp_path / "text.nii.gz"}, r"text\.nii\.gz: found no readable image"),
        ({"dwi": raw.dwi, "bvec": tmp_path / "none.bvec"}, r"none\.bvec: no such file"),
        ({"dwi": raw.dwi, "bval": short}, r"expected 2 as in short\.bval"),
        (
            {"dwi": raw.dwi, "bvalue": 2000.0},
            r"found b = 0 \(1 volume\), 1000 \(16 volumes\), expected a shell of b = 2000",
        ),
        ({"dwi": shell_only.dwi}, r"expected at least one volume of b <= 50"),
        ({"dwi": raw.dwi, "brain_mask": tmp_path / "mask.nii.gz"}, r"mask\.nii\.gz: no such file"),
        ({"dwi": raw.dwi, "brain_mask": raw.dwi}, r"expected 3 dimensions"),
    ]
    for arguments, sentence in cases:
        with pytest.raises(InputError, match=f"^.*{sentence}") as raised:
            open_scan(
                **{key: value if isinstance(value, float) else value and str(value) for key, value in arguments.items()}
            )
        assert "\n" not in str(raised.value)
