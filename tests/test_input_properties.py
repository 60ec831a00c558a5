"""Generated input: any key of a real configuration, any text in a data file, any sizes of batches and processes."""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import load
from pipeline.data import DataConfig, load_splits
from pipeline.data.batching import micro_batches, plan, steps_per_epoch
from pipeline.errors import ConfigError, DataError
from pipeline.settings import RunConfig
from pipeline.wording import section_type
from pipeline.yaml_file import write_yaml

SECTIONS = {name: section_type(field.annotation)[0] for name, field in RunConfig.model_fields.items() if name != "task"}
KEYS = [(name, key) for name, section in SECTIONS.items() if section is not None for key in section.model_fields]
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAF = st.none() | st.booleans() | NUMBER | st.text(max_size=8)
WORDS = st.sampled_from(["auto", "no", "none", "blocks", "yes", "1e-4", "0", "1", "-1", "adamw", "bf16", "true", ""])
ANY_CHARACTER = st.characters(categories=None)
"""Lone surrogates too, which JSON can write and UTF-8 cannot."""


def same(taken: Any, value: Any) -> bool:
    """Whether a setting says what was written: text as it was, numbers of the same value, `yes` for true."""
    if isinstance(taken, bool) or isinstance(value, bool):
        return taken is value or (isinstance(taken, bool) and isinstance(value, (str, int, float)))
    if isinstance(taken, list) and isinstance(value, list):
        return len(taken) == len(value) and all(same(*pair) for pair in zip(taken, value, strict=True))
    if isinstance(taken, (int, float)) or isinstance(value, (int, float)):
        return math.isclose(float(taken), float(value), rel_tol=1e-12)
    return bool(taken == value)


def test_there_are_keys_to_change() -> None:
    assert len(KEYS) > 60 and {"model", "data", "optim", "train", "lora", "freeze"} <= {section for section, _ in KEYS}


@given(key=st.sampled_from(KEYS), value=LEAF | WORDS | st.lists(LEAF, max_size=3))
@settings(max_examples=400)
def test_any_key_of_a_run_is_taken_as_written_or_refused_by_name(key: tuple[str, str], value: Any) -> None:
    section, name = key
    values: dict[str, Any] = {"task": "causal_lm", "model": {"model_name_or_path": "some/model"}}
    values.setdefault(section, {})[name] = value
    text = write_yaml(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            config = load(RunConfig, path)
        except ConfigError as error:
            lines = text.splitlines()
            number = next(number for number, row in enumerate(lines, 1) if row.startswith(f"  {name}:"))
            assert len(error.problems) == 1
            assert error.problems[0].startswith(f"{path}:{number}: {section}.{name}: ")
        else:
            assert same(vars(vars(config)[section])[name], value)


def read_back(suffix: str, content: bytes) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(content)
        return list(load_splits(DataConfig(train_file=str(path)), {"text": "text"})["train"]["text"])


def check_round_trip(texts: list[str], suffix: str, content: bytes) -> None:
    refused = [text for text in texts if not text or any("\ud800" <= mark <= "\udfff" for mark in text)]
    try:
        found = read_back(suffix, content)
    except DataError as error:
        assert refused and all(f"rows{suffix}:" in problem or "... and" in problem for problem in error.problems)
        assert len(error.problems) == min(len(refused), 20) + (len(refused) > 20)
    else:
        assert not refused and found == texts


@given(texts=st.lists(st.text(max_size=12), min_size=1, max_size=5))
@example(
    texts=["\ufeff", "\r", "\n", "\r\n", '"', '""', ",", "\x00", "\x1a", "\u2028", "\x85", " ", "NA", "null", "#a"]
)
def test_any_text_comes_back_from_csv(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["id", "text"], *([index, text] for index, text in enumerate(texts))])
        content = path.read_bytes()
    check_round_trip(texts, ".csv", content)


@given(texts=st.lists(st.text(ANY_CHARACTER, max_size=12), min_size=1, max_size=5), escaped=st.booleans())
@example(texts=["\ufeff", "\u2028", "\x85", "\x00", "\ud83d"], escaped=True)
def test_any_text_comes_back_from_jsonl(texts: list[str], escaped: bool) -> None:
    # a pair of halves that stand side by side is one character once it was written and read
    texts = [json.loads(json.dumps(text)) for text in texts]
    lines = []
    for text in texts:
        plain = not escaped and not any("\ud800" <= mark <= "\udfff" for mark in text)
        lines.append(json.dumps({"text": text}, ensure_ascii=not plain))
    check_round_trip(texts, ".jsonl", os.linesep.join([*lines, ""]).encode())


SIZES = {
    "lengths": st.lists(st.integers(1, 60), min_size=1, max_size=200),
    "seed": st.integers(0, 2**31),
    "epoch": st.integers(0, 1000),
    "size": st.integers(1, 70),
    "strategy": st.sampled_from(["random", "sequential", "group_by_length"]),
}


@given(**SIZES)
def test_an_epoch_is_every_row_once_and_a_pure_function(
    lengths: list[int], seed: int, epoch: int, size: int, strategy: Any
) -> None:
    first, again = (plan(lengths, seed=seed, epoch=epoch, train_batch_size=size, strategy=strategy) for _ in range(2))
    assert sorted(np.concatenate(first).tolist()) == list(range(len(lengths)))
    assert len(first) == steps_per_epoch(len(lengths), size)
    assert sorted(len(batch) for batch in first)[1:] == [size] * (len(first) - 1)
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    # without grouping, the order of the rows depends on neither the batch size nor the lengths
    if strategy != "group_by_length":
        whole = plan([1] * len(lengths), seed=seed, epoch=epoch, train_batch_size=len(lengths), strategy=strategy)[0]
        assert np.concatenate(first).tolist() == whole.tolist()


@given(world_size=st.integers(1, 9), micro=st.integers(1, 80), **SIZES)
def test_every_row_of_a_batch_counts_once_however_it_is_cut(
    lengths: list[int], seed: int, epoch: int, size: int, strategy: Any, world_size: int, micro: int
) -> None:
    for batch in plan(lengths, seed=seed, epoch=epoch, train_batch_size=size, strategy=strategy):
        before = batch.copy()
        shares = micro_batches(batch, lengths, world_size=world_size, micro_batch_size=micro)
        counted = [int(row) for share in shares for part in share if part.counts for row in part.rows]
        assert sorted(counted) == sorted(batch.tolist()) and (batch == before).all()
        assert len(shares) == world_size and len({len(share) for share in shares}) == 1
        assert all(1 <= len(part.rows) <= micro for share in shares for part in share)
        assert all(part.counts or len(part.rows) == 1 for share in shares for part in share)
