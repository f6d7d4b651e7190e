"""The plan of a comparison: which runs, what identifies them, and that they are fair."""

import json

import pytest
import torch
from monai.utils import set_determinism
from typer.testing import CliRunner

from scripts.__main__ import app
from scripts.cohort.datalist import describe_input, load_entries, read_cohort
from scripts.comparison import plan as module
from scripts.comparison.arms import ARMS
from scripts.comparison.folds import make_folds
from scripts.comparison.plan import make_plan
from scripts.comparison.runs import code_checksum, parsed
from scripts.training.checkpoints import write_checkpoint
from transforms.errors import InputError


def keys(plan):
    return [run.key for run in [*plan.pretrainings.values(), *plan.fine_tunings]]


def test_the_same_settings_are_the_same_runs_and_any_change_of_them_is_another(settings, monkeypatch):
    plan = make_plan(settings())
    assert len(set(keys(plan))) == 2 + 2 * 3
    again = make_plan(settings())
    assert keys(again) == keys(plan)
    assert again.protocol == plan.protocol

    more = make_plan(settings(seeds=3))
    assert set(keys(plan)) < set(keys(more))
    assert more.protocol == plan.protocol

    network = settings().fine_tuning
    here = make_plan(settings(fine_tuning={**network, "num_workers": 1}))
    assert keys(here) == keys(plan)
    other = make_plan(settings(fine_tuning={**network, "batch_size": 1}))
    assert keys(other)[:2] == keys(plan)[:2]
    assert not set(keys(other)[2:]) & set(keys(plan))
    assert other.protocol != plan.protocol

    # what a network is pretrained to do tells the fine-tunings from it apart
    longer = make_plan(settings(pretraining={**settings().pretraining, "max_epochs": 3}))
    same = set(keys(longer)) & set(keys(plan))
    assert same == {run.key for run in plan.fine_tunings if run.weights is None}

    monkeypatch.setattr(module, "code_checksum", lambda: "another code")
    assert not set(keys(make_plan(settings()))) & set(keys(plan))


def test_another_cohort_is_another_run(settings, cohorts, tmp_path):
    plan = make_plan(settings())
    path = cohorts / "clinical" / "datalist.json"
    before = path.read_text()
    try:
        listed = json.loads(before)
        path.write_text(json.dumps({**listed, "validation": listed["test"], "test": listed["validation"]}))
        changed = make_plan(settings())
    finally:
        path.write_text(before)
    assert keys(changed)[:2] == keys(plan)[:2]
    assert not set(keys(changed)[2:]) & set(keys(plan))


def test_the_checksum_of_the_code_is_that_of_what_trains():
    assert code_checksum() == code_checksum()
    assert len(code_checksum()) == 64


def test_all_runs_have_the_same_steps_but_for_the_one_that_gets_the_compute_of_the_pretraining(settings, cohorts):
    arms = ("random", "artifact_removal", "random_long")
    plan = make_plan(settings(arms=arms, train_sizes=(1, 4), seeds=1))
    for run in plan.fine_tunings:
        scans = int(run.tags["train_size"])
        per_epoch = -(-scans // 3)
        steps = run.epochs * per_epoch
        # two epochs of three scans, in steps of as many scans as a step has here
        extra = -(-6 // min(3, scans)) if run.tags["initialisation"] == "random_long" else 0
        assert 6 + extra <= steps < 6 + extra + per_epoch
    of_size = [run for run in plan.fine_tunings if run.tags["train_size"] == "4"]
    others = [{k: v for k, v in run.values.items() if k not in ("max_epochs", "val_interval")} for run in of_size]
    assert all(values == others[0] for values in others)
    assert len({run.configs for run in of_size}) == 1


def test_levers_of_the_transfer_share_one_pretraining(settings):
    levers = ("head_first", "encoder_only", "slow_transfer", "without_warmup")
    plan = make_plan(settings(arms=("artifact_removal", *levers)))
    assert len(set(plan.pretrainings.values())) == 1
    assert len({run.key for run in plan.fine_tunings}) == 2 * 5
    plan = make_plan(settings(arms=("autoencoder", "autoencoder_head_first")))
    assert len(set(plan.pretrainings.values())) == 1
    assert len({run.key for run in plan.fine_tunings}) == 2 * 2


@pytest.mark.parametrize("arm", ARMS)
def test_the_configs_of_each_initialisation_can_be_parsed(settings, arm):
    plan = make_plan(settings(arms=(arm,), seeds=1, tasks=("segmentation", "crossings", "direction")))
    for run in [*plan.pretrainings.values(), *plan.fine_tunings]:
        parser = parsed(run.configs, run.values)
        assert parser.get_parsed_content("max_epochs") == run.epochs
        if run.stage == "pretraining":
            assert isinstance(parser.get_parsed_content("artifacts"), list)
    # the first initialisation and seed score the baselines of a task
    assert [run.baselines for run in plan.fine_tunings] == [True] * 3


def test_the_output_layer_starts_with_the_same_weights_whatever_the_initialisation(settings, cohorts, tmp_path):
    plan = make_plan(settings(seeds=2))
    pretrained = tmp_path / "model.pt"
    network = parsed(["pretrain"], settings().pretraining).get_parsed_content("network_def")
    origin = {
        "parameters": {"task": "restoration", "pretext": "artifact_removal"},
        "preparation": describe_input(str(cohorts / "clinical")),
    }
    write_checkpoint(pretrained, {"network": network.state_dict(), "origin": origin})
    first = {}
    for run in plan.fine_tunings:
        parser = parsed(run.configs, run.values)
        weights = None if run.weights is None else str(pretrained)
        parser.update({"dataset_dir": str(run.dataset_dir), "output_dir": str(tmp_path), "pretrained": weights})
        parser.update({"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})
        set_determinism(seed=run.values["seed"])
        state = parser.get_parsed_content("initialised").state_dict()
        first[run.tags["initialisation"], run.tags["seed"]] = state
    for name in ("artifact_removal", "autoencoder"):
        for seed in "01":
            output = [key for key in state if key.startswith("output_block")]
            assert output
            assert all(torch.equal(first[name, seed][key], first["random", seed][key]) for key in output)
            assert not torch.equal(first[name, seed]["projection.weight"], first["random", seed]["projection.weight"])
    assert not torch.equal(first["random", "0"][output[0]], first["random", "1"][output[0]])


def test_every_participant_is_tested_once_over_the_folds(cohorts, tmp_path):
    folds = make_folds(cohorts / "clinical", tmp_path, 3)
    everyone = {f"sub-{index:02d}" for index in range(8)}
    tested = []
    for fold in folds:
        splits = {split: [scan.participant for scan in scans] for split, scans in read_cohort(fold).items()}
        assert len(splits["validation"]) == 1
        assert set().union(*splits.values()) == everyone
        tested += splits["test"]
        # the images are found through the fold
        entries = load_entries(str(fold), "test", ["image", "mask", "tissue"])
        assert [entry["participant"] for entry in entries] == splits["test"]
    assert sorted(tested) == sorted(everyone)
    checksums = [json.loads((fold / "datalist.json").read_text())["checksum"] for fold in folds]
    assert len(set(checksums)) == 3
    again = make_folds(cohorts / "clinical", tmp_path, 3)
    assert [json.loads((fold / "datalist.json").read_text())["checksum"] for fold in again] == checksums
    assert make_folds(cohorts / "clinical", tmp_path, 1) == [cohorts / "clinical"]
    with pytest.raises(InputError, match="--folds: found 9 for 8 participants of whom 1 validate"):
        make_folds(cohorts / "clinical", tmp_path, 9)


def test_a_plan_of_folds_has_a_run_for_each(settings):
    plan = make_plan(settings(folds=2, seeds=1, arms=("random",)))
    assert [run.tags["fold"] for run in plan.fine_tunings] == ["0", "1"]
    assert plan.fine_tunings[0].dataset_dir != plan.fine_tunings[1].dataset_dir


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--arms", "random,magic"], "--arms: found 'magic', expected some of random, artifact_removal,"),
        (["--tasks", "tracts"], "--tasks: found 'tracts', expected some of segmentation, crossings, direction."),
        (["--train-sizes", "9"], "found 4 participants, expected 9 as asked for"),
        (["--folds", "20"], "--folds: found 20 for 8 participants"),
        (["--auxiliary", "nowhere"], "nowhere: found no datalist.json, expected a cohort"),
        (["--fine-tuning", "batch_size"], "expected an id of a config and its value as batch_size=1"),
        (["--pretraining", "output_dir=here"], "--pretraining: found output_dir, which 'compare' itself sets"),
        (["--train-sizes", "one"], "found 'one', expected numbers"),
    ],
)
def test_a_wrong_option_gets_one_sentence(cohorts, tmp_path, options, sentence):
    given = {"--auxiliary": cohorts / "auxiliary", "--clinical": cohorts / "clinical", "--out": tmp_path}
    words = [str(word) for pair in given.items() for word in pair]
    done = CliRunner().invoke(app, ["compare", *words, *options], env={"COLUMNS": "300"})
    assert done.exit_code not in (0, None)
    assert sentence in f"{done.output} {done.exception}"
    assert not (tmp_path / "mlflow.db").exists()
