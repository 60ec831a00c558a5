"""Packing loses no token, predicts each once, and counts every byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.packing import best_fit, blocks, fill

DOCUMENT = st.tuples(st.lists(st.integers(0, 60_000), max_size=30), st.integers(1, 500))


def packed(batches: list[list[tuple[list[int], int]]], **options: Any) -> list[tuple[list[int], float]]:
    encoded: Iterator[dict[str, list[Any]]] = (
        {"input_ids": [d for d, _ in batch], "num_bytes": [n for _, n in batch]} for batch in batches
    )
    out = list(blocks(encoded, **options))
    assert all(list(batch) == ["input_ids", "num_bytes"] and batch["input_ids"] for batch in out)
    return [row for batch in out for row in zip(batch["input_ids"], batch["num_bytes"], strict=True)]


@given(batches=st.lists(st.lists(DOCUMENT, max_size=6), max_size=5), block_size=st.integers(2, 20))
def test_every_token_but_the_first_is_predicted_once(
    batches: list[list[tuple[list[int], int]]], block_size: int
) -> None:
    documents = [(ids, size) for batch in batches for ids, size in batch if ids]
    stream = [token for ids, _ in documents for token in ids]
    rows = packed(batches, block_size=block_size)
    assert [token for ids, _ in rows for token in ids[1:]] == stream[1:]
    assert all(len(ids) == block_size for ids, _ in rows[:-1])
    assert all(2 <= len(ids) <= block_size for ids, _ in rows)
    assert all(before[-1] == after[0] for (before, _), (after, _) in zip(rows, rows[1:], strict=False))
    if rows:
        assert rows[0][0][0] == stream[0]
        first_ids, first_size = documents[0]
        predicted = sum(size for _, size in documents) - first_size / len(first_ids)
        assert sum(size for _, size in rows) == pytest.approx(predicted, rel=1e-12, abs=1e-9)
    whole = packed(batches, block_size=block_size, drop_remainder=True)
    assert whole == [row for row in rows if len(row[0]) == block_size]
    flat = packed([[document for batch in batches for document in batch]], block_size=block_size)
    assert [ids for ids, _ in flat] == [ids for ids, _ in rows], "batch borders must not show"


def test_bytes_go_with_their_tokens() -> None:
    rows = packed([[([1, 2], 20), ([3, 4, 5, 6], 4)]], block_size=3)
    assert rows == [([1, 2, 3], 11.0), ([3, 4, 5], 2.0), ([5, 6], 1.0)]


def test_a_lone_token_makes_no_block() -> None:
    assert packed([[([1], 3)]], block_size=4) == []
    assert packed([[([1, 2, 3, 4], 4)]], block_size=4) == [([1, 2, 3, 4], 3.0)]


@given(
    lengths=st.lists(st.integers(2, 45), min_size=1, max_size=40),
    block_size=st.integers(2, 20),
    window=st.integers(1, 50),
)
def test_best_fit_loses_no_token_and_takes_none_twice(lengths: list[int], block_size: int, window: int) -> None:
    """Every token of a document but its first is predicted once, whatever the window and the batches."""
    documents = [[1000 * number + place for place in range(length)] for number, length in enumerate(lengths)]
    encoded: list[dict[str, list[Any]]] = [
        {"input_ids": part, "num_bytes": [3.0 * len(ids) for ids in part], "full_length": [len(ids) for ids in part]}
        for part in (documents[start : start + 7] for start in range(0, len(documents), 7))
    ]
    out = list(best_fit(iter(encoded), block_size=block_size, window=window))
    rows = [dict(zip(batch, cells, strict=True)) for batch in out for cells in zip(*batch.values(), strict=True)]
    predicted = []
    for row in rows:
        assert len(row["input_ids"]) == sum(row["document_lengths"]) == row["full_length"] <= block_size
        ends = list(accumulate(row["document_lengths"]))
        for start, end in zip([0, *ends], ends, strict=False):
            document = row["input_ids"][start:end]
            assert document == list(range(document[0], document[0] + len(document))), "documents stay whole"
            predicted += document[1:]
    assert sorted(predicted) == [token for ids in documents for token in ids[1:]]
    assert sum(row["num_bytes"] for row in rows) == pytest.approx(sum(3.0 * length for length in lengths))


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_best_fit_leaves_little_room(lengths: list[int]) -> None:
    made = fill(lengths, 20)
    assert sorted(number for block in made for number in block) == list(range(len(lengths)))
    sizes = [sum(lengths[number] for number in block) for block in made]
    assert max(sizes) <= 20
    # two blocks that would go into one were not left apart
    assert len(sizes) < 2 or sum(sorted(sizes)[:2]) > 20


def test_best_fit_takes_the_fullest_block_with_room() -> None:
    assert fill([6, 5, 4, 3, 2], 10) == [[0, 2], [1, 3, 4]]
    trained = {"input_ids": [[1, 2], [3, 4, 5]], "trained": [[0, 1], [0, 0, 1]]}
    (found,) = best_fit(iter([{**trained, "num_bytes": [1.0, 2.0], "full_length": [2, 9]}]), block_size=8)
    assert found["input_ids"] == [[1, 2, 3, 4, 5]] and found["trained"] == [[0, 1, 0, 0, 1]]
    assert found["num_bytes"] == [3.0] and found["full_length"] == [11] and found["document_lengths"] == [[2, 3]]
