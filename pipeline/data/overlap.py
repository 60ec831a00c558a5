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


class Seen:
    """Rows that were seen, as two digests of 16 bytes each."""

    def __init__(self, digests: Iterable[tuple[bytes, bytes]]):
        """`digests` of every row in order, as `digests_of` gives them."""
        self.rows = 0
        self.exact: set[bytes] = set()
        self.letters: dict[bytes, int] = {}
        for exact, letters in digests:
            self.exact.add(exact)
            self.letters.setdefault(letters, self.rows)
            self.rows += 1

    @property
    def repeated(self) -> int:
        """How many rows say exactly what an earlier one said."""
        return self.rows - len(self.exact)


def see(rows: Dataset, columns: Sequence[str]) -> Seen:
    """The rows of a split, over `columns`."""
    return Seen(_digests(rows, columns))


def overlap(seen: Seen, other: Dataset, columns: Sequence[str]) -> Overlap:
    """How much of a split is among the rows that were seen, over `columns`."""
    found = [
        (number, seen.letters[letters], exact in seen.exact)
        for number, (exact, letters) in enumerate(_digests(other, columns))
        if letters in seen.letters
    ]
    pairs = [(number, earlier) for number, earlier, _ in found[:SHOWN]]
    return Overlap(len(other), sum(same for _, _, same in found), len(found), pairs)


def only(wanted: Iterable[Seen], digests: Iterable[tuple[bytes, bytes]]) -> Seen:
    """Of a stream of rows those that some splits hold too, with their numbers: memory grows with the splits alone."""
    letters = set().union(*(split.letters for split in wanted))
    found = Seen([])
    for number, (exact, plain) in enumerate(digests):
        if plain in letters:
            found.exact.add(exact)
            found.letters.setdefault(plain, number)
    return found


def digests_of(cells: Sequence[Any]) -> tuple[bytes, bytes]:
    """Of a row: its cells as they are, and their letters and digits alone."""
    return _digest(map(str, cells)), _digest(map(_letters, cells))


def _digests(rows: Dataset, columns: Sequence[str]) -> Iterator[tuple[bytes, bytes]]:
    for batch in rows.select_columns(list(columns)).iter(batch_size=BATCH):
        for cells in zip(*(batch[column] for column in columns), strict=True):
            yield digests_of([identity(cell) for cell in cells])


def _digest(parts: Iterable[str]) -> bytes:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _letters(cell: Any) -> str:
    """Letters and digits in one case with single spaces; a cell without any stays as it is."""
    text = str(cell)
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())) or text
