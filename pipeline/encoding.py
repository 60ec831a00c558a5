"""Rows to features, once: made by the task, kept in a cache whose key says all that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data import COLUMN_KEYS, DataConfig, beside, default_cache_dir, encode_cached, places_of
from pipeline.errors import BadRows, DataError
from pipeline.stopping import StopRequest
from pipeline.tasks import Task
from pipeline.tasks.base import Features

ENCODING_VERSION = 2
"""Part of the key of cached rows; a change in how rows are encoded takes the next number."""
SHOWN = 20
"""Bad rows in a message; further batches are not looked at."""


def code_files(kind: type[Task]) -> list[Path]:
    """The files whose code makes features of rows: the packages of the task's classes and of `pipeline.data`, and this.

    A class of the user's own that stands in no package brings its own file alone.
    """
    files = [Path(inspect.getfile(part)) for part in kind.__mro__[:-1]]
    packages = {file.parent for file in files if (file.parent / "__init__.py").is_file()}
    packages.add(Path(inspect.getfile(DataConfig)).parent)
    beside = [file for package in packages for file in package.glob("*.py")]
    return sorted({*files, *beside, Path(__file__)})


def code_of(task: Task) -> str:
    """Hash of the code that rows go through on their way to features."""
    digest = hashlib.sha256()
    for file in code_files(type(task)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def cache_folder(data: DataConfig) -> Path:
    """Where encoded rows are kept."""
    return Path(data.cache_dir) if data.cache_dir else default_cache_dir()


def encoded(config: Any, task: Task, rows: Any, rows_print: str, split: str, stop: StopRequest) -> Any:
    """The features of a split, from the cache when the same rows were encoded the same way before."""
    described = {
        "version": ENCODING_VERSION,
        "rows": rows_print,
        "processing": task.processing(),
        "task": config.task.model_dump(),
        "columns": task.columns(),
        "model_kwargs": task.model_kwargs(),
        "max_length": task.max_length,
        "data": {key: vars(config.data)[key] for key in COLUMN_KEYS},
        "code": code_of(task),
    }
    key = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def encode(batches: Iterator[Features]) -> Iterator[Features]:
        return map(_with_lengths, task.pack(_encoded_batches(config.data, task, split, batches)))

    description = f"{'tokenize' if task.modality == 'text' else 'encode'} {split}"
    features = encode_cached(
        rows, encode, key=key, cache_dir=cache_folder(config.data), description=description, poll=stop.poll
    )
    return beside(features, rows, task.kept_columns())


def _encoded_batches(data: DataConfig, task: Task, split: str, batches: Iterator[Features]) -> Iterator[Features]:
    """Features batch by batch; the number of a row within its batch becomes its number in the split."""
    before = 0
    bad: dict[int, str] = {}
    for batch in batches:
        try:
            features = task.encode(batch)
        except BadRows as error:
            bad |= {before + number: sentence for number, sentence in error.found.items()}
            features = {}
        if "example" in features:
            features["example"] = [before + number for number in features["example"]]
        before += len(next(iter(batch.values())))
        if len(bad) >= SHOWN:
            break
        if not bad:
            yield features
    if bad:
        places = places_of(data, split, task.inputs()[0], list(bad)[:SHOWN])
        raise DataError([f"{place}: {bad[number]}" for number, place in places.items()])


def _with_lengths(features: Features) -> Features:
    lengths = features["length"] if "length" in features else [len(row) for row in features["input_ids"]]
    full = features.pop("full_length", lengths)
    return {**features, "length": lengths, "truncated": [a > b for a, b in zip(full, lengths, strict=True)]}


def encode_here(task: Task, rows: Any) -> Any:
    """The features of a few rows, in memory. Raises BadRows."""
    from datasets import Dataset

    features = next(iter(task.pack(iter([task.encode(rows[:])]))))
    return beside(Dataset.from_dict(_with_lengths(features)), rows, task.kept_columns())


def refuse_unlearnable(data: DataConfig, task: Task, splits: Mapping[str, Any]) -> None:
    """DataError that names the rows without a loss term."""
    problems = []
    for split, features in splits.items():
        rows = task.unlearnable(features)
        total = len(features)
        if len(rows) and "example" in features.column_names:
            examples = np.asarray(features["example"])
            rows, total = np.unique(examples[rows]), len(np.unique(examples))
        if len(rows):
            shown = ", ".join(_names(data, task, split, rows[:10].tolist()))
            problems.append(
                f"data.max_length: {len(rows)} of {total} {split} rows {task.nothing_to_learn} within "
                f"{task.max_length} tokens ({shown}{', ...' if len(rows) > 10 else ''}); raise it or leave them out"
            )
    if problems:
        raise DataError(problems)


def _names(data: DataConfig, task: Task, split: str, numbers: list[int]) -> list[str]:
    """Where rows were written; a packed one holds parts of several and has its number alone."""
    if task.block_size is not None:
        return [f"block {number + 1}" for number in numbers]
    return list(places_of(data, split, task.inputs()[0], numbers).values())
