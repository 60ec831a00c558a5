"""Metrics of search, fed with the rank of the right answer among all candidates (1 is the first)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.base import Kind, LocalMetric

RANKS: dict[str, Kind] = {"rank": "int"}


class RetrievalAccuracy(LocalMetric):
    """Share of rows whose own candidate comes first (accuracy@1)."""

    inputs = RANKS

    def score(self, rank: NDArray[np.int64]) -> float:
        return float(np.mean(rank == 1))


class MRRAt10(LocalMetric):
    """Mean of 1 / rank, where a rank beyond 10 counts as 0 (MRR@10)."""

    inputs = RANKS

    def score(self, rank: NDArray[np.int64]) -> float:
        return float(np.mean(np.where(rank <= 10, 1 / rank, 0.0)))
