"""Tiny cohorts and scans; and bundles of each task, exported after an epoch of a small network on tiny scans."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from scripts.export import bundle as exporting
from scripts.export import export_bundle
from tests.tiny_cohort import AFFINE, SCHEME, make_scan, write_tiny_cohort
from transforms.diffusion.scheme import default_scheme

FILTERS = [4, 8]
"""Channels of the small network; formats of one with four resolutions take three times as long to make."""


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    """Return a prepared cohort in the directions of the configs."""
    splits = ("training", "validation", "test")
    return write_tiny_cohort(tmp_path_factory.mktemp("clinical"), splits, default_scheme())


@pytest.fixture(scope="session")
def small_project(tmp_path_factory):
    """Return a copy of the project's bundle whose networks are small."""
    folder = tmp_path_factory.mktemp("project") / "bundle"
    shutil.copytree(exporting.PROJECT, folder)
    for path in (folder / "configs").glob("*.json"):
        config = json.loads(path.read_text())
        if "filters" in config.get("network_def", {}):
            config["network_def"] |= {"in_channels": len(SCHEME), "filters": FILTERS}
            if path.stem in ("pretrain", "inference_restoration"):
                config["output_channels"] = len(SCHEME)
            path.write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory):
    """Return a prepared cohort of four tiny scans for training, two for validation and one for tests."""
    splits = ["training"] * 4 + ["validation"] * 2 + ["test"]
    return write_tiny_cohort(tmp_path_factory.mktemp("cohort"), splits)


@pytest.fixture(scope="session")
def small_scan(tmp_path_factory, write_scan):
    """Return a raw scan in the directions of the small cohort, with its mask beside."""
    return write_raw_scan(tmp_path_factory.mktemp("scan"), write_scan, SCHEME)


@pytest.fixture(scope="session")
def tiny_scan(tmp_path_factory, write_scan):
    """Return a raw scan in the directions of the configs, with its mask beside."""
    return write_raw_scan(tmp_path_factory.mktemp("scan"), write_scan, default_scheme())


def write_raw_scan(folder, write_scan, scheme):
    made = make_scan(9, (16, 18, 10), scheme)
    signal = 100 * np.concatenate([made["mask"][..., None], made["image"]], axis=-1)
    directions = np.vstack([np.zeros(3), scheme])
    nib.save(nib.Nifti1Image(made["mask"], AFFINE), folder / "mask.nii.gz")
    return write_scan(folder, signal.astype(np.float32), AFFINE, directions, np.array([0] + [1000] * len(scheme)))


@pytest.fixture(scope="session")
def trained(small_project, small_cohort, tmp_path_factory):
    """Return the function that trains for a task, for one epoch, and returns the checkpoint; each task once."""
    done = {}

    def train(task):
        if task not in done:
            folder = tmp_path_factory.mktemp(task)
            names = ["pretrain"] if task == "restoration" else ["finetune", task]
            workflow = ConfigWorkflow(
                [str(small_project / "configs" / f"{name}.json") for name in names],
                logging_file=False,
                workflow_type="train",
                dataset_dir=str(small_cohort),
                output_dir=str(folder),
                tracking_uri=f"sqlite:///{folder}/mlflow.db",
                max_epochs=1,
                num_workers=0,
                device="cpu",
            )
            workflow.initialize()
            workflow.run()
            done[task] = folder / "model.pt"
        return done[task]

    return train


@pytest.fixture(scope="session")
def exported_of(small_project, trained, tmp_path_factory):
    """Return the function that exports a trained network of a task, and returns the folder; each task once.

    Without ``formats``, the bundle may lack the formats that others read.
    """
    done = {}

    def export(task, formats=True):
        formats = formats or (task, True) in done
        if (task, formats) not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporting, "PROJECT", small_project)
                if not formats:
                    patch.setattr(exporting, "save_models", lambda network, bundle: None)
                done[task, formats] = export_bundle(task, tmp_path_factory.mktemp("exported"), trained(task))
        return done[task, formats]

    return export
