"""What users of an exported bundle do with it, run in its folder where the project cannot be imported.

``python - SCAN COHORT SCHEMA WORK CHECK... < in_bundle.py`` prints one JSON object: for each check null, or the
traceback.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import monai.bundle
import nibabel as nib
import numpy as np
import onnxruntime
import torch
from monai.bundle import ConfigParser
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType
from monai.fl.utils.exchange_object import ExchangeObject

# it finds brains, and the scan has a mask
sys.modules["SimpleITK"] = None

SCAN, COHORT, SCHEMA, WORK = (Path(word) for word in sys.argv[1:5])
BUNDLE = Path.cwd()
METADATA = json.loads(Path("configs/metadata.json").read_text())
CHANNELS = METADATA["network_data_format"]["inputs"]["image"]["num_channels"]
TASK = json.loads(Path("models/origin.json").read_text())["origin"]["parameters"]["task"]
RESULTS = {
    "restoration": "*_desc-restored_dwi.nii.gz",
    "segmentation": "*_desc-tissue_dseg.nii.gz",
    "crossings": "*_desc-npeaks_dseg.nii.gz",
    "direction": "*_desc-peak_dwi.nii.gz",
}
FILES = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}


def image(shape=(16, 24, 16), batch=2):
    brain = torch.rand(batch, CHANNELS, *shape, generator=torch.Generator().manual_seed(4))
    brain[..., :3] = 0
    return brain


def network():
    made = ConfigParser(json.loads(Path("configs/train.json").read_text())).get_parsed_content("network_def").eval()
    made.load_state_dict(torch.load("models/model.pt", weights_only=True))
    return made


def expected(given):
    with torch.no_grad():
        return network()(given)


def own_code():
    import scripts
    import transforms

    for package in (scripts, transforms):
        assert Path(package.__path__[0]).parent.resolve() == BUNDLE
    try:
        import scripts.phantom
    except ModuleNotFoundError:
        return
    raise AssertionError("the project can be imported")


def verify_metadata():
    if SCHEMA.is_file():
        copy = WORK / "schema.json"
        copy.write_bytes(SCHEMA.read_bytes())
        monai.bundle.verify_metadata(meta_file=FILES["meta_file"], filepath=str(copy))


def verify_net_in_out():
    monai.bundle.verify_net_in_out(net_id="network_def", device="cpu", n=1, **FILES)


def ckpt_export():
    made = str(WORK / "made.ts")
    monai.bundle.ckpt_export(net_id="network_def", filepath=made, ckpt_file="models/model.pt", **FILES)
    torch.testing.assert_close(torch.jit.load(made)(image()), expected(image()), atol=1e-4, rtol=0)


def onnx_export():
    made = str(WORK / "made.onnx")
    monai.bundle.onnx_export(
        net_id="network_def",
        filepath=made,
        ckpt_file="models/model.pt",
        input_shape=[1, CHANNELS, 16, 24, 16],
        converter_kwargs={"input_names": ["image"], "output_names": ["pred"], "dynamo": False},
        **FILES,
    )
    given = image(batch=1)
    (output,) = onnxruntime.InferenceSession(made).run(None, {"image": given.numpy()})
    np.testing.assert_allclose(output, expected(given), atol=1e-4)


def formats():
    session = onnxruntime.InferenceSession("models/model.onnx")
    program = torch.export.load("models/model.pt2").module()
    for given in (image(), image((8, 32, 24), batch=3)):
        (output,) = session.run(None, {"image": given.numpy()})
        np.testing.assert_allclose(output, expected(given), atol=1e-4)
        torch.testing.assert_close(program(given), expected(given), atol=1e-4, rtol=0)


def load_folder(folder=BUNDLE.parent):
    # a training opens its MLflow where the host program is
    os.chdir(WORK)
    try:
        for workflow_type in ("inference", "train"):
            loaded = monai.bundle.load(BUNDLE.name, bundle_dir=folder, workflow_type=workflow_type)
            os.chdir(BUNDLE)
            torch.testing.assert_close(loaded.eval()(image()), expected(image()))
            os.chdir(WORK)
    finally:
        os.chdir(BUNDLE)


def load_zip():
    folder = WORK / "downloaded"
    archive = BUNDLE.parent / f"{BUNDLE.name}.zip"
    monai.bundle.download(name=BUNDLE.name, bundle_dir=str(folder), url=archive.as_uri(), progress=False)
    load_folder(folder)


def workflow(kind, **values):
    values = {"output_dir": str(WORK / kind), **values}
    made = monai.bundle.create_workflow(config_file=f"configs/{kind}.json", workflow_type=kind, **values)
    made.run()
    made.finalize()
    return made


def inference():
    workflow("inference", dwi=str(SCAN), brain_mask=str(SCAN.with_name("mask.nii.gz")), device="cpu")
    (result,) = (WORK / "inference").rglob(RESULTS[TASK])
    assert nib.load(result).shape[:3] == nib.load(SCAN).shape[:3]
    if TASK == "restoration":
        sidecar = json.loads(Path(str(result).replace(".nii.gz", ".json")).read_text())
        # of the training, which stands beside the plain weights
        assert sidecar["LargestMeanAbsoluteChangeInTraining"] > 0


def training():
    tracking = f"sqlite:///{WORK}/train.db"
    done = workflow("train", dataset_dir=str(COHORT), max_epochs=1, num_workers=0, tracking_uri=tracking, device="cpu")
    assert done.check_properties() == []
    assert (WORK / "train" / "model.pt").is_file()


def federated():
    """Take part in two rounds of federated learning."""
    options = {"dataset_dir": str(COHORT), "num_workers": 0, "batch_size": 2, "device": "cpu"}
    places = {
        kind: {"output_dir": str(WORK / kind), "tracking_uri": f"sqlite:///{WORK}/{kind}.db"}
        for kind in ("federated", "federated_evaluation")
    }
    client = MonaiAlgo(
        bundle_root=str(BUNDLE),
        train_kwargs={**options, **places["federated"]},
        eval_kwargs={**options, **places["federated_evaluation"], "checkpoint": "models/model.pt"},
        best_model_filepath=str(WORK / "federated" / "model.pt"),
        save_dict_key="network",
    )
    client.initialize({ExtraItems.CLIENT_NAME: "clinic"})
    weights = {name: value.clone() for name, value in torch.load("models/model.pt", weights_only=True).items()}
    for _ in range(2):
        client.train(ExchangeObject(weights=weights))
        answer = client.get_weights()
        assert answer.weights.keys() == weights.keys()
        # four scans, two a step
        assert answer.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == 2
        # the learning rate of each round is above 0
        assert max(float(difference.abs().max()) for difference in answer.weights.values()) > 0
        weights = {name: value + answer.weights[name] for name, value in weights.items()}
    best = client.get_weights({ExtraItems.MODEL_TYPE: ModelType.BEST_MODEL})
    assert best.weights.keys() == weights.keys()
    shipped = torch.load("models/model.pt", weights_only=True)
    # MONAI returns the dictionary of the engine, which the next evaluation changes
    before, after = (dict(client.evaluate(ExchangeObject(weights=given)).metrics) for given in (shipped, weights))
    assert before.keys() == after.keys()
    assert before != after
    client.finalize()


def evaluation():
    """Evaluate as the model card says; the checks of the tasks compare with what the project gives."""
    files = ["configs/train.json", "configs/evaluate.json"]
    made = monai.bundle.create_workflow(
        config_file=files,
        workflow_type="train",
        dataset_dir=str(COHORT),
        evaluation_dir=str(WORK / "evaluation"),
        tracking_uri=f"sqlite:///{WORK}/evaluation.db",
        num_workers=0,
        device="cpu",
    )
    made.run()
    made.finalize()


def refusal(kind, **values):
    """Sentence of the exception that a host program can catch; a SystemExit would end it."""
    from scripts.errors import input_error

    try:
        workflow(kind, **values)
    except Exception as error:
        return str(input_error(error))
    raise AssertionError("nothing was refused")


def missing_scan():
    assert "none.nii.gz: no such file" in refusal("inference", dwi=str(WORK / "none.nii.gz"))


def missing_simpleitk():
    assert "SimpleITK: found no such package" in refusal("inference", dwi=str(SCAN), device="cpu")


def missing_cohort():
    sentence = refusal("train", tracking_uri=f"sqlite:///{WORK}/none.db", output_dir=str(WORK / "none"))
    assert sentence.startswith("data: found no datalist.json")


def compose():
    """Artifacts and preprocessing in a pipeline of one's own."""
    from monai.data import MetaTensor
    from monai.transforms import Compose, ToTensord

    from transforms import RandArtifactsd, RandNoised

    pipeline = Compose([RandArtifactsd("image", preset="light"), RandNoised("image", prob=1.0), ToTensord("image")])
    clean = MetaTensor(image(batch=1)[0], affine=torch.diag(torch.tensor([2.4, 2.4, 2.4, 1.0])))
    scheme = json.loads(Path("models/origin.json").read_text())["origin"]["preparation"]["scheme"]
    gradients = np.column_stack([scheme, np.full(CHANNELS, 1000.0)])
    scan = {"image": clean, "mask": MetaTensor(clean.sum(dim=0, keepdim=True) > 0), "gradients": gradients}
    results = [pipeline.set_random_state(5)(scan)["image"] for _ in "ab"]
    torch.testing.assert_close(results[0], results[1])
    assert not torch.equal(results[0], clean)
    torch.testing.assert_close(results[0].affine, clean.affine)


def deploy():
    """Use ``model.ts`` alone, as MONAI Deploy does: metadata and the config of inference stand in the file."""
    extra = {"metadata.json": "", "inference.json": ""}
    model = torch.jit.load("models/model.ts", _extra_files=extra)
    data_format = json.loads(extra["metadata.json"])["network_data_format"]
    given = image(batch=1)
    assert given.shape[1] == data_format["inputs"]["image"]["num_channels"]
    inferer = ConfigParser(json.loads(extra["inference.json"])).get_parsed_content("inferer")
    with torch.no_grad():
        output = inferer(given, model)
    assert output.shape[1] == data_format["outputs"]["pred"]["num_channels"]
    torch.testing.assert_close(output, expected(given), atol=1e-4, rtol=0)


if __name__ == "__main__":
    outcomes = {}
    for check in sys.argv[5:]:
        try:
            globals()[check]()
            outcomes[check] = None
        except BaseException:  # a SystemExit is what must not happen
            outcomes[check] = traceback.format_exc()
    print("\n" + json.dumps(outcomes))
