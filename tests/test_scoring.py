"""`graft evaluate` on rows that are not its run's: labels that do not go together, intervals, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import scoring
from pipeline.__main__ import main
from pipeline.api import read_config, run_recipe
from pipeline.scoring import evaluate
from tests.synthetic import checkpoint_for, data_of, settings
from tests.test_resume import fill


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of `cats`, `dogs` and `other`, scored with intervals."""
    folder = tmp_path_factory.mktemp("run")
    base = checkpoint_for("text_classification", folder / "base")
    given = settings("text_classification", None, base, folder / "run", max_steps=2, bootstrap=100)
    for split, part in data_of(read_config("finetune", given)).items():
        part.to_json(folder / f"{split}.jsonl")
        given["data"][f"{split}_file"] = str(folder / f"{split}.jsonl")
    return run_recipe("finetune", given).output_dir


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_labels_that_do_not_go_together_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels in the rows, another name in the settings, another order: named with their line, no weight read."""
    monkeypatch.setattr(scoring, "model_at_work", lambda *given: pytest.fail("weights were read"))
    (tmp_path / "rows.csv").write_text("text,label\na cat,cats\na bird,birds\na dog,dogs\n")
    config = tmp_path / "my.yaml"
    given = {"task": "text_classification", "data": {"validation_file": str(tmp_path / "rows.csv")}}
    config.write_text(json.dumps(given))
    said = refused(capsys, "evaluate", "--model", run / "model", "--config", config)
    assert "the model knows the labels 'cats', 'dogs', 'other', and the rows have 'birds' beside them" in said
    assert f"{tmp_path}/rows.csv:3: the validation label 'birds' in 'label' is not one of the run's labels" in said
    (tmp_path / "rows.csv").write_text("text,label\na cat,cats\na dog,dogs\n")
    for names in (["dogs", "cats", "other"], ["cats", "dogs"]):
        config.write_text(json.dumps({**given, "data": {**given["data"], "label_names": names}}))  # type: ignore[dict-item]
        said = refused(capsys, "evaluate", "--model", run / "model", "--config", config)
        assert "my.yaml:1: data.label_names: the model's labels are 'cats', 'dogs', 'other', in this order" in said


def test_intervals_of_an_evaluation(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the run again, and those that are asked for; printed and written."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text())
    assert evaluate(run).intervals == results["intervals"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run), "--bootstrap", "150", "--output_dir", str(tmp_path / "scored")])
    assert ended.value.code in (0, None)
    written = json.loads((tmp_path / "scored" / "evaluation.json").read_text())
    low, high = written["intervals"]["validation"]["accuracy"]
    assert low <= written["metrics"]["validation"]["accuracy"] <= high and low < high
    assert f"95 %: {low:.4g} to {high:.4g}" in capsys.readouterr().out
    assert written["intervals"] != results["intervals"]
    assert not evaluate(run, bootstrap=0).intervals


def test_a_full_disk_does_not_cost_the_numbers(
    run: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(small_disk)
    command = ["evaluate", str(run), "--output_dir", str(small_disk / "scored")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "evaluation.json: cannot be written (No space left on device); its numbers are these:" in said
    accuracy = json.loads((run / "results.json").read_text())["metrics"]["validation"]["accuracy"]
    assert f"  {accuracy:.4g}" in said and said.endswith(f"to continue: graft {' '.join(command)}\n")
