"""Cut a stream of encoded documents into blocks of a fixed length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def blocks(
    batches: Iterator[dict[str, list[Any]]], *, block_size: int, drop_remainder: bool = False
) -> Iterator[dict[str, list[Any]]]:
    """Documents joined and cut into rows of `block_size` tokens.

    In: `input_ids` (a list of ids per document) and `num_bytes` (int: bytes of its text). Out: `input_ids`, and
    `num_bytes` (float: bytes of the tokens that the block predicts, a document's bytes being spread evenly over its
    tokens). A block starts with the last token of the block before, so every token of the stream but the very first
    is predicted exactly once, and bits per byte over all blocks has an exact denominator. The last, shorter block is
    kept if it predicts a token (two tokens or more), unless `drop_remainder`.
    """
    assert block_size >= 2
    tokens, weights = np.empty(0, dtype=np.int64), np.empty(0)
    for batch in batches:
        documents = [(ids, size) for ids, size in zip(batch["input_ids"], batch["num_bytes"], strict=True) if len(ids)]
        lengths = [len(ids) for ids, _ in documents]
        shares = [size / length for (_, size), length in zip(documents, lengths, strict=True)]
        tokens = np.concatenate([tokens, *(np.asarray(ids, dtype=np.int64) for ids, _ in documents)])
        weights = np.concatenate([weights, np.repeat(shares, lengths)])
        starts = range(0, len(tokens) - block_size + 1, block_size - 1)
        if starts:
            yield _rows(tokens, weights, starts, block_size)
            # The last token of the last block stays: it starts the next one.
            tokens, weights = tokens[starts[-1] + block_size - 1 :], weights[starts[-1] + block_size - 1 :]
    if len(tokens) >= 2 and not drop_remainder:
        yield _rows(tokens, weights, range(1), block_size)


def _rows(tokens: np.ndarray, weights: np.ndarray, starts: range, block_size: int) -> dict[str, list[Any]]:
    return {
        "input_ids": [tokens[start : start + block_size].tolist() for start in starts],
        "num_bytes": [float(weights[start + 1 : start + block_size].sum()) for start in starts],
    }
