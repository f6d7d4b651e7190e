"""Prepared cohorts of tiny scans, with the labels of all tasks: a training takes seconds."""

import shutil

import nibabel as nib
import numpy as np

from scripts.io.files import write_json

SCHEME = np.array([[1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1]]) / np.sqrt(2)
AFFINE = np.diag([2.4, 2.4, 2.4, 1.0])


def smooth(seed, shape):
    """Random smooth field of numbers around 0, and of size about 1."""
    rng = np.random.default_rng(seed)
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    phases = [sum(f * g for f, g in zip(rng.normal(0, 2, 3), grids, strict=True)) + rng.uniform(0, 6) for _ in "ab"]
    return np.sin(phases).sum(axis=0)


def make_scan(scan, shape, scheme=SCHEME):
    """Voxels with one to three fibre populations at right angles, and their signal in the directions of a scheme.

    What all scans have in common is larger than what each has of its own, as in brains.
    """
    fields = [smooth(index, shape) + 0.3 * smooth((index, scan), shape) for index in range(1, 11)]
    frame = np.linalg.qr(np.moveaxis(np.reshape(fields[:9], (3, 3, *shape)), (0, 1), (3, 4)))[0]
    count = np.digitize(fields[9], np.quantile(fields[9], [0.4, 0.8])) + 1
    signals = np.exp(-0.2 - 2.0 * np.einsum("xyzij,ni->xyznj", frame, scheme) ** 2)
    # the first population is the largest by far
    weights = np.array([[1, 0, 0], [0.7, 0.3, 0], [0.6, 0.2, 0.2]])[count - 1]
    image = np.einsum("xyznj,xyzj->xyzn", signals, weights)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = x**2 + y**2 + z**2 < 1.2
    white_matter = mask & (x**2 + y**2 + z**2 < 0.9)
    return {
        "image": (image * mask[..., None]).astype(np.float32),
        "b0": (100.0 * mask).astype(np.float32),
        "mask": mask.astype(np.uint8),
        "tissue": mask.astype(np.uint8) + white_matter,
        "white_matter": white_matter.astype(np.uint8),
        "n_peaks": (count * white_matter).astype(np.uint8),
        "peak": (frame[..., 0] * white_matter[..., None]).astype(np.float32),
    }


def write_tiny_cohort(folder, splits, scheme=SCHEME):
    """Write a prepared cohort, scans of two sizes, with one scan for each split that is named; return its folder."""
    datalist = {"training": [], "validation": [], "test": []}
    for index, split in enumerate(splits):
        name = f"sub-{index:02d}"
        scan = make_scan(index + 1, (13, 15 + 2 * (index % 5 == 1), 8), scheme)
        for key, voxels in scan.items():
            nib.save(nib.Nifti1Image(voxels, AFFINE), folder / f"{name}_{key}.nii.gz")
        paths = {key: f"{name}_{key}.nii.gz" for key in scan}
        datalist[split].append({"participant": name, "scan": name, "checksum": name, **paths})
    write_json(folder / "datalist.json", {**datalist, "checksum": "abc"})
    write_json(folder / "dataset_description.json", {"Preparation": {"bvalue": 1000.0, "voxel_size": 2.4}})
    np.savetxt(folder / "scheme.bvec", scheme.T)
    return folder


def copy_as_truth(cohort, folder):
    """Copy a cohort, with a record that its labels are the truth of phantoms; return the copy."""
    shutil.copytree(cohort, folder)
    write_json(folder / "sub-00" / "dwi" / "sub-00_desc-labels.json", {"Route": "truth"})
    return folder


def write_tiny_cohorts(root, training):
    """Write a prepared cohort for pretraining and one for tasks, with some training scans, below a folder."""
    splits = {
        "auxiliary": ["training"] * 3 + ["validation"],
        "clinical": ["training"] * training + ["validation"] + ["test"] * 3,
    }
    for name, of_name in splits.items():
        (root / name).mkdir()
        write_tiny_cohort(root / name, of_name)
