"""The entities that tags mark, as their scores count them, and where they stand in a text or a list of words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.tasks.spans import Span, words_of


def entities_of(tags: Sequence[str], known: Iterable[str]) -> list[Span]:
    """The entities of one row, by the numbers of their words; `known` are all tags there are, which tell the scheme."""
    from pipeline.metrics.sequences import entities  # with `evaluate`, seconds that a start can do without

    return [Span(*found) for found in entities(list(tags), known)]


def in_text(text: str, spans: Sequence[Span]) -> dict[str, Any]:
    """`{entities: [{start, end, label, text}]}`, counted in characters."""
    words = words_of(text)
    places = [(words[span.start][0], words[span.end - 1][1], span.label) for span in spans]
    return {
        "entities": [
            {"start": start, "end": end, "label": label, "text": text[start:end]} for start, end, label in places
        ]
    }


def in_words(words: Sequence[str], tags: Sequence[str], spans: Sequence[Span]) -> dict[str, Any]:
    """`{tags, entities: [{start, end, label, words}]}`, counted in words."""
    found = [
        {"start": span.start, "end": span.end, "label": span.label, "words": list(words[span.start : span.end])}
        for span in spans
    ]
    return {"tags": list(tags), "entities": found}
