"""Several corpora as one, each with its share of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.data.corpus import Blocks

MIXTURE = 3
"""Name of the random stream (see pipeline.data.batching)."""


class Mixture:
    """Blocks of several sources. An epoch has as many blocks as all sources together, in the given shares.

    A source whose share is larger than it is comes again, always after it was seen whole; of one whose share is
    smaller an epoch holds a part, drawn from the seed, and every epoch holds the same.
    """

    column_names = Blocks.column_names

    def __init__(self, sources: Sequence[Blocks], weights: Sequence[float], *, seed: int):
        """`weights`: one positive number per source; only their ratios count."""
        self.sources = list(sources)
        sizes = np.array([len(source) for source in sources])
        wanted = np.asarray(weights, dtype=np.float64) / np.sum(weights) * sizes.sum()
        counts = np.floor(wanted).astype(np.int64)
        left = int(sizes.sum() - counts.sum())
        counts[np.argsort(counts - wanted, kind="stable")[:left]] += 1  # those that were rounded down the most
        self.counts = counts
        random = np.random.default_rng((MIXTURE, seed))
        self.rows = np.concatenate(
            [_drawn(random, int(size), int(count)) for size, count in zip(sizes, counts, strict=True)]
        )
        self.which = np.repeat(np.arange(len(sizes)), counts)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        """A row by its number, or a whole column: `length` or `truncated`."""
        if isinstance(key, str):
            return self._lengths if key == "length" else np.zeros(len(self), dtype=bool)
        return self.sources[self.which[key]][int(self.rows[key])]

    @cached_property
    def _lengths(self) -> np.ndarray:
        ends = np.cumsum(self.counts)[:-1]
        pairs = zip(self.sources, np.split(self.rows, ends), strict=True)
        return np.concatenate([source["length"][rows] for source, rows in pairs])

    def shares(self) -> list[dict[str, float]]:
        """Per source: the tokens an epoch takes from it, their share of all, and how often it is read."""
        tokens = np.array([part.sum() for part in np.split(self._lengths, np.cumsum(self.counts)[:-1])])
        return [
            {"tokens": int(count), "share": round(float(count / tokens.sum()), 6), "passes": round(passes, 4)}
            for count, passes in zip(tokens, self.counts / [len(source) for source in self.sources], strict=True)
        ]


def _drawn(random: np.random.Generator, size: int, count: int) -> np.ndarray:
    """`count` of `size` row numbers, every number once before any comes again."""
    passes = [random.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(passes)[:count] if passes else np.empty(0, dtype=np.int64)
