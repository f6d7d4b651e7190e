"""Timings of ``direction`` in one life-size clinical scan: the network beside DIPY's spherical deconvolution."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from dipy.data import get_sphere
from dipy.direction import peaks_from_model
from dipy.reconst.csdeconv import ConstrainedSphericalDeconvModel
from monai.bundle import ConfigParser

from benchmarks.timing import report, side_by_side
from scripts.phantom import write_phantom
from transforms.diffusion.csd import MIN_SEPARATION_DEGREES, RELATIVE_THRESHOLD, estimate_response
from transforms.diffusion.dti import dipy_table, fit_tensor_wls
from transforms.diffusion.scheme import default_scheme
from transforms.label_classes import MAX_NUFO

CONFIG = Path("bundle/configs/inference_direction.json")
PROCESSES = 2


def main() -> None:
    """Time the network with decoding on prepared input, the whole inference from raw scan to files, and DIPY.

    The first and the last both end with peaks in the white matter of the same input.
    """
    logging.disable(logging.INFO)
    with TemporaryDirectory() as folder:
        root = write_phantom("clinical", 1, 0, Path(folder) / "raw", "standard")
        parser = ConfigParser(json.loads(CONFIG.read_text()))
        checkpoint = Path(folder) / "model.pt"
        preparation = {"bvalue": 1000.0, "voxel_size": 2.4, "scheme": default_scheme().tolist()}
        origin = {"parameters": {"task": "direction"}, "preparation": preparation}
        torch.save({"network": parser.get_parsed_content("network_def").state_dict(), "origin": origin}, checkpoint)
        parser["dwi"] = str(root / "sub-01" / "dwi" / "sub-01_dwi.nii.gz")
        parser["checkpoint"], parser["output_dir"] = str(checkpoint), str(Path(folder) / "maps")
        parser.parse(reset=True)
        evaluator = parser.get_parsed_content("evaluator")
        network = parser.get_parsed_content("network").eval()
        decode = parser.get_parsed_content("postprocessing::transforms::0")
        scan = parser.get_parsed_content("dataset")[0]
        image = scan["image"].as_tensor()

        def apply() -> None:
            with torch.inference_mode():
                decode({**scan, "pred": network(image[None])[0]})

        timed = {"network and decoding": apply, **_others(evaluator.run, scan)}
        report("one 2.4 mm scan", side_by_side(timed, repeats=3))


def _others(run: Callable[[], object], scan: dict) -> dict[str, Callable[[], object]]:
    """Return the whole inference, and DIPY on the white matter of the same input, as functions to time."""
    mask = scan["mask"][0].numpy() > 0.5
    white = scan["white_matter"][0].numpy() > 0.5
    # the attenuation of a b0 volume is 1
    signal = np.concatenate([np.ones((1, *mask.shape), np.float32), scan["image"].numpy().astype(np.float32)])
    gradients = np.vstack([np.zeros(4), scan["gradients"]])
    response = estimate_response(signal, gradients, white, fit_tensor_wls(signal, gradients, mask).fa)
    data = np.moveaxis(signal, 0, -1).astype(np.float64)

    def deconvolve() -> None:
        model = ConstrainedSphericalDeconvModel(
            dipy_table(gradients), (np.array(response.eigenvalues), response.b0), sh_order_max=8
        )
        peaks_from_model(
            model,
            data,
            get_sphere(name="repulsion724"),
            relative_peak_threshold=RELATIVE_THRESHOLD,
            min_separation_angle=MIN_SEPARATION_DEGREES,
            mask=white,
            npeaks=MAX_NUFO,
            parallel=True,
            num_processes=PROCESSES,
        )

    return {
        "raw scan to files": run,
        f"DIPY CSD and peaks, {int(white.sum())} voxels, {PROCESSES} processes": deconvolve,
    }
