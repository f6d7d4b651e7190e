"""The network of a bundle in the formats that others read, each compared with the network itself."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from scripts.training.weights import read_checkpoint

TOLERANCE = 1e-4
"""Largest difference from the network in an output: runtimes add up float32 in orders of their own."""

SIZES = ((2, 16, 24, 32), (1, 32, 16, 24))
"""Batch and X, Y, Z of the inputs that are compared. The first is the sample that is exported: with a batch of 1, the
batch would be fixed."""

FREE_AXES = (0, 2, 3, 4)
"""Axes of an input whose size is free: the batch and the grid."""


def save_models(network: nn.Module, bundle: Path) -> None:
    """Write ``model.ts``, ``model.pt2`` and ``model.onnx`` of a bundle, and compare them with the network.

    Args:
        network: network with the weights of ``models/model.pt`` in the bundle, on the CPU; it is set to evaluate.
        bundle: folder of the bundle, with its configs, code and ``models/model.pt``.

    Raises:
        RuntimeError: a format gives another output than the network.
    """
    models, network = bundle / "models", network.eval()
    directions = next(iter(network.parameters())).shape[1]
    images = [_brain(seed, (size[0], directions, *size[1:])) for seed, size in enumerate(SIZES)]
    with torch.no_grad():
        _save_torchscript(bundle)
        axes = dict.fromkeys(FREE_AXES, torch.export.Dim.AUTO)
        program = torch.export.export(network, (images[0],), dynamic_shapes=(axes,))
        for node in program.graph.nodes:
            # paths of the machine that exports
            node.meta.pop("stack_trace", None)
        # the exporter reports its steps on standard output, and packages that it does without
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(
                program,
                f=models / "model.onnx",
                input_names=["image"],
                output_names=["pred"],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        # the sample would double the size of the file
        program.example_inputs = None
        torch.export.save(program, models / "model.pt2")
        session = onnxruntime.InferenceSession(models / "model.onnx")
        readers: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "model.ts": torch.jit.load(models / "model.ts"),
            "model.pt2": torch.export.load(models / "model.pt2").module(),
            "model.onnx": lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0]),
        }
        network.load_state_dict(read_checkpoint(models / "model.pt")["network"])
        for image in images:
            expected = network(image)
            for name, reader in readers.items():
                difference = float((reader(image) - expected).abs().max())
                if not difference < TOLERANCE:
                    raise RuntimeError(f"{name}: found outputs that differ by {difference:g} from the network's.")


def _save_torchscript(bundle: Path) -> None:
    """Convert as the model zoo does: by MONAI's command, in the bundle.

    A process of its own with a fixed order of sets gives the same bytes each time.
    """
    command = ["ckpt_export", "--net_id", "network_def", "--config_file", "configs/inference.json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "monai.bundle", *command],
        cwd=bundle,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"model.ts: found that MONAI cannot make it: {done.stderr.strip().splitlines()[-1]}")
    _remove_source_lines(bundle / "models" / "model.ts")


def _remove_source_lines(path: Path) -> None:
    """Remove from a TorchScript file where each line of its code stood: paths of the machine that exports."""
    reader, content = torch._C.PyTorchFileReader(str(path)), io.BytesIO()
    writer = torch._C.PyTorchFileWriter(content)
    for name in reader.get_all_records():
        # the writer has an identifier of its own
        if not name.endswith((".debug_pkl", "/serialization_id")):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    path.write_bytes(content.getvalue())


def _brain(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return attenuations with a rim of zeros, as around a brain."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    inside = torch.zeros(shape[2:])
    inside[2:-3, 3:-2, 2:-2] = 1.0
    return image * inside
