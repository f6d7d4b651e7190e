"""Timings of the artifacts: beside TorchIO, with growing images, and in a training step.

The benchmark runs on the GPU if there is one. Where TorchIO is not installed, the artifacts are timed alone. TorchIO 2
cannot be installed beside TorchIO 1: the environment variable ``TORCHIO2_PYTHON`` names an interpreter that has it.
Without such an interpreter, the part with TorchIO 2 is left out.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, pad_list_data_collate

from benchmarks.timing import report, side_by_side
from scripts.training.batch import SelfSupervisedBatch
from scripts.training.losses import MaskedL1Loss
from transforms.artifacts import ArtifactParams, ScanInfo, Undersampling, apply_artifacts, preset
from transforms.diffusion.scheme import default_scheme

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPE = (64, 64, 80, 56)
TRAINING_BATCH = 3
"""Batch size of pretraining."""
BATCH = TRAINING_BATCH if DEVICE.type == "cuda" else 1
HCP_SHAPE = (64, 80, 96, 80)
"""Shape of an HCP brain at 2.4 mm, padded to multiples of 8."""
HCP_SUBJECTS = 45
IN_TORCHIO_2 = ("motion", "bias field", "ghosting", "noise")


def main() -> None:
    """Run all parts."""
    print(f"\non {torch.cuda.get_device_name() if DEVICE.type == 'cuda' else 'a CPU'}")
    _beside_torchio()
    _growth()
    _memory()
    _steps()


def _image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)


def _draw(shape: tuple[int, ...] = SHAPE, seed: int = 0, name: str = "normal") -> list[ArtifactParams]:
    """Draw all artifacts of a preset for one image; only numbers per direction depend on the image's size."""
    return [artifact.sample(torch.Generator().manual_seed(seed), shape) for artifact in preset(name)]


def _finished(function: Callable[..., object], *arguments: object) -> Callable[[], None]:
    """Return a call with arguments that waits for the GPU, so that the timing covers finished work."""

    def run() -> None:
        function(*arguments)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


def _beside_torchio() -> None:
    image, drawn = _image(*SHAPE), _draw()
    on_cpu = image.cpu()

    def apply(chosen: list[ArtifactParams]) -> Callable[[], None]:
        return _finished(apply_artifacts, image[None], [chosen])

    try:
        from transforms.artifacts.torchio import apply_by_torchio  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f"TorchIO: not measured ({error})")
        alone = {"all five": apply(drawn), **{params.artifact: apply([params]) for params in drawn}}
        report(f"one sample of {'x'.join(map(str, SHAPE))}", side_by_side(alone, repeats=7))
        return

    def by_torchio() -> torch.Tensor:
        corrupted = on_cpu
        for params in drawn:
            corrupted = apply_by_torchio(corrupted, params)
        return corrupted

    all_five = {"all five": apply(drawn), "all five, TorchIO 1 with eddy currents": by_torchio}
    report(f"one sample of {'x'.join(map(str, SHAPE))}", side_by_side(all_five, repeats=7))
    for params in drawn:
        pair = {params.artifact: apply([params])}
        if params.artifact != "eddy":
            pair["TorchIO 1"] = _finished(apply_by_torchio, on_cpu, params)
        report("alone", side_by_side(pair))
    # TorchIO has none; the lightest of the others is its measure
    scan = ScanInfo(directions=default_scheme())
    fewer = Undersampling().sample(torch.Generator().manual_seed(0), SHAPE)
    bias = next(params for params in drawn if params.artifact == "bias field")
    pair = {
        "undersampling": _finished(apply_artifacts, image[None], [[fewer]], [scan]),
        "bias field": _finished(apply_artifacts, image[None], [[bias]], [scan]),
    }
    report("alone", side_by_side(pair))
    if not (interpreter := os.environ.get("TORCHIO2_PYTHON")):
        print("\nTorchIO 2: not measured, TORCHIO2_PYTHON names no interpreter")
        return
    command = [
        interpreter,
        str(Path(__file__).with_name("torchio2.py")),
        *map(str, SHAPE),
        str(torch.get_num_threads()),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask(names: tuple[str, ...], requests: IO[str] = other.stdin, answers: IO[str] = other.stdout) -> None:
            print(*names, sep=",", file=requests, flush=True)
            answers.readline()

        groups = [IN_TORCHIO_2, *((name,) for name in IN_TORCHIO_2)]
        for names in groups:
            own = apply([params for params in drawn if params.artifact in names])
            pair = {", ".join(names): own, "TorchIO 2": _finished(ask, names)}
            report("the same work", side_by_side(pair))
        other.stdin.close()


def _growth() -> None:
    """Time growing numbers of voxels, directions and images: each is doubled twice."""
    sizes = {
        # one head in smaller and smaller voxels
        "voxels": [(1, 64, *size) for size in ((50, 64, 44), (64, 80, 56), (80, 100, 72))],
        "directions": [(1, n, *SHAPE[1:]) for n in (16, 32, 64)],
        "batch": [(n, 32, *SHAPE[1:]) for n in (1, 2, 4)],
    }
    for what, shapes in sizes.items():
        functions = {}
        for shape in shapes:
            batch, drawn = _image(*shape), [_draw(shape[1:], seed) for seed in range(shape[0])]
            functions["x".join(map(str, shape))] = _finished(apply_artifacts, batch, drawn)
        report(f"growth with {what}", side_by_side(functions))


def _memory() -> None:
    """Measure the peak memory beyond the batch itself, in multiples of the batch."""
    print(f"\npeak memory beyond the batch, of {TRAINING_BATCH} samples")
    for name in ("normal", "strong", "physical"):
        if DEVICE.type == "cuda":
            batch = _image(TRAINING_BATCH, *SHAPE)
            torch.cuda.reset_peak_memory_stats()
            _corrupt(batch, name)
            extra = torch.cuda.max_memory_allocated() / (batch.numel() * 4) - 1
        else:
            # the peak of a new process is that of this work alone
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                extra = pool.apply(_peak_in_batches, [name])
        print(f"  {name:<40} {extra:8.1f} times the batch")


def _corrupt(batch: torch.Tensor, name: str) -> None:
    """Apply all artifacts of a preset to each image."""
    ones = torch.ones(1, *batch.shape[2:], device=batch.device)
    scan = ScanInfo(directions=default_scheme()[: batch.shape[1]], b0=ones, mask=ones)
    shape = tuple(batch.shape[1:])
    apply_artifacts(batch, [_draw(shape, seed, name) for seed in range(len(batch))], [scan] * len(batch))


def _peak_in_batches(name: str) -> float:
    def peak() -> int:
        # not getrusage, which starts from the peak of the parent process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

    _corrupt(_image(1, 64, 8, 8, 8), name)
    batch = _image(TRAINING_BATCH, *SHAPE)
    before = peak()
    _corrupt(batch, name)
    return (peak() - before) / (batch.numel() * 4)


def _steps() -> None:
    """Time training steps with and without artifacts, and their wait for data."""
    config = json.loads(Path("bundle/configs/pretrain.json").read_text())
    network = ConfigParser(config).get_parsed_content("network_def")
    network = network.to(DEVICE, memory_format=torch.channels_last_3d)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    loss_function = MaskedL1Loss()

    def step(batch: dict, prepare: SelfSupervisedBatch) -> None:
        image, target = prepare(batch, DEVICE, non_blocking=True)
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            loss = loss_function(network(image), target)
        loss.backward()
        optimizer.step()

    def items(shape: tuple[int, ...], n: int) -> list[dict]:
        """Make scans as the cache of a training holds them."""
        image, mask = _image(*shape).half(), torch.ones(1, *shape[1:], dtype=torch.uint8, device=DEVICE)
        images = {"image": image, "mask": mask, "b0": mask.float()}
        affine = torch.diag(torch.tensor([2.4, 2.4, 2.4, 1.0], dtype=torch.float64))
        return [
            {"scan": str(index), **{key: MetaTensor(value.clone(), affine=affine) for key, value in images.items()}}
            for index in range(n)
        ]

    batch = pad_list_data_collate(items(SHAPE, BATCH))
    ways = {"all artifacts": SelfSupervisedBatch(preset("normal", prob=1.0)), "no artifacts": SelfSupervisedBatch()}
    # a GPU may still work on one step while the CPU asks for the next
    together = 10 if DEVICE.type == "cuda" else 1

    def steps(way: SelfSupervisedBatch) -> None:
        for _ in range(together):
            step(batch, way)

    functions = {f"{together} steps with {name}": _finished(steps, way) for name, way in ways.items()}
    report(f"batch of {BATCH}", side_by_side(functions))

    loader = DataLoader(
        Dataset(items(HCP_SHAPE, 2 * BATCH)), batch_size=BATCH, shuffle=True, collate_fn=pad_list_data_collate
    )
    share, prepare = [], SelfSupervisedBatch(preset("normal"))
    for _ in range(4):
        start = time.perf_counter()
        for loaded in loader:
            ready = time.perf_counter()
            _finished(step, loaded, prepare)()
            end = time.perf_counter()
            share.append((ready - start) / (end - start))
            start = end
    size = int(np.prod(HCP_SHAPE)) * 2 * HCP_SUBJECTS / 2**30
    print(f"\nwaiting for data: {100 * statistics.median(share[2:]):.1f} % of a step (batch of {BATCH}, HCP at 2.4 mm)")
    print(f"cache of {HCP_SUBJECTS} HCP subjects in half precision: {size:.2f} GiB")
