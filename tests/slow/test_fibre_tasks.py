"""Crossings from raw scan to map, by an ensemble; direction is in the README."""

import nibabel as nib
import numpy as np


def test_crossings_from_training_to_the_map_of_a_raw_scan(demo, bundle, tmp_path):
    folder, _ = demo
    raw, prepared = folder / "clinical" / "raw", folder / "clinical" / "prepared"
    common = {"dataset_dir": prepared, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "num_workers": 0}
    for seed in (1, 2):
        out = {"output_dir": tmp_path / f"{seed}", "seed": seed, "max_epochs": 1, "batch_size": 1}
        bundle("training", ["finetune", "crossings"], **common, **out)
    networks = [str(tmp_path / f"{seed}" / "model.pt") for seed in (1, 2)]

    evaluated = {**common, "output_dir": tmp_path / "1", "checkpoint": networks[0]}
    bundle("evaluating", ["finetune", "crossings", "evaluate"], **evaluated)
    rows = (tmp_path / "1" / "evaluation" / "baselines.csv").read_text().splitlines()
    methods = {row.split(",")[0] for row in rows[1:]}
    assert methods == {"network", "majority class", "atlas", "deconvolution (label method)"}

    scan = raw / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
    bundle("inference", ["inference_crossings"], dwi=scan, ensemble=repr(networks), output_dir=tmp_path / "maps")
    image = nib.load(scan)
    found = nib.load(tmp_path / "maps" / "sub-01_desc-npeaks_dseg.nii.gz")
    np.testing.assert_allclose(found.affine, image.affine, atol=1e-5)
    counts = np.asarray(found.dataobj)
    assert counts.shape == image.shape[:3]
    assert counts.max() <= 3
    truth = raw / "derivatives" / "truth" / "sub-01" / "dwi" / "sub-01_desc-tissue_dseg.nii.gz"
    tissue = np.asarray(nib.load(truth).dataobj)
    # networks of one epoch know nothing of crossings; but what they say is said of white matter
    assert (tissue[counts > 0] == 2).mean() > 0.7
    apart = nib.load(tmp_path / "maps" / "sub-01_desc-npeaksdisagreement_map.nii.gz").get_fdata()
    assert 0 < apart[counts > 0].mean() < 1
