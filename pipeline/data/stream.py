"""A hub dataset that is read while it is learned from, for what does not fit on the disk.

Rows can only be read from first to last. A run that goes on reads the stream again from the start up to where it was,
which gives the same rows only when the dataset is the same: a run keeps the commit it began with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.data.columns import NORMAL_FORMS
from pipeline.data.corpus import Blocks
from pipeline.data.hub import ready
from pipeline.data.packing import blocks
from pipeline.data.settings import DataConfig
from pipeline.errors import DataError

logger = logging.getLogger("graft")
FIRST = 16
"""Blocks that stay in memory: those that are shown, and that the saved model is compared on."""
BATCH = 256
"""Documents that are tokenized together."""
Row = dict[str, Any]


class Stream:
    """Blocks of a stream by their number. What lies further back than `kept` blocks is read again from the start."""

    column_names = Blocks.column_names

    def __init__(self, start: Callable[[], Iterator[Row]], *, count: int, block_size: int, kept: int):
        """`start` begins to read the blocks from the first; `count`: how many blocks a run takes."""
        self.start, self.count, self.block_size = start, count, block_size
        self.window: deque[Row] = deque(maxlen=kept)
        self.lock = threading.Lock()  # threads make coming batches
        self.first: list[Row] = []
        self.failure: Exception | None = None
        self._restart()

    def _restart(self) -> None:
        self.blocks, self.next = self.start(), 0
        self.window.clear()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | str) -> Any:
        """A row by its number, or a whole column: `length` or `truncated`."""
        if isinstance(key, str):
            return {"length": self._lengths, "truncated": np.zeros(self.count, dtype=bool)}[key]
        with self.lock:
            if key < len(self.first):
                return self.first[key]
            if self.failure is not None:
                raise self.failure
            if key < self.next - len(self.window):
                self._restart()
            self._read_on(key + 1, lambda: None)
            return self.window[key - self.next]

    def read_until(self, number: int, poll: Callable[[], None]) -> None:
        """Read on until the next block is the one of that number. `poll` is called between blocks; what it raises ends
        it, and the reading goes on from there when it is asked for again."""
        with self.lock:
            self._read_on(number, poll)

    def _read_on(self, number: int, poll: Callable[[], None]) -> None:
        if number > self.next + 1 + self.window.maxlen:  # type: ignore[operator]
            logger.warning("the stream is read again up to block %d of %d", number, self.count)
        while self.next < number:
            poll()
            self.window.append(self._read())
            self.next += 1

    def _read(self) -> Row:
        try:
            row = next(self.blocks)
        except Exception as error:
            self.failure = error  # whichever thread asks next must not meet the silence of a broken generator
            raise
        if len(self.first) < FIRST and self.next == len(self.first):
            self.first.append(row)
        return row

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.full(self.count, self.block_size)


def open_stream(
    config: DataConfig, encode: Callable[[dict[str, list[str]]], Any], column: str, *, block_size: int, seed: int
) -> Callable[[], Iterator[Row]]:
    """What begins to read the dataset's blocks from the first. Past its end it is read again, in another order
    where it is shuffled.

    `encode`: texts to `input_ids` and `num_bytes`. Raises DataError for a dataset that cannot be read or is empty, and
    while reading for a row without text.
    """
    documents = _load(config, seed)

    def texts() -> Iterator[str]:
        passes = 0
        while True:
            documents.set_epoch(passes)
            number = -1
            for number, row in enumerate(documents):
                try:
                    yield NORMAL_FORMS["text"](row.get(column))
                except ValueError as error:
                    if config.on_bad_row == "skip":
                        logger.warning(
                            "%s: row %d of the stream: %s %s; left out", config.dataset_name, number, column, error
                        )
                        continue
                    raise DataError(
                        f"{config.dataset_name}: row {number + 1} of the stream: {column} {error}"
                    ) from None
            if number < 0:
                raise DataError(f"{config.dataset_name}: the stream is empty; expected at least one row")
            passes += 1

    def start() -> Iterator[Row]:
        for batch in blocks(map(encode, _batches(texts(), column)), block_size=block_size, drop_remainder=True):
            for ids, size in zip(batch["input_ids"], batch["num_bytes"], strict=True):
                yield {
                    "input_ids": np.asarray(ids, dtype=np.int32),
                    "num_bytes": size,
                    "length": len(ids),
                    "truncated": False,
                }

    return start


def _batches(texts: Iterator[str], column: str) -> Iterator[dict[str, list[str]]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield {column: batch}
            batch = []


def _load(config: DataConfig, seed: int) -> Any:
    """The dataset as a stream, shuffled within a buffer."""
    from datasets import load_dataset  # over a second, which `--help` should not pay

    assert config.dataset_name is not None
    reason = ready()
    try:
        found = load_dataset(
            config.dataset_name,
            config.dataset_config,
            split=config.dataset_train_split,
            revision=config.dataset_revision,
            streaming=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        said = f"the hub cannot be reached ({reason})" if reason else str(error).splitlines()[0]
        raise DataError(f"data.dataset_name: {config.dataset_name}: {said}") from error
    return found.shuffle(seed=seed, buffer_size=config.shuffle_buffer_size) if config.shuffle_buffer_size else found


def stream_fingerprint(config: DataConfig) -> str:
    """Hash of what names the stream: dataset, commit, subset, split and order."""
    keys = ("dataset_name", "dataset_config", "dataset_revision", "dataset_train_split", "shuffle_buffer_size")
    return hashlib.sha256(json.dumps([vars(config)[key] for key in keys]).encode()).hexdigest()
