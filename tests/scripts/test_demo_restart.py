"""The demo's trainings: begun, gone on with, or left alone; and what it reads of an evaluation."""

import pytest

from scripts import demo


@pytest.mark.parametrize(("saved", "configs"), [([], ["pretrain"]), ([1, 2], ["pretrain", "resume"]), ([2, 3], None)])
def test_a_training_is_begun_gone_on_with_or_left(tmp_path, monkeypatch, saved, configs):
    for epoch in saved:
        (tmp_path / f"checkpoint_epoch={epoch}.pt").touch()
    run = []
    monkeypatch.setattr(demo, "command", lambda *words: run.append(words))
    demo.train(["pretrain"], tmp_path, 3, batch_size=1)
    if configs is None:
        assert run == []
    else:
        (words,) = run
        files = [f"bundle/configs/{name}.json" for name in configs]
        assert words[5] == (files[0] if len(files) == 1 else repr(files))
        assert words[6:] == ("--output_dir", str(tmp_path), "--max_epochs", "3", "--batch_size", "1")


def test_scores_are_the_means_of_each_method(tmp_path):
    (tmp_path / "baselines.csv").write_text(
        "method,scan,metric,class,value\n"
        "network,sub-1,test_macro_f1,gray matter,0.4\n"
        "network,sub-2,test_macro_f1,gray matter,0.6\n"
        "network,sub-2,test_loss,,9\n"
        "majority class,sub-1,test_macro_f1,gray matter,0.25\n"
    )
    assert demo.read_scores(tmp_path) == {"network": pytest.approx(0.5), "majority class": 0.25}
