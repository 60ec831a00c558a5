"""Metrics of pairs of answers: whether, and by how much, the reward of the better one is higher."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.base import LocalMetric

Floats = NDArray[np.float64]


class RewardAccuracy(LocalMetric):
    """Share of pairs whose chosen answer has the higher reward; equal rewards are no success."""

    inputs = {"chosen_rewards": "float", "rejected_rewards": "float"}

    def score(self, chosen: Floats, rejected: Floats) -> float:
        return float(np.mean(chosen > rejected))


class RewardMargin(LocalMetric):
    """Mean reward of the chosen answers less that of the rejected ones, with both means.

    The margin may grow while both answers get less likely, which the means show.
    """

    inputs = {"chosen_rewards": "float", "rejected_rewards": "float"}

    def score(self, chosen: Floats, rejected: Floats) -> dict[str, float]:
        return {
            "reward_margin": float(np.mean(chosen - rejected)),
            "reward_chosen": float(np.mean(chosen)),
            "reward_rejected": float(np.mean(rejected)),
        }
