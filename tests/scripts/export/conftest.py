"""Checkpoints to export."""

import pytest
import torch

from scripts.network import BrainUNet
from transforms.diffusion.scheme import default_scheme

CHANNELS = {"restoration": 64, "segmentation": 4, "crossings": 4, "direction": 6}


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory):
    """Write a checkpoint of a task with random weights, as a training does, and return its path."""

    def write(task, scheme=None, **preparation):
        folder = tmp_path_factory.mktemp(task)
        directions = (default_scheme() if scheme is None else scheme).tolist()
        torch.manual_seed(len(task))
        channels = len(directions) if task == "restoration" else CHANNELS[task]
        origin = {
            "epoch": 7,
            "val_something": 0.25,
            "parameters": {
                "task": task,
                "seed": "3",
                "dataset_dir": "/home/a/cohort",
                "pretrained": "/home/a/model.pt",
            },
            "preparation": {"bvalue": 1000.0, "voxel_size": 2.4, "smoothing": 0.002, "version": "0.2.0"}
            | {"scheme": directions}
            | preparation,
        }
        network = BrainUNet(len(directions), channels)
        torch.save({"network": network.state_dict(), "origin": origin}, folder / "model.pt")
        return folder / "model.pt"

    return write
