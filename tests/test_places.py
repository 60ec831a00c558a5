"""Problems that show only after loading still say where the setting was written; and what the run folder may be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load, saying_where
from pipeline.data import DataConfig, load_splits, places_of
from pipeline.errors import ConfigError, DataError, UserError
from pipeline.models import ModelConfig, checkpoint_labels, from_checkpoint, from_config, load_tokenizer, outline
from pipeline.output import check_output
from pipeline.settings import RunConfig
from pipeline.tasks.labels import choose_labels
from tests.tiny import tiny_checkpoint, tiny_config

TEXT = "task: causal_lm\nmodel:\n  model_name_or_path: here\nseed: 1\n"


def said(config: Any, *problems: str, kind: type[UserError] = ConfigError) -> list[str]:
    with pytest.raises(kind) as caught, saying_where(config):
        raise kind(list(problems))
    return caught.value.problems


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(TEXT)
    return "run.yaml"


@pytest.mark.parametrize(
    ("problem", "placed"),
    [
        ("train.seed: is odd", "run.yaml:4: train.seed: is odd"),
        ("model.init: is odd", "run.yaml:2: model.init: is odd"),
        ("eval.metrics: are missing", "run.yaml: eval.metrics: are missing"),
        ("task: is odd", "run.yaml:1: task: is odd"),
        ("optim.name: is a flag", "--optim.name: is a flag"),
        # files of the user's may be called like sections
        ("train.csv:3: is odd", "train.csv:3: is odd"),
        ("train.csv: is odd", "train.csv: is odd"),
        ("data/train.jsonl: is odd", "data/train.jsonl: is odd"),
        ("run.yaml:4: train.seed: is placed already", "run.yaml:4: train.seed: is placed already"),
        ("nothing is there", "nothing is there"),
    ],
)
def test_a_later_problem_gets_the_place_of_its_setting(file: str, problem: str, placed: str) -> None:
    config = load(RunConfig, file, ["--optim.name", "sgd"])
    assert said(config, problem) == [placed]
    assert said(config, problem, problem, kind=DataError) == [placed, placed]


def test_a_python_mapping_has_no_places_and_a_copy_keeps_them(file: str) -> None:
    mapping = load(RunConfig, {"task": "causal_lm", "seed": 1})
    assert said(mapping, "train.seed: is odd") == ["train.seed: is odd"]
    copy = load(RunConfig, file).model_copy(update={"output_dir": "elsewhere"})
    assert said(copy, "train.seed: is odd") == ["run.yaml:4: train.seed: is odd"]


def test_where_settings_were_written_makes_no_difference_between_configurations(file: str) -> None:
    given = {"task": "causal_lm", "model": {"model_name_or_path": "here"}, "train": {"seed": 1}}
    assert load(RunConfig, file) == load(RunConfig, given)


def test_the_home_folder_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert load(RunConfig, {"task": "causal_lm", "output_dir": "~/runs/a"}).output_dir == "/home/me/runs/a"


def test_a_token_is_refused_and_never_repeated(file: str) -> None:
    token = "hf_" + "a1B2" * 8
    for flags in (["--run_name", token], ["--label_names", f"[{token}]"], ["--max_steps", token]):
        with pytest.raises(ConfigError) as caught:
            load(RunConfig, file, flags)
        assert "looks like an access token" in str(caught.value)
        assert token not in str(caught.value)


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(str(tmp_path / "run"), "auto")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ConfigError, match="no permission to write in"):
        check_output(str(tmp_path / "deep" / "run"), "auto")


def test_a_folder_of_a_run_may_be_used_again(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    check_output(str(tmp_path), "never")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"no run of graft \(notes.txt\)"):
        check_output(str(tmp_path), "never")
    (tmp_path / "config.yaml").touch()
    check_output(str(tmp_path), "never")


def test_rows_are_found_again_in_every_kind_of_file(file: str) -> None:
    rows = [("a", "x"), ("b\nc", "y"), ("d", "z")]
    dataset = load_splits(DataConfig(train_file=_csv(rows)), {"text": "text", "label": "label"})["train"]
    dataset.to_parquet("rows.parquet")
    dataset.to_json("rows.jsonl")
    places = {
        name: places_of(DataConfig(train_file=name), "train", "label", [2])[2]
        for name in ("rows.csv", "rows.parquet", "rows.jsonl")
    }
    assert places == {"rows.csv": "rows.csv:5", "rows.parquet": "rows.parquet[2]", "rows.jsonl": "rows.jsonl:3"}
    assert places_of(DataConfig(), "test", "label", [0]) == {0: "datasets['test'][0]"}
    assert places_of(DataConfig(dataset_name="a/b"), "test", "label", [0]) == {0: "a/b['test'][0]"}
    cut = DataConfig(train_file="rows.csv", validation_split_fraction=0.5)
    assert places_of(cut, "validation", "label", [0]) == {0: "validation row 1 of those drawn"}


def _csv(rows: list[tuple[str, str]]) -> str:
    Path("rows.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    return "rows.csv"


def test_labels_of_a_trained_head_are_not_given_other_meanings(tmp_path: Path) -> None:
    assert choose_labels(["no", "yes"], None, ["yes", "no"])[0] == ["yes", "no"]
    with pytest.raises(DataError, match="the checkpoint was trained for the labels 'yes', 'no'"):
        choose_labels(["cat", "dog"], None, ["yes", "no"])
    assert choose_labels(["cat", "dog"], ["dog", "cat"], ["yes", "no"])[0] == ["dog", "cat"]
    # names without a head that knows them bind nobody
    named: dict[str, Any] = {"id2label": {0: "yes", 1: "no"}}
    body = tiny_checkpoint(tmp_path / "body", "bert", "AutoModelForMaskedLM", **named)
    assert checkpoint_labels(ModelConfig(model_name_or_path=str(body)), "AutoModelForSequenceClassification") is None


@pytest.mark.parametrize("start", ["checkpoint", "random"])
def test_an_outline_has_the_names_and_shapes_of_the_model_and_no_values(start: str, tmp_path: Path) -> None:
    folder = str(tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM"))
    random: dict[str, Any] = {"config": tiny_config("bert"), "tokenizer_name_or_path": folder}
    config = ModelConfig(model_name_or_path=folder) if start == "checkpoint" else ModelConfig(**random)
    given: dict[str, Any] = {
        "model_class": "AutoModelForSequenceClassification",
        "model_kwargs": {"num_labels": 3},
        "tokenizer": load_tokenizer(config),
    }
    head: dict[str, Any] = {"new_parameters": "classifier|pooler"}
    seen = outline(config, **given, **head).state_dict()
    whole = from_checkpoint(config, **given, **head) if start == "checkpoint" else from_config(config, **given, seed=0)
    shapes = {name: tensor.shape for name, tensor in whole.state_dict().items()}
    assert {name: tensor.shape for name, tensor in seen.items()} == shapes
    assert {tensor.device.type for tensor in seen.values()} == {"meta"}
