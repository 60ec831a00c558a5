"""The loader: what is accepted, and that every mistake is named with its place and its way out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import aliases
from pipeline.config import dump, json_schema, load, resolve
from pipeline.errors import ConfigError
from pipeline.placing import Layout
from tests.config_models import LoraSettings, Reader, Run, TaskSettings, extra


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


def test_layers_override_each_other(read: Reader) -> None:
    text = "task: classify\ndata: {text_column: a, max_length: 64}\nlearning_rate: 1e-4\nseed: 1\n"
    config = read(text, "--learning_rate", "3e-4", "--lora.r=4", "--data.text-column", "b")
    assert config.optim.learning_rate == 3e-4
    assert (config.lora, config.l1) == (LoraSettings(r=4), None)
    assert (config.data.text_column, config.data.max_length, config.train.seed) == ("b", 64, 1)
    assert config.task == TaskSettings(name="classify")
    overridden = load(Run, {"task": "x", "lora.r": 2}, {"seed": 3, "data": {"max_length": 8}, "optim.learning_rate": 1})
    assert (overridden.train.seed, overridden.data.max_length, overridden.lora) == (3, 8, LoraSettings(r=2))


@pytest.mark.parametrize(
    ("written", "flags", "on"),
    [
        ("", [], None),
        ("lora:", [], 8),
        ("lora: {}", [], 8),
        ("lora: true", [], 8),
        ("lora: false", [], None),
        ("lora: {r: 4}", [], 4),
        ("r: 4", [], 4),
        ("lora: {r: 4}", ["--lora", "false"], None),
        ("lora: {r: 4}", ["--lora", "true"], 4),
        ("lora: false", ["--lora"], 8),
        ("lora: false", ["--r", "2"], 2),
        ("", ["--lora", "--seed", "1"], 8),
        ("", ["--lora", "{r: 3}"], 3),
    ],
)
def test_a_strategy_is_on_when_its_section_is_there(read: Reader, written: str, flags: list[str], on: int) -> None:
    config = read(f"task: x\n{written}\n", *flags)
    assert (config.lora.r if config.lora else None) == on


def test_strategy_off_in_python_and_unclear_null(read: Reader) -> None:
    assert load(Run, {"task": "x", "lora": None, "l1": {}}).lora is None
    assert load(Run, {"task": "x", "lora": LoraSettings(r=2)}).lora == LoraSettings(r=2)
    assert "run.yaml:2: lora: null may mean on or off" in read.problem("task: x\nlora: null\n")
    assert "--lora: null may mean on or off" in read.problem("task: x\n", "--lora", "null")
    assert "turned off, yet" in read.problem("task: x\nr: 2\nlora: false\n")
    assert "turned on and off" in read.problem("task: x\nlora: false\nr: 2\n")
    assert "turned on and off" in read.problem("task: x\n", "--lora", "false", "--lora.r", "2")


MISTAKES = {
    "data: {text_colum: a}": "run.yaml:2: data.text_colum: unknown key; did you mean 'text_column'?",
    "lerning_rate: 1": "run.yaml:2: lerning_rate: unknown key; did you mean 'learning_rate'?",
    "optim: {seed: 1}": "run.yaml:2: optim.seed: unknown key; 'seed' belongs to the section 'train'",
    "lora: {learning_rat: 1}": "run.yaml:2: lora.learning_rat: unknown key; did you mean 'optim.learning_rate'?",
    "base_model: gpt2": "run.yaml:2: base_model: unknown key; its name here is 'model.model_name_or_path'",
    "lora: {rank: 4}": "run.yaml:2: lora.rank: unknown key; its name here is 'lora.r'",
    "lora: {dropout: 0.1}": "run.yaml:2: lora.dropout: unknown key; its name here is 'lora.lora_dropout'",
    "bf16: true": "run.yaml:2: bf16: unknown key; set train.mixed_precision: bf16",
    "weight: 3": "run.yaml:2: weight: is in several sections; write l1.weight or l2sp.weight",
    "optim: sgd": "run.yaml:2: optim: expected a section (keys and values), got 'sgd'; write `optim: {name: sgd}`",
    "data: true": "run.yaml:2: data: expected a section (keys and values), got true",
    "optim:\n  learning_rate: -1": "run.yaml:3: optim.learning_rate: expected a number greater than 0, got -1",
    "dropout: 1": "run.yaml:2: model.dropout: expected a number of at least 0 and below 1, got 1",
    "learning_rate: .inf": "run.yaml:2: optim.learning_rate: expected a number greater than 0, got inf",
    "learning_rate: true": "run.yaml:2: optim.learning_rate: expected a number greater than 0, got true",
    "learning_rate: fast": "run.yaml:2: optim.learning_rate: expected a number greater than 0, got 'fast'",
    "seed: 1.5": "run.yaml:2: train.seed: expected a whole number of at least 0, got 1.5",
    "seed:": "run.yaml:2: train.seed: expected a whole number of at least 0, got nothing (null); leave the key out",
    "max_train_samples: 0": "run.yaml:2: data.max_train_samples: expected a whole number of at least 1, got 0",
    "delimiter: ab": "run.yaml:2: data.delimiter: expected a text of 1 character, got 'ab'",
    "text_column: true": "run.yaml:2: data.text_column: expected text or a list of texts, got true; put it in quotes",
    "label_names: yes-no": "run.yaml:2: data.label_names: expected a list of texts, got 'yes-no'; write [yes-no]",
    "label_names: [a, {b: 1}]": "run.yaml:2: data.label_names: expected a list of texts, got ['a', {'b': 1}]",
    "betas: [0.9]": "run.yaml:2: optim.betas: expected a list of 2 numbers, got [0.9]",
    "depth_scaled: 3": "run.yaml:2: model.depth_scaled: expected true or false, got 3",
    "config: [a]": "run.yaml:2: model.config: expected a mapping (keys and values) or text, got ['a']",
    "mixed_precision: bf17": "run.yaml:2: train.mixed_precision: expected one of 'auto', 'no', 'bf16', 'fp16', "
    "got 'bf17'; did you mean 'bf16'?",
    "name: adamv": "run.yaml:2: optim.name: unknown name 'adamv'; did you mean 'adamw'?",
    "model: {model_name_or_path: a, config: b}": "run.yaml:2: model: give model_name_or_path or config, not both",
    "seed: 1\ntrain: {seed: 2}": "run.yaml:3: train.seed: given twice (also as run.yaml:2: train.seed)",
    "seed: 1\nseed: 2": "run.yaml:3: the key 'seed' is here twice (first in line 2)",
    "other:Strategy: {}": "run.yaml:2: other:Strategy: unknown strategy 'other:Strategy'",
    "mine:Strategy: {weight: -1}": "run.yaml:2: mine:Strategy.weight: expected a number greater than 0, got -1",
    "mine:Strategy: {wieght: 1}": "run.yaml:2: mine:Strategy.wieght: unknown key; did you mean 'weight'?",
    "extensions: 3": "run.yaml:2: extensions: unknown key",
    "1: x": "run.yaml:2: 1: unknown key",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_line(read: Reader, mistake: str) -> None:
    assert read.problem(f"task: x\n{mistake}\n").startswith(MISTAKES[mistake])


FLAG_MISTAKES = {
    ("--lora.rr", "4"): "--lora.rr: unknown key; did you mean 'r'?",
    ("--seed=abc",): "--seed: expected a whole number of at least 0, got 'abc'",
    ("--learning-rate", "-1"): "--learning-rate: expected a number greater than 0, got -1",
    ("--seed",): "--seed: a value is missing; expected a whole number of at least 0",
    ("--task",): "--task: a value is missing; expected a value",
    ("--model",): "--model: expected a section (keys and values), got nothing",
    ("--lorra.r", "1"): "--lorra.r: unknown key; did you mean 'lora'?",
    ("--text_column", "a", "b"): "b: unexpected argument; settings are written `--section.key value`, lists",
    ("--seed", "1", "--train.seed", "2"): "--train.seed: given twice (also as --seed)",
    ("--lr", "1"): "--lr: unknown key; its name here is 'optim.learning_rate'",
    (
        "--model.config",
        "a.json",
        "--model.config.size",
        "1",
    ): "--model.config.size: 'config' is 'a.json', not a mapping",
    ("--model.config", "{a: 1, a: 2}"): "--model.config: the key 'a' is here twice",
    ("--task.smoothing", "1"): "--task.smoothing: unknown key; did you mean 'label_smoothing'?",
    ("--mine:Strategy.weight", "0"): "--mine:Strategy.weight: expected a number greater than 0, got 0",
    ("--",): "--: unexpected argument",
}


@pytest.mark.parametrize("flags", FLAG_MISTAKES)
def test_a_mistake_on_the_command_line_is_named_by_its_flag(read: Reader, flags: tuple[str, ...]) -> None:
    assert read.problem("task: x\n", *flags).startswith(FLAG_MISTAKES[flags])


def test_all_problems_at_once_in_order(read: Reader) -> None:
    text = (
        "task: {name: x, label_smoothin: 1, label_smoothing: 2}\nlr: 1\ndata:\n  max_length: 1\n  text_colum: a\n"
        "mine:Strategy: {weight: x}\nbf16: true\n"
    )
    problems = read.problems(text, "--seed", "x", "--oops")
    places = [problem.split(" ")[0] for problem in problems]
    assert places == [
        "run.yaml:1:",
        "run.yaml:1:",
        "run.yaml:2:",
        "run.yaml:4:",
        "run.yaml:5:",
        "run.yaml:6:",
        "run.yaml:7:",
    ] + [
        "--seed:",
        "--oops:",
    ]
    assert problems[0] == "run.yaml:1: task.label_smoothin: unknown key; did you mean 'label_smoothing'?"
    assert "task.label_smoothing: expected a number of at least 0 and below 1, got 2" in problems[1]


def test_a_missing_key(read: Reader) -> None:
    assert (
        read.problem("seed: 1\n")
        == "run.yaml: task: missing; expected what is to be learned, such as `task: causal_lm`"
    )
    assert read.problem("task: {}\n") == "run.yaml:1: task.name: missing; expected text"
    # The misspelt key may be the missing one: one message, not two.
    assert len(read.problems("task: x\nmodel: {model_name_or_path: a, config: b, droput: 1}\n")) == 1
    assert len(read.problems("task: 3\nlr: 1\n")) == 2
    assert read.problem("taks: x\n") == "run.yaml:1: taks: unknown key; did you mean 'task'?"
    with pytest.raises(ConfigError, match=r"^task: missing"):
        load(Run)


def test_text_stays_the_text_that_was_written(read: Reader) -> None:
    text = "task: x\ntext_column: 1\nlabel_names: [0, NO, 2.50, 1e-4, on, 2020-01-01, 1:30]\noutput_dir: 007\n"
    config = read(text, "--train_file", "1e3")
    assert config.data.text_column == "1"
    assert config.data.label_names == ["0", "NO", "2.50", "1e-4", "on", "2020-01-01", "1:30"]
    assert (config.output_dir, config.data.train_file) == ("007", "1e3")
    with pytest.raises(ConfigError, match="put it in quotes"):
        load(Run, {"task": "x", "text_column": 1})


@pytest.mark.parametrize("text", ["a: b", "a #b", "[", "{", "'", "*", "&a", "!x", "%", "\t", "NO", "-", "a b", "ü"])
def test_a_flag_value_is_taken_as_it_is(read: Reader, text: str) -> None:
    assert read("task: x\n", "--output_dir", text).output_dir == text


def test_flag_values_as_in_yaml(read: Reader) -> None:
    config = read(
        "task: x\ndelimiter: ','\n", "--text_column", "[a, 2]", "--label_names=['1', \"b\"]", "--delimiter", "null"
    )
    assert (config.data.text_column, config.data.label_names, config.data.delimiter) == (["a", "2"], ["1", "b"], None)
    assert read("task: x\n", "--output_dir", "'1'").output_dir == "1"
    assert read("task: x\n", "--depth_scaled", "--seed", "1").model.depth_scaled


def test_one_entry_of_a_mapping_can_be_overridden(read: Reader) -> None:
    text = "task: {name: x, label_smoothing: 0.1}\nmodel: {config: {size: 8, depth: {a: 1}}}\n"
    config = read(text, "--config.size", "16", "--model.config.depth.b", "2")
    assert config.model.config == {"size": 16, "depth": {"a": 1, "b": 2}}
    assert read("task: x\n", "--task.label_smoothing", "0.5").task == TaskSettings(name="x", label_smoothing=0.5)
    replaced = read.problem("task.label_smoothing: 2\n", "--task", "{name: x, label_smoothing: 3}")
    assert replaced.startswith("--task: expected a number")
    given = {"task": "x", "model": {"config": {"size": 1}}}
    load(Run, given, ["--model.config.size", "2"])
    assert given == {"task": "x", "model": {"config": {"size": 1}}}


def test_user_strategies(read: Reader) -> None:
    assert read("task: x\nmine:Strategy: {weight: 2}\n").extensions == {"mine:Strategy": {"weight": 2.0}}
    assert read("task: x\nmine:Strategy:\n").extensions == {"mine:Strategy": {"weight": 1.0}}
    assert read("task: x\nmine:Strategy: {}\n", "--mine:Strategy", "false").extensions == {}
    config = read("task: x\n", "--mine:Strategy.weight=3", "--lora.r=2")
    Path("again.yaml").write_text(dump(config), encoding="utf-8")
    assert load(Run, "again.yaml", extra_section=extra) == config
    assert load(Run, config.model_dump(), extra_section=extra) == config
    assert load(Run, Run(task="x").model_dump()) == Run(task="x")
    assert "cannot be given here" in str(pytest.raises(ConfigError, load, Run, {"task": "x", "a:b": {}}).value)


def test_dump_reads_back_to_an_equal_object(read: Reader) -> None:
    flags = [
        "--label_names",
        "['NO', '1e-4', '007', 'null', '~', 'a: b', '1_0', '0x1', 'yes', '']",
        "--betas=[0.5, 1e-5]",
    ]
    config = read("task: {name: x}\nl1:\nconfig: {id2label: {0: 'no'}, size: 1e-9}\n", *flags)
    text = dump(config)
    assert "lora" not in text and "l1:" in text
    Path("again.yaml").write_text(text, encoding="utf-8")
    assert load(Run, "again.yaml") == config
    assert dump(load(Run, "again.yaml")) == text


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graft_user_module.py").write_text("class MyTask: pass\n", encoding="utf-8")
    (tmp_path / "graft_broken_module.py").write_text("import graft_no_such_thing\n", encoding="utf-8")
    assert resolve({"a": 1}, "a", what="optim.name") == 1
    found: Any = resolve({}, "graft_user_module:MyTask", what="task")
    assert found.__name__ == "MyTask"
    expected = {
        "adamv": "optim.name: unknown name 'adamv'; did you mean 'adamw'?",
        "graft_user_module:MyTsk": "optim.name: the module 'graft_user_module' has no 'MyTsk'; did you mean 'MyTask'?",
        "graft_absent:A": "optim.name: 'graft_absent:A': there is no module 'graft_absent'",
        "graft_broken_module:A": "optim.name: 'graft_broken_module:A': importing it failed: ModuleNotFoundError",
        "a b:c": "optim.name: 'a b:c' is not of the form my_module:MyName",
        "a:": "optim.name: 'a:' is not of the form my_module:MyName",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            resolve({"adamw": 1, "sgd": 2}, name, what="optim.name")
        assert str(caught.value).startswith(message)


def test_json_schema_knows_sections_and_flat_keys() -> None:
    schema = json_schema(Run)
    json.dumps(schema)
    properties = schema["properties"]
    assert {"task", "model", "lora", "learning_rate", "r", "output_dir"} <= set(properties)
    assert not {"weight", "extensions"} & set(properties)
    assert {"type": "boolean"} in properties["lora"]["anyOf"]
    assert {"type": "boolean"} not in properties["model"]["anyOf"]
    assert properties["learning_rate"]["exclusiveMinimum"] == 0
    assert properties["model_name_or_path"]["description"] == "Checkpoint to start from."
    assert schema["additionalProperties"] is False and schema["required"] == ["task"]


def test_aliases_are_never_both_renamed_and_explained() -> None:
    assert not aliases.RENAMED.keys() & aliases.INSTEAD.keys()
    assert not aliases.RENAMED.keys() & set(aliases.RENAMED.values())


def test_aliases_name_settings_that_exist() -> None:
    from pipeline.settings import RunConfig

    layout = Layout(RunConfig)
    settings = {f"{name}.{key}" for name, section in layout.sections.items() for key in section.model_fields}
    settings |= {*layout.sections, *layout.plain}
    assert set(aliases.RENAMED.values()) <= settings
    named = set(re.findall(r"\b(?:model|data|optim|train|eval|checkpoint)\.\w+", " ".join(aliases.INSTEAD.values())))
    assert named and named <= settings
    # A name that is a setting here as well would never be explained.
    top_level = {name for name in {*aliases.RENAMED, *aliases.INSTEAD} if "." not in name}
    assert not [name for name in top_level if layout.owners(name) or name in settings]
