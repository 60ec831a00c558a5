"""Spans over the characters of a text, and the words and BIO tags they stand for."""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = "O"
EXPECTED = 'expected {"start": 0, "end": 5, "label": "person"}'
Word = tuple[int, int]
"""Where a word begins and ends, in characters."""


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (not included) are a `label`."""

    start: int
    end: int
    label: str

    def __str__(self) -> str:
        return f"{self.start} to {self.end} {self.label!r}"


def words_of(text: str) -> list[Word]:
    """Runs of letters, digits and the marks on them; every other visible character is a word of its own.

    So is an ideograph or a kana, as there are no spaces between words of those scripts. It does not depend on the
    tokenizer, so that the scores of two models count the same words.
    """
    words: list[Word] = []
    joins = False
    for position, character in enumerate(text):
        if character.isspace():
            joins = False
            continue
        category = unicodedata.category(character)
        in_word = category[0] in "LMN" or character == "_" or category == "Cf"  # Cf: joiners, which nobody sees
        alone = not in_word or "\u3040" <= character <= "\u9fff"
        if words and joins and not alone:
            words[-1] = (words[-1][0], position + 1)
        else:
            words.append((position, position + 1))
        joins = not alone
    return words


def read_spans(cell: str) -> list[Span]:
    """The spans of a cell of JSON. Raises ValueError with what is wrong."""
    found = json.loads(cell)
    if not isinstance(found, list):
        raise ValueError(f"holds one object, expected a list of spans, each {EXPECTED.removeprefix('expected ')}")
    spans = []
    for number, entry in enumerate(found):
        if not isinstance(entry, dict) or not {"start", "end", "label"} <= entry.keys():
            raise ValueError(f"[{number}] is {json.dumps(entry, ensure_ascii=False)[:80]}, {EXPECTED}")
        start, end, label = entry["start"], entry["end"], entry["label"]
        if any(isinstance(value, bool) or not isinstance(value, int) for value in (start, end)):
            raise ValueError(f"[{number}] has the offsets {start!r} and {end!r}, expected whole numbers of characters")
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            raise ValueError(f"[{number}] has the label {label!r}, expected text or a whole number")
        spans.append(Span(start, end, str(label)))
    return spans


def covered(words: Sequence[Word], span: Span) -> tuple[int, int]:
    """The words that a span touches: first, and last + 1. A span that cuts a word takes the whole of it."""
    return bisect_right([end for _, end in words], span.start), bisect_left([start for start, _ in words], span.end)


def problems_of(text: str, spans: Sequence[Span]) -> list[str]:
    """Spans that cannot become tags, one sentence each."""
    found, words, taken = [], words_of(text), dict[int, int]()
    for number, span in enumerate(spans):
        if not 0 <= span.start < span.end <= len(text):
            found.append(
                f"[{number}] ({span}) is not within the text, which has {len(text)} characters; expected "
                "0 <= start < end <= length, counted in characters"
            )
            continue
        first, last = covered(words, span)
        if first >= last:
            found.append(f"[{number}] ({span}) holds no word, only {text[span.start : span.end]!r}")
        met = {taken[word] for word in range(first, last) if word in taken}
        if met:
            other = min(met)
            found.append(
                f"[{number}] ({span}) shares a word with [{other}] ({spans[other]}); a word has one label: "
                "keep one of the two"
            )
        taken.update(dict.fromkeys(range(first, last), number))
    return found


def cuts_a_word(text: str, spans: Sequence[Span]) -> bool:
    """Whether a span begins or ends within a word, so that the rest of the word is labelled with it."""
    words = words_of(text)
    touched = [(words[slice(*covered(words, span))], span) for span in spans]
    return any(inside[0][0] < span.start or inside[-1][1] > span.end for inside, span in touched)


def tags_of(words: Sequence[Word], spans: Sequence[Span]) -> list[str]:
    """BIO tags, one per word (Ramshaw and Marcus, 1995, in the form IOB2: every entity begins with B)."""
    tags = [OUTSIDE] * len(words)
    for span in spans:
        first, last = covered(words, span)
        tags[first:last] = [f"B-{span.label}", *[f"I-{span.label}"] * (last - first - 1)]
    return tags
