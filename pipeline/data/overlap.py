"""Rows of one split that are also in another: what they would score is memory, not skill."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SHOWN = 3
BATCH = 1000


@dataclass(frozen=True)
class Overlap:
    """How many rows of a split are in the training rows."""

    rows: int
    """Of the split."""
    exact: int
    """With the same cells."""
    normalized: int
    """With the same letters and digits, whatever their case, spacing and punctuation; these include the exact ones."""
    first: list[tuple[int, int]]
    """Up to three pairs of row numbers: in the split, in the training rows."""

    @property
    def share(self) -> float:
        """Of the split's rows, those that are in the training rows after normalization: 0 to 1."""
        return self.normalized / self.rows


def overlap(train: Dataset, other: Dataset, columns: Sequence[str]) -> Overlap:
    """Compare two splits over `columns`; memory grows by two digests of 16 bytes per training row."""
    exact = set(_digests(train, columns, str))
    normalized: dict[bytes, int] = {}
    for number, letters in enumerate(_digests(train, columns, _letters)):
        normalized.setdefault(letters, number)
    both = zip(_digests(other, columns, str), _digests(other, columns, _letters), strict=True)
    found = [
        (number, normalized[letters], whole in exact)
        for number, (whole, letters) in enumerate(both)
        if letters in normalized
    ]
    pairs = [(number, seen) for number, seen, _ in found[:SHOWN]]
    return Overlap(len(other), sum(same for _, _, same in found), len(found), pairs)


def repeated(rows: Dataset, columns: Sequence[str]) -> int:
    """How many rows say exactly what an earlier one said."""
    return len(rows) - len(set(_digests(rows, columns, str)))


def _digests(rows: Dataset, columns: Sequence[str], form: Callable[[Any], str]) -> Iterator[bytes]:
    for batch in rows.select_columns(list(columns)).iter(batch_size=BATCH):
        for cells in zip(*(batch[column] for column in columns), strict=True):
            yield blake2b("\0".join(map(form, cells)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _letters(cell: Any) -> str:
    """Letters and digits in one case with single spaces; a cell without any stays as it is."""
    text = str(cell)
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text
