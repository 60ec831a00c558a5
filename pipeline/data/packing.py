"""Put encoded documents into blocks of a fixed length: joined and cut, or whole and beside each other."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

WINDOW = 10_000
"""Documents among which best-fit packing chooses."""


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


def best_fit(
    batches: Iterator[dict[str, list[Any]]], *, block_size: int, window: int = WINDOW
) -> Iterator[dict[str, list[Any]]]:
    """Whole documents beside each other in rows of at most `block_size` tokens (Ding et al. 2024, "Fewer Truncations
    Improve Language Modeling", section 3), within each window of documents.

    In: `input_ids`, `num_bytes` (of the predicted tokens), `full_length`, and maybe `trained` (1 for each token with a
    loss). Out: the same of whole rows, and `document_lengths`, from which attention and positions are kept apart. What
    is longer than a block is cut as `pieces` says. No order of rows depends on anything but the rows.
    """
    pending: list[dict[str, Any]] = []
    for batch in batches:
        names = list(batch)
        for cells in zip(*batch.values(), strict=True):
            pending += pieces(dict(zip(names, cells, strict=True)), block_size)
        while len(pending) >= window:
            yield _together(pending[:window], block_size)
            pending = pending[window:]
    if pending:
        yield _together(pending, block_size)


def pieces(document: dict[str, Any], size: int) -> list[dict[str, Any]]:
    """A document in pieces of at most `size` tokens, each starting with the last token of the one before, so that every
    token but the first is predicted once. Bytes are spread evenly over the predicted tokens."""
    ids = document["input_ids"]
    if len(ids) <= size:
        return [document]
    found = []
    for start in range(0, len(ids) - 1, size - 1):
        part = ids[start : start + size]
        share = document["num_bytes"] * (len(part) - 1) / (len(ids) - 1)
        found.append({"input_ids": part, "num_bytes": share, "full_length": len(part)})
    return found


def fill(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of the documents in each block: the longest first, each where it leaves the least room."""
    blocks_made: list[list[int]] = []
    room: list[tuple[int, int]] = []  # of each block that is not full: tokens left and its number, rising
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        place = bisect_left(room, (lengths[number], -1))
        if place == len(room):
            left, block = size, len(blocks_made)
            blocks_made.append([])
        else:
            left, block = room.pop(place)
        blocks_made[block].append(number)
        if left > lengths[number]:
            insort(room, (left - lengths[number], block))
    return sorted(sorted(block) for block in blocks_made)


def _together(documents: list[dict[str, Any]], size: int) -> dict[str, list[Any]]:
    """One window of documents as rows."""
    made = fill([len(document["input_ids"]) for document in documents], size)
    rows = [[documents[number] for number in block] for block in made]
    lists = [name for name in ("input_ids", "trained") if name in documents[0]]
    found: dict[str, list[Any]] = {
        name: [[cell for document in row for cell in document[name]] for row in rows] for name in lists
    }
    for name in ("num_bytes", "full_length"):
        found[name] = [sum(document[name] for document in row) for row in rows]
    found["document_lengths"] = [[len(document["input_ids"]) for document in row] for row in rows]
    return found
