"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.__main__ import main
from pipeline.config import load
from pipeline.quickstart import FOUR_WAYS, quickstart
from pipeline.settings import RunConfig


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "pretrain",
        "finetune",
        "freeze",
        "lora",
        "train",
        "rerun",
        "merge",
        "quickstart",
        "compare",
        "data",
    ):
        assert run(command, "--help") in (0, None)
        assert f"graft {command} " in capsys.readouterr().out


def test_schema_is_json_and_knows_the_sections(capsys: pytest.CaptureFixture[str]) -> None:
    run("config", "schema")
    schema = json.loads(capsys.readouterr().out)
    assert {"model", "data", "lora", "freeze", "optim", "learning_rate"} <= set(schema["properties"])


def test_show_fills_in_every_default_and_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("task: causal_lm\nmodel_name_or_path: somewhere\nlearning_rate: 1e-4\n")
    run("config", "show", str(file), "--lora.r", "4")
    text = capsys.readouterr().out
    shown = yaml.safe_load(text)
    assert shown["lora"]["r"] == 4 and shown["optim"]["learning_rate"] == 1e-4
    (tmp_path / "again.yaml").write_text(text)
    again = load(RunConfig, tmp_path / "again.yaml")
    assert again == load(RunConfig, file, ["--lora.r", "4"])


def test_a_mistake_ends_with_two_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("task: causal_lm\nlerning_rate: 1e-4\nbase_model: x\n")
    assert run("config", "show", str(file)) == 2
    message = capsys.readouterr().err
    assert "my.yaml:2" in message and "learning_rate" in message and "model_name_or_path" in message


def test_quickstart_makes_the_whole_comparison(tmp_path: Path) -> None:
    comparison = quickstart(tmp_path / "quick", steps_scale=0.004)
    assert [row["name"] for row in comparison.rows] == ["untouched", *FOUR_WAYS]
    written = {path.name for path in (tmp_path / "quick").iterdir()}
    assert {"compare.md", "compare.json", "compare.png", "tokenizer", "data"} <= written
    table = json.loads((tmp_path / "quick" / "compare.json").read_text())
    assert len(table["samples"]) == 3 and "bits_per_byte" in json.dumps(table)
