"""`--dry_run` of the commands for saved models: everything is checked and said, and nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.__main__ import main
from pipeline.api import main as recipe
from pipeline.api import read_config, run_recipe
from tests.synthetic import checkpoint_for, data_of, settings

LABELLED = '{"text": "a cat in the rain", "label": "cats"}\n{"text": "a dog on the hill", "label": "dogs"}\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters, on rows in files."""
    folder = tmp_path_factory.mktemp("classification")
    base = checkpoint_for("text_classification", folder / "base")
    given = settings("text_classification", "lora", base, folder / "run", max_steps=1, cache_dir=str(folder / "cache"))
    for split, part in data_of(read_config("lora", given)).items():
        part.to_json(folder / f"{split}.jsonl")
        given["data"][f"{split}_file"] = str(folder / f"{split}.jsonl")
    return run_recipe("lora", given).output_dir


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code: object = 0
    try:
        main([str(word) for word in arguments])
    except SystemExit as ended:
        code = ended.code or 0
    out, err = capsys.readouterr()
    assert isinstance(code, int)
    return code, out, err


def everything(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_predict_says_what_it_would_do(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text(LABELLED)
    before = everything(tmp_path) | everything(run)
    command = ["predict", run, "--file", tmp_path / "rows.jsonl", "--out", tmp_path / "new" / "out.jsonl"]
    code, out, _ = said(capsys, *command, "--eval_batch_size", "5", "--dry_run")
    assert code == 0 and before == everything(tmp_path) | everything(run)
    lines = {line[:11].strip(): line[13:] for line in out.splitlines()}
    assert lines == {
        "model": f"{run}, an adapter on {run.parent / 'base'}",
        "task": "text_classification",
        "rows": "2, of which it reads text",
        "at a time": "5 rows",
        "would write": str(tmp_path / "new" / "out.jsonl"),
    }
    assert said(capsys, *command)[0] == 0  # and so it does
    assert len((tmp_path / "new" / "out.jsonl").read_text().splitlines()) == 2


def test_evaluate_says_what_it_would_do(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(tmp_path) | everything(run)
    code, out, _ = said(capsys, "evaluate", run, "--output_dir", tmp_path / "scored", "--bootstrap", "200", "--dry_run")
    assert code == 0 and before == everything(tmp_path) | everything(run)
    assert "rows         13 validation\n" in out and f"would write  {tmp_path}/scored/evaluation.json\n" in out
    reported = json.loads((run / "results.json").read_text())["metrics"]["validation"]
    (metrics,) = [line for line in out.splitlines() if line.startswith("metrics")]
    assert set(reported) - {"loss", "num_samples"} <= set(metrics[13:].split(", ")) and metrics.endswith(" 200 draws")
    code, out, _ = said(capsys, "evaluate", run, "--dry-run")
    assert code == 0 and "would write  nothing; the numbers are printed" in out


def test_merge_says_what_it_would_do(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(tmp_path) | everything(run)
    code, out, _ = said(capsys, "merge", run, "--out", tmp_path / "plain", "--dry_run")
    assert code == 0 and before == everything(tmp_path) | everything(run)
    assert f"model        {run}, an adapter on {run.parent / 'base'}\n" in out
    assert "compared on  4 rows of the run's data\n" in out
    assert said(capsys, "merge", run, "--out", tmp_path / "plain")[0] == 0
    size = (tmp_path / "plain" / "model.safetensors").stat().st_size
    assert f"AutoModelForSequenceClassification, about {size / 1e6:.1f} MB of weights\n" in out


def test_what_would_fail_fails_in_the_dry_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As without it: exit code 2 and the same sentence, for the place to write, the rows, the settings, the weights."""
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n')
    (tmp_path / "good.jsonl").write_text(LABELLED)
    (tmp_path / "file").touch()
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (run / "model").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "adapter_model.safetensors")
    weights["base_model.model.other.lora_A.weight"] = torch.zeros(2, 2)
    save_file(weights, broken / "adapter_model.safetensors")
    (broken / "config.yaml").write_text((run / "config.yaml").read_text())
    out, good = ("--out", tmp_path / "out"), ("--file", tmp_path / "good.jsonl")
    cases: list[tuple[list[object], str]] = [
        (["predict", run, "--file", tmp_path / "rows.jsonl", *out], "rows.jsonl:1: text is empty"),
        (["predict", run, *good, "--out", tmp_path / "file" / "x"], "cannot be written, since"),
        (["predict", run, *good, *out, "--eval_batch_size", "0"], "eval_batch_size"),
        (["predict", run, *good, *out, "--max_length", "9999"], "graft predict: --max_length: "),
        (
            ["predict", run, *good, *out, "--learning_rate", "1"],
            "predict: --learning_rate: has no use without training",
        ),
        (["evaluate", run, "--lora.r", "4", "--max_steps", "9"], "--max_steps: has no use without training"),
        (["predict", run, *good, *out, "--model.dropout", "0.5"], "--model.dropout: has no use without training"),
        (["predict", run, *good, *out, "--dryrun"], "did you mean --dry_run?"),
        (["predict", broken, *good, *out], "made for another base"),
        (["evaluate", broken, "--output_dir", tmp_path / "scored"], "made for another base"),
        (["evaluate", run, "--output_dir", tmp_path / "file"], "is a file"),
        (["evaluate", run, "--output_dir", tmp_path / ("a" * 300)], "(File name too long)"),
        (["evaluate", run, "--validation_file", "nowhere.jsonl"], "nowhere.jsonl"),
        (["evaluate", run, "--bootstrap", "9"], "fewer than 100 draws say nothing"),
        (["merge", broken, *out], "made for another base"),
        (["merge", run, "--out", tmp_path / "file" / "x"], "cannot be written, since"),
    ]
    before = everything(tmp_path)
    for command, sentence in cases:
        code, printed, err = said(capsys, *command, "--dry_run")
        assert (code, printed) == (2, "") and sentence in err, (command, err)
    assert everything(tmp_path) == before


def test_a_folder_that_is_closed(tmp_path: Path) -> None:
    """For whom it is closed: the superuser goes everywhere, so another user tries."""
    (tmp_path / "closed").mkdir(mode=0)
    script = (
        "import os, sys; from pathlib import Path; from pipeline.prediction_file import new_file;"
        "from pipeline.errors import ConfigError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: new_file(Path(sys.argv[1]))\n"
        "except ConfigError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "closed" / "in" / "out.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert " is closed to you; name another place" in done.stdout, done.stderr


def test_a_recipe_and_a_push_write_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)
    before = everything(tmp_path) | everything(run)
    with pytest.raises(SystemExit) as ended:
        recipe("lora", arguments=[str(run / "config.yaml"), "--output_dir", str(tmp_path / "new"), "--dry_run"])
    assert ended.value.code == 0 and f"will write   {tmp_path / 'new' / 'config.yaml'}" in capsys.readouterr().out
    code, out, _ = said(capsys, "push", run, "--hub_model_id", "me/it", "--dry_run")
    assert code == 0 and "would go to me/it" in out
    code, _, err = said(capsys, "sweep", run / "config.yaml", "--seed", "0,1", "--dry_run")
    assert code == 0 and "sweep: 2 runs in" in err
    assert before == everything(tmp_path) | everything(run)
