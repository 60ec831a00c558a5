"""Rows set aside for validation: drawn by a seed, and rows that say the same stay together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.overlap import exact_digests
from pipeline.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset


def cut(dataset: Dataset, fraction: float, seed: int, inputs: Sequence[str]) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows drawn without replacement for validation; both in their old order.

    Rows with the same cells in `inputs` go to one side, or a repeated row would be learned and then scored. Those too
    many for what is still to be drawn stay on the side of training. DataError when a side would be empty.
    """
    count = round(len(dataset) * fraction)
    if count == 0 or count == len(dataset):
        raise DataError(
            f"data.validation_split_fraction: {fraction} of {len(dataset)} rows leaves {len(dataset) - count} to train "
            f"on and {count} to validate on; expected at least one on either side"
        )
    order = np.random.default_rng(seed).permutation(len(dataset))
    drawn = _whole_groups(order, count, _groups(dataset, inputs))
    rest = np.setdiff1d(order, drawn)
    return dataset.select(rest), dataset.select(np.sort(drawn))


def _groups(dataset: Dataset, inputs: Sequence[str]) -> np.ndarray:
    """The number of the first row that says the same, for every row: (rows,)."""
    first: dict[bytes, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(exact_digests(dataset, inputs))])


def _whole_groups(order: np.ndarray, count: int, groups: np.ndarray) -> np.ndarray:
    """At most `count` rows in the drawn order, each with all that say the same."""
    sizes = np.bincount(groups, minlength=len(groups))
    taken, left = [], count
    for group in dict.fromkeys(groups[order].tolist()):
        if sizes[group] <= left:
            taken.append(group)
            left -= sizes[group]
        if not left:
            break
    drawn = np.flatnonzero(np.isin(groups, taken))
    return drawn if len(drawn) else order[:count]  # nothing but large groups: the overlap is for the report to say
