"""Rows of one split that are also in another: what they would score is memory, not skill."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from pipeline.data.images import identity

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


Digests = tuple[bytes, bytes]
"""Of a row: its cells as they are, and their letters and digits alone (empty where nothing is compared)."""


class Seen:
    """Rows that were seen, as digests of 16 bytes."""

    def __init__(self, digests: Iterable[Digests], *, keep: bool = False):
        """`digests` of every row in order, as `digests_of` gives them; `keep` those of each row, to be looked up."""
        self.rows = 0
        self.exact: set[bytes] = set()
        self.letters: dict[bytes, int] = {}
        self.each: list[Digests] = []
        for exact, letters in digests:
            self.exact.add(exact)
            self.letters.setdefault(letters, self.rows)
            self.rows += 1
            if keep:
                self.each.append((exact, letters))

    @property
    def repeated(self) -> int:
        """How many rows say exactly what an earlier one said."""
        return self.rows - len(self.exact)


def see(rows: Dataset, columns: Sequence[str], *, compared: bool = True, keep: bool = False) -> Seen:
    """The rows of a split, over `columns`. Letters, which take most of the time, only where rows are `compared`."""
    if not compared:
        return Seen((exact, b"") for exact in exact_digests(rows, columns))
    return Seen(map(digests_of, _cells(rows, columns)), keep=keep)


def overlap(seen: Seen, other: Seen) -> Overlap:
    """How much of a split (seen with `keep`) is among the rows that were seen."""
    found = [
        (number, seen.letters[letters], exact in seen.exact)
        for number, (exact, letters) in enumerate(other.each)
        if letters in seen.letters
    ]
    pairs = [(number, earlier) for number, earlier, _ in found[:SHOWN]]
    return Overlap(other.rows, sum(same for _, _, same in found), len(found), pairs)


def only(wanted: Iterable[Seen], digests: Iterable[Digests]) -> Seen:
    """Of a stream of rows those that some splits hold too, with their numbers: memory grows with the splits alone."""
    letters = set().union(*(split.letters for split in wanted))
    found = Seen([])
    for number, (exact, plain) in enumerate(digests):
        if plain in letters:
            found.exact.add(exact)
            found.letters.setdefault(plain, number)
    return found


def digests_of(cells: Sequence[Any]) -> Digests:
    """Of a row: its cells as they are, and their letters and digits alone."""
    return _digest(map(str, cells)), _digest(map(_letters, cells))


def exact_digests(rows: Dataset, columns: Sequence[str]) -> Iterator[bytes]:
    """Of every row: its cells as they are."""
    return (_digest(map(str, cells)) for cells in _cells(rows, columns))


def _cells(rows: Dataset, columns: Sequence[str]) -> Iterator[list[Any]]:
    for batch in rows.select_columns(list(columns)).iter(batch_size=BATCH):
        for cells in zip(*(batch[column] for column in columns), strict=True):
            yield [identity(cell) for cell in cells]


def _digest(parts: Iterable[str]) -> bytes:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _letters(cell: Any) -> str:
    """Letters and digits in one case with single spaces; a cell without any stays as it is."""
    text = str(cell)
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text
