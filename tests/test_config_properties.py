"""The loader against generated input: it answers with a configuration or a ConfigError, and never takes a mistake."""

from __future__ import annotations

import copy
import math
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from pipeline.config import Section, dump, load, read_yaml
from pipeline.errors import ConfigError
from pipeline.yaml_file import write_yaml


class Data(Section):
    train_file: str | list[str] | None = None
    text_column: str | None = None
    label_names: list[str] | None = None
    max_length: int | None = Field(default=None, ge=2)


class Lora(Section):
    r: int = Field(default=8, ge=1)
    rate: float = Field(default=0.5, ge=0, lt=1)


class Train(Section):
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    learning_rate: float = Field(default=5e-5, gt=0)
    shuffle: bool = True


class Run(Section):
    task: Any = "x"
    data: Data = Data()
    lora: Lora | None = None
    train: Train = Train()
    output_dir: str = "runs"


VALID: dict[str, Any] = {
    "task": "x",
    "data": {"train_file": ["a.tsv"], "text_column": "sentence", "label_names": ["NO", "1"], "max_length": 128},
    "lora": {"r": 4, "rate": 0.1},
    "train": {"mixed_precision": "bf16", "learning_rate": 3e-4, "shuffle": False},
    "output_dir": "runs/a",
}
SECTIONS: dict[str, type[Section]] = {"data": Data, "lora": Lora, "train": Train}
KEYS = [(section, key) for section, keys in VALID.items() if isinstance(keys, dict) for key in keys]
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
RUNS = st.builds(
    Run,
    task=st.text(max_size=5),
    data=st.builds(
        Data,
        train_file=st.none() | st.text() | st.lists(st.text(), max_size=3),
        text_column=st.none() | st.text(),
        label_names=st.none() | st.lists(st.text(), max_size=3),
        max_length=st.none() | st.integers(min_value=2),
    ),
    lora=st.none() | st.builds(Lora, r=st.integers(min_value=1, max_value=10**9), rate=st.floats(0, 0.99)),
    train=st.builds(
        Train,
        learning_rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
        shuffle=st.booleans(),
    ),
    output_dir=st.text(),
)


def load_text(text: str | bytes, *flags: str) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return load(Run, path, flags)


@given(key=st.sampled_from(KEYS), name=st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_a_renamed_key_is_refused_or_is_another_key(key: tuple[str, str], name: str) -> None:
    section, old = key
    values = copy.deepcopy(VALID)
    values[section][name] = values[section].pop(old)
    try:
        config = load_text(write_yaml(values))
    except ConfigError as error:
        assert f"{section}.{name}: " in str(error)
        assert all(":" in problem and "run.yaml:" in problem for problem in error.problems)
    else:
        fields = SECTIONS[section].model_fields
        assert name in fields and old in {name, *fields}
        assert vars(getattr(config, section))[name] is not None


# a merge key is refused at its own line, which is another test
NAMES = st.text(max_size=3).filter(lambda name: name != "<<")


@given(key=st.sampled_from(KEYS), value=LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(NAMES, LEAF))
def test_a_changed_value_is_refused_with_its_place_or_means_the_same(key: tuple[str, str], value: Any) -> None:
    section, name = key
    values = copy.deepcopy(VALID)
    values[section][name] = value
    text = write_yaml(values)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if row.startswith(f"  {name}:"))
    try:
        config = load_text(text)
    except ConfigError as error:
        assert len(error.problems) == 1
        assert f"run.yaml:{line}: {section}.{name}: expected " in error.problems[0]
        return
    taken = vars(getattr(config, section))[name]
    assert isinstance(taken, bool) == isinstance(value, bool) or name == "shuffle"
    if isinstance(taken, float) and not isinstance(value, str):
        assert math.isclose(taken, value)
    elif isinstance(taken, list):
        # Numbers became the text that stood there; text is as it was.
        assert all(type(was) in (int, float) or now == was for now, was in zip(taken, value, strict=True))
    elif type(taken) is type(value) or isinstance(taken, int) and isinstance(value, float):
        assert taken == value


@given(config=RUNS)
@example(config=Run(output_dir="\x85", data=Data(label_names=["\u2028", "a\r\nb", "\ufeff", "NO", "1e-4", "0o7"])))
@settings(max_examples=200)
def test_dump_and_load_round_trip(config: Run) -> None:
    text = dump(config)
    assert load_text(text) == config
    # Other programs read YAML 1.1; they must see the same texts.
    other = yaml.safe_load(text)
    assert other["output_dir"] == config.output_dir and other["data"]["label_names"] == config.data.label_names


@given(
    text=st.text(max_size=80) | st.text(alphabet="ab:-[]{}&*!|>'\"\n #,?%@~.0", max_size=60) | st.binary(max_size=40)
)
@settings(max_examples=300)
def test_any_file_is_read_or_refused(text: str | bytes) -> None:
    try:
        load_text(text)
    except ConfigError as error:
        assert all("run.yaml" in problem for problem in error.problems)


ARGUMENT = st.sampled_from(
    ["--lora", "--lora.r", "--data", "--r=", "--task.a", "--task", "--seed", "--a:b.c"]
) | st.text(max_size=12)


@given(arguments=st.lists(ARGUMENT | st.text(alphabet="-.=:ra[{'\"", max_size=8), max_size=5))
@settings(max_examples=300)
def test_any_arguments_are_taken_or_refused(arguments: list[str]) -> None:
    try:
        load(Run, None, arguments)
    except ConfigError as error:
        assert error.problems and all(error.problems)


@given(text=st.text(min_size=1, max_size=20).filter(lambda text: text[0] not in "[{'\"" and not text.startswith("--")))
def test_text_of_a_flag_arrives_unchanged(text: str) -> None:
    nothing = text in ("~", "null", "Null", "NULL")
    boolean = text.lower() in ("true", "false")
    if not nothing and not boolean:
        assert load(Run, None, ["--text_column", text]).data.text_column == text
        assert load(Run, None, [f"--text_column={text}"]).data.text_column == text


@example(values={"a": "1e-4", "b": ["1e5", "0o7", "NO", "010", "2020-01-01", "~", "<<"], "c": 1e-300})
@given(
    values=st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), LEAF | st.lists(LEAF, max_size=3), max_size=4)
)
def test_yaml_written_is_yaml_read(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(write_yaml(values), encoding="utf-8")
        assert read_yaml(path)[0] == values
