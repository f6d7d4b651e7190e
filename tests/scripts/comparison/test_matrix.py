"""The matrix at work, with runs that are made up: nothing is done twice, and what failed is reported."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from scripts.comparison import matrix
from scripts.comparison.matrix import run_comparison
from scripts.comparison.store import Store
from transforms.errors import InputError

ARMS = ("random", "artifact_removal", "autoencoder")


def parents(folder):
    return {run.data.tags["initialisation"]: run for run in Store(folder).runs(stage="setting")}


def test_pretrainings_come_first_and_what_is_complete_is_not_done_again(settings, made_up, capfd):
    assert run_comparison(settings()) == {}
    done = made_up["done"]
    assert done[:2] == ["pretraining artifact_removal", "pretraining autoencoder"]
    assert len(done) == 2 + 3 * 2
    # all initialisations of a seed, before the next seed
    assert [words.split(", ")[1] for words in done[2:]] == [*ARMS, *ARMS]
    assert [words.split(", ")[3] for words in done[2:]] == ["seed 0"] * 3 + ["seed 1"] * 3
    assert "2/2" in capfd.readouterr().err

    assert run_comparison(settings()) == {}
    assert len(done) == 8
    run_comparison(settings(seeds=3))
    assert len(done) == 8 + 3
    assert all("seed 2" in words for words in done[8:])


def test_mlflow_has_a_parent_for_each_setting_and_a_child_for_each_seed(settings, made_up, tmp_path):
    run_comparison(settings())
    store = Store(tmp_path)
    found = parents(tmp_path)
    assert set(found) == set(ARMS)
    for name, parent in found.items():
        assert parent.info.status == "FINISHED"
        assert parent.data.tags["metric"] == "val_macro_f1"
        children = store.runs(**{"mlflow.parentRunId": parent.info.run_id})
        assert {run.data.tags["seed"] for run in children} == {"0", "1"}
        listed = json.loads(parent.data.tags["runs"])
        assert listed == {f"0.{run.data.tags['seed']}": run.data.tags["key"][:16] for run in children}
        for run in children:
            assert {"task", "initialisation", "train_size", "fold", "stage", "key"} <= set(run.data.tags)
            if name == "random":
                assert "weights_run" not in run.data.tags
            else:
                weights = store.client.get_run(run.data.tags["weights_run"])
                assert (weights.data.tags["stage"], weights.data.tags["initialisation"]) == ("pretraining", name)


def test_a_run_that_fails_is_reported_and_tried_again(settings, made_up, tmp_path, capfd):
    made_up["failing"] = {"random, train size 1, seed 1": InputError("scan.nii.gz: found damage.")}
    failures = run_comparison(settings())
    (name,) = failures
    assert name.startswith("segmentation, random, train size 1, seed 1")
    assert failures[name] == "scan.nii.gz: found damage."
    assert len(made_up["done"]) == 8
    assert "1 failed" in capfd.readouterr().err
    parent = parents(tmp_path)["random"]
    assert parent.info.status == "FAILED"
    assert parent.data.tags["failure.0.1"] == "scan.nii.gz: found damage."

    made_up["failing"] = {}
    made_up["done"].clear()
    assert run_comparison(settings()) == {}
    assert len(made_up["done"]) == 1
    parent = parents(tmp_path)["random"]
    assert parent.info.status == "FINISHED"
    assert "failure.0.1" not in parent.data.tags


def test_without_its_pretraining_an_initialisation_is_left_out_with_the_reason(settings, made_up, tmp_path):
    made_up["failing"] = {"pretraining autoencoder": InputError("no memory.")}
    failures = run_comparison(settings())
    assert len(failures) == 2
    assert all("autoencoder" in name for name in failures)
    assert set(failures.values()) == {"its pretraining failed: no memory."}
    assert sum("autoencoder" in name for name in made_up["done"]) == 1
    assert parents(tmp_path)["autoencoder"].data.tags["failure.0.0"] == "its pretraining failed: no memory."
    assert parents(tmp_path)["artifact_removal"].info.status == "FINISHED"


def test_a_comparison_that_is_stopped_goes_on(settings, made_up):
    made_up["failing"] = {"artifact_removal, train size 1, seed 1": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run_comparison(settings())
    before = len(made_up["done"]) - 1
    made_up["failing"] = {}
    assert run_comparison(settings()) == {}
    assert len(made_up["done"]) - 1 - before == 8 - before


@pytest.mark.parametrize(("task", "best"), [("segmentation", 0.01), ("direction", 0.003)])
def test_each_setting_takes_the_rate_that_validates_best_with_its_first_seed(settings, made_up, tmp_path, task, best):
    made_up["rate"] = {0.001: 0.0, 0.003: -0.5, 0.01: 0.5}
    options = settings(tasks=(task,), arms=("random",), rates=(0.001, 0.003, 0.01))
    run_comparison(options)
    tried = [words for words in made_up["done"] if words.endswith(", training only")]
    assert [words.split(", rate ")[1] for words in tried] == [f"{rate}, training only" for rate in (0.001, 0.003, 0.01)]
    assert all("seed 0" in words for words in tried)
    others = [words for words in made_up["done"] if words not in tried]
    assert [words.split(", ")[3:] for words in others] == [[f"seed {seed}", f"rate {best}"] for seed in (0, 1)]
    assert parents(tmp_path)["random"].data.tags["rate"] == str(best)
    made_up["done"].clear()
    run_comparison(options)
    assert made_up["done"] == []


def test_while_rates_are_tried_a_report_keeps_what_is_complete(settings, made_up, tmp_path):
    made_up["rate"] = {0.001: 0.0, 0.003: 0.5}
    rates = {"tasks": ("segmentation",), "rates": (0.001, 0.003)}
    run_comparison(settings(arms=("random",), **rates))
    before = parents(tmp_path)["random"].data.tags
    made_up["failing"] = {"pretraining": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run_comparison(settings(arms=("random", "artifact_removal"), **rates))
    assert parents(tmp_path)["random"].data.tags == before
    assert before["rate"] == "0.003"


def test_each_fold_chooses_its_rate_by_itself(settings, made_up, monkeypatch, tmp_path):
    best = {"0": 0.001, "1": 0.003}

    def history(store, run, metric):
        tags, rate = run.data.tags, store.client.get_run(run.info.run_id).data.tags["rate_of_run"]
        return {1: float(best[tags["fold"]] == float(rate))}

    perform = matrix.perform

    def with_rate(job):
        created = perform(job)
        if job.run.stage == "fine-tuning":
            Store(job.out).client.set_tag(created, "rate_of_run", str(job.run.values["learning_rate"]))
        return created

    monkeypatch.setattr(matrix, "perform", with_rate)
    monkeypatch.setattr(Store, "history", history)
    run_comparison(settings(tasks=("segmentation",), arms=("random",), folds=2, rates=(0.001, 0.003)))
    others = {words for words in made_up["done"] if not words.endswith(", training only")}
    assert len(others) == 4
    assert all(("rate 0.003" in words) == ("fold 1" in words) for words in others)
    assert parents(tmp_path)["random"].data.tags["rate"] == "0.001, 0.003"


def test_a_dry_run_counts_the_rates(settings, made_up, monkeypatch, capfd):
    made_up["rate"] = {0.001: 0.0, 0.003: 0.5}
    missing = []
    monkeypatch.setattr(matrix, "estimate", lambda runs, jobs: missing.append([str(run) for run in runs]))
    options = settings(tasks=("segmentation",), arms=("random",), rates=(0.001, 0.003))
    matrix.show_plan(options, 1)
    # two seeds at the first rate, and the trial of the second
    assert [words.split(", ")[3:] for words in missing[0]] == [
        ["seed 0", "rate 0.001"],
        ["seed 1", "rate 0.001"],
        ["seed 0", "rate 0.003"],
    ]
    run_comparison(options)
    matrix.show_plan(options, 1)
    assert missing[1] == []


def test_a_pretraining_whose_weights_are_gone_is_done_again_where_a_run_needs_them(settings, made_up, tmp_path):
    run_comparison(settings(arms=("artifact_removal",)))
    (weights,) = (tmp_path / "runs").rglob("model.pt")
    weights.unlink()
    made_up["done"].clear()
    run_comparison(settings(arms=("artifact_removal",)))
    assert made_up["done"] == []
    run_comparison(settings(arms=("artifact_removal",), seeds=3))
    assert [words.split(",")[0] for words in made_up["done"]] == ["pretraining artifact_removal", "segmentation"]


def test_a_truth_that_is_given_later_is_scored_without_another_training(settings, truth, made_up, tmp_path):
    run_comparison(settings())
    before = Store(tmp_path).complete()
    keys = {key for key, run in before.items() if run.data.tags["stage"] == "fine-tuning"}
    plan = matrix.make_plan(settings(truth=truth))
    # the same runs, with something left to do
    assert {run.key for run in plan.fine_tunings} == keys
    assert plan.done(before) == set(before) - keys
    for _ in range(2):
        run_comparison(settings(truth=truth))
    after = Store(tmp_path).complete()
    assert plan.done(after) == set(after)
    assert {key: run.info.run_id for key, run in after.items()} == {key: run.info.run_id for key, run in before.items()}
    assert len(made_up["done"]) == len(before) + len(keys)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lists: lists["test"].pop(), "--truth: found other scans, splits or another preparation in"),
        (lambda lists: lists["test"][0].update(checksum="other voxels"), "--truth: found other scans, splits or"),
        (lambda lists: lists["test"][0].pop("tissue"), "--truth: found labels for segmentation of sub-05 in one of"),
        (lambda lists: [scan.pop("tissue") for scan in lists["test"]], "found no scan in test with image and mask and"),
    ],
)
def test_a_truth_of_other_scans_or_labels_is_refused_before_any_training(settings, truth, tmp_path, change, sentence):
    copy = shutil.copytree(truth, tmp_path / "truth")
    datalist = json.loads((copy / "datalist.json").read_text())
    change(datalist)
    (copy / "datalist.json").write_text(json.dumps(datalist))
    with pytest.raises(InputError, match=sentence):
        matrix.make_plan(settings(truth=copy))


@pytest.mark.parametrize(("route", "found"), [(None, "no record of labels"), ("T1", "labels by T1")])
def test_labels_that_are_estimated_are_no_truth(settings, truth, tmp_path, route, found):
    copy = shutil.copytree(truth, tmp_path / "truth")
    (record,) = copy.glob("*/*/*_desc-labels.json")
    record.unlink() if route is None else record.write_text(json.dumps({"Route": route}))
    with pytest.raises(InputError, match=f"--truth: found {found} in .*, expected those of 'label --truth'"):
        matrix.make_plan(settings(truth=copy))


def test_a_truth_that_changes_is_scored_again_in_folds_too(settings, truth, made_up, tmp_path):
    options = {"folds": 2, "seeds": 1, "arms": ("random",)}
    run_comparison(settings(truth=truth, **options))
    done = len(made_up["done"])
    other = shutil.copytree(truth, tmp_path / "other")
    scan = next(other.glob("*_tissue.nii.gz"))
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.minimum(image.dataobj, 1), image.affine), scan)
    run_comparison(settings(truth=other, **options))
    assert len(made_up["done"]) == done + 2
    tags = {run.data.tags["truth"] for run in Store(tmp_path).complete().values()}
    assert tags == set(Store(tmp_path).truths())


def test_what_was_killed_is_not_taken_for_running(tmp_path):
    store = Store(tmp_path)
    killed, going_on = (store.client.create_run(store.experiment_id, tags={"key": "a"}).info.run_id for _ in range(2))
    other = store.client.create_run(store.experiment_id, tags={"key": "b"}).info.run_id
    store.end_abandoned("a", [going_on])
    status = [store.client.get_run(name).info.status for name in (killed, going_on, other)]
    assert status == ["KILLED", "RUNNING", "RUNNING"]


def test_a_comparison_with_other_values_is_another_one(settings, made_up, tmp_path):
    run_comparison(settings(arms=("random",)))
    first = parents(tmp_path)["random"]
    run_comparison(settings(arms=("random",), steps=12))
    assert len(Store(tmp_path).runs(stage="setting")) == 2
    newest = parents(tmp_path)
    assert Store(tmp_path).protocol() != first.data.tags["protocol"]
    assert len(made_up["done"]) == 4
    assert newest


def test_a_folder_of_any_name_has_its_own_database_and_a_deleted_experiment_comes_back(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "50%20a"
    store = Store(folder)
    assert (folder / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    store.client.delete_experiment(store.experiment_id)
    again = Store(folder)
    assert again.experiment_id == store.experiment_id
    assert again.client.create_run(again.experiment_id).info.experiment_id == store.experiment_id
