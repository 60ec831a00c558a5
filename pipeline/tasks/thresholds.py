"""A threshold per label of a multi-label model: the one with the best F1 on given rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KEPT = 0.5
"""The threshold of a label that none of the rows has."""


def best_thresholds(scores: np.ndarray, references: np.ndarray) -> np.ndarray:
    """For each label the threshold above which predicting it gives its best F1: (labels,) of float64.

    `scores` are probabilities, (rows, labels); `references` zeros and ones. Candidates are the midpoints between
    neighbouring scores (0 counts as the lowest); of equally good ones that nearest to 0.5 is taken. This maximizes
    each label's own F1, and so their macro average (Lipton et al. 2014, "Optimal thresholding of classifiers to
    maximize F1 measure").
    """
    return np.array([_best(scores[:, label], references[:, label]) for label in range(scores.shape[1])])


def _best(scores: np.ndarray, references: np.ndarray) -> float:
    positives = int(references.sum())
    if not positives:
        return KEPT
    order = np.argsort(-np.nan_to_num(scores.astype("f8")), kind="stable")
    falling = np.append(np.nan_to_num(scores.astype("f8"))[order], 0.0)
    predicted = np.arange(1, len(falling))
    f1 = 2 * np.cumsum(references[order]) / (predicted + positives)
    f1[falling[:-1] <= falling[1:]] = -1.0  # equal scores cannot be told apart
    midpoints = (falling[:-1] + falling[1:]) / 2
    best = np.flatnonzero(f1 == f1.max())
    return float(midpoints[best[np.argmin(np.abs(midpoints[best] - KEPT))]])


def thresholds_note(not_tuned: Sequence[str]) -> str:
    """A sentence for people; `not_tuned` are the labels that no validation row has."""
    note = (
        "threshold auto: each label's threshold is the one with its best F1 on the validation rows, whose own scores "
        "are optimistic for it"
    )
    if not not_tuned:
        return note
    shown = ", ".join(repr(name) for name in not_tuned[:8]) + (", ..." if len(not_tuned) > 8 else "")
    return f"{note}; no validation row has {shown}, where it stays {KEPT}"
