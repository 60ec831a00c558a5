"""Metrics of language models, fed with sums per row (nats, tokens, bytes), so that memory stays flat."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.metrics.base import LocalMetric

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def share(name: str, parts: Floats | Ints, wholes: Floats | Ints, unit: str) -> float:
    """The sum of `parts` over the sum of `wholes`; each sum is exact to the last bit."""
    whole = math.fsum(wholes)
    if whole <= 0:
        raise DataError(f"{name}: the {len(wholes)} rows hold no {unit} to predict; are they empty or cut too short?")
    return math.fsum(parts) / whole


class Perplexity(LocalMetric):
    """exp(nats per token); infinite where that overflows (more than 709 nats per token)."""

    inputs = {"nll": "float", "tokens": "int"}
    greater_is_better = False

    def score(self, nll: Floats, tokens: Ints) -> float:
        mean = share(self.name, nll, tokens, "tokens")
        try:
            return math.exp(mean)
        except OverflowError:
            return math.inf


class BitsPerByte(LocalMetric):
    """Bits needed per byte of text; comparable between tokenizers, unlike the perplexity."""

    inputs = {"nll": "float", "num_bytes": "float"}
    greater_is_better = False

    def score(self, nll: Floats, num_bytes: Floats) -> float:
        return share(self.name, nll, num_bytes, "bytes") / math.log(2)


class TokenAccuracy(LocalMetric):
    """Share of tokens that are the model's first choice."""

    inputs = {"correct": "int", "tokens": "int"}

    def score(self, correct: Ints, tokens: Ints) -> float:
        assert (correct <= tokens).all(), "a row has more correct tokens than tokens"
        return share(self.name, correct, tokens, "tokens")
