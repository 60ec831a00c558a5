"""Rows of words with tags, or of a text with spans: whether the labels of each fit its words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.data import DataConfig, places_of
from pipeline.data.columns import SHOWN, Problems
from pipeline.tasks.spans import cuts_a_word, problems_of, read_spans

logger = logging.getLogger(__name__)


def check_rows(
    splits: Mapping[str, Any], text_column: str, label_column: str, data: DataConfig, *, spans: bool
) -> None:
    """DataError with the place of every row whose labels do not fit its words."""
    problems = Problems()
    for split, rows in splits.items():
        cells = enumerate(zip(rows[text_column], rows[label_column], strict=True))
        names = text_column, label_column
        found = [(row, said) for row, pair in cells for said in (_of_spans if spans else _of_tags)(*pair, *names)]
        places = places_of(data, split, text_column, [row for row, _ in found[:SHOWN]])
        for row, said in found:
            problems.add(places.get(row, ""), said)
    problems.raise_any()


def _of_tags(words: Any, tags: Any, text_column: str, label_column: str) -> list[str]:
    """What is wrong with one row of words."""
    if len(words) == len(tags):
        return []
    return [f"{text_column!r} has {len(words)} and {label_column!r} {len(tags)} entries; expected one tag per word"]


def _of_spans(text: str, cell: str, text_column: str, label_column: str) -> list[str]:
    """What is wrong with one row of text."""
    if not text.strip():
        return [f"{text_column!r} holds no word, only white space; drop the row"]
    try:
        return [f"{label_column}{said}" for said in problems_of(text, read_spans(cell))]
    except ValueError as error:
        said = str(error)
        return [f"{label_column}{said}" if said.startswith("[") else f"{label_column} {said}"]


def say_what_is_widened(splits: Mapping[str, Any], text_column: str, label_column: str, data: DataConfig) -> None:
    """Warn of spans that begin or end within a word."""
    for split, rows in splits.items():
        cells = zip(rows[text_column], rows[label_column], strict=True)
        cut = [number for number, (text, cell) in enumerate(cells) if cuts_a_word(text, read_spans(cell))]
        if cut:
            (place,) = places_of(data, split, text_column, cut[:1]).values()
            logger.warning(
                "%s: %d of %d rows have spans that begin or end within a word; "
                "all of that word gets the label (first: %s)",
                *(split, len(cut), len(rows), place),
            )
