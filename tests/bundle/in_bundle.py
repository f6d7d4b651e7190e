"""What users of an exported bundle do with it, run in its folder where the project cannot be imported.

``python - SCAN COHORT SCHEMA WORK < in_bundle.py`` prints one JSON object: for each check null, or the traceback.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import monai.bundle
import numpy as np
import onnxruntime
import torch
from monai.bundle import ConfigParser

SCAN, COHORT, SCHEMA, WORK = (Path(word) for word in sys.argv[1:])
BUNDLE = Path.cwd()
FILES = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}


def image(shape=(16, 24, 16), batch=2):
    brain = torch.rand(batch, 64, *shape, generator=torch.Generator().manual_seed(4))
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
        input_shape=[1, 64, 16, 24, 16],
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
    workflow("inference", dwi=str(SCAN), device="cpu")
    (sidecar,) = (WORK / "inference").rglob("*_desc-restored_dwi.json")
    # of the training, which stands beside the plain weights
    assert json.loads(sidecar.read_text())["LargestMeanAbsoluteChangeInTraining"] > 0


def training():
    tracking = f"sqlite:///{WORK}/train.db"
    done = workflow("train", dataset_dir=str(COHORT), max_epochs=1, num_workers=0, tracking_uri=tracking, device="cpu")
    assert done.check_properties() == []
    assert (WORK / "train" / "model.pt").is_file()


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


def missing_cohort():
    sentence = refusal("train", tracking_uri=f"sqlite:///{WORK}/none.db", output_dir=str(WORK / "none"))
    assert sentence.startswith("data: found no datalist.json")


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


CHECKS = (
    own_code,
    verify_metadata,
    verify_net_in_out,
    ckpt_export,
    onnx_export,
    formats,
    load_folder,
    load_zip,
    inference,
    training,
    missing_scan,
    missing_cohort,
    deploy,
)

if __name__ == "__main__":
    outcomes = {}
    for check in CHECKS:
        try:
            check()
            outcomes[check.__name__] = None
        except BaseException:  # a SystemExit is what must not happen
            outcomes[check.__name__] = traceback.format_exc()
    print("\n" + json.dumps(outcomes))
