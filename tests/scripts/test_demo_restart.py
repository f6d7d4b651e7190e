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


def test_metrics_are_read_as_monai_writes_them(tmp_path):
    (tmp_path / "metrics.csv").write_text("val_macro_f1,0.41110944747924805\n")
    assert demo.read_metrics(tmp_path) == {"val_macro_f1": pytest.approx(0.411109447)}
