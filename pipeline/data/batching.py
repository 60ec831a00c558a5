"""The batch plan: which rows meet in which optimizer step, as pure functions of the seed and the epoch.

Position in the plan = optimizer step, so resuming needs no loader state, and 1, 2 or 4 processes see the same rows in
the same step. A global batch may be cut into micro-batches in any way without changing the update, because the loss is
a sum that the loop divides once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Strategy = Literal["random", "sequential", "group_by_length"]
SHUFFLE, COLLATE = 1, 2
"""Names of the random streams made from one seed; a new stream takes a new number and disturbs no other."""


def plan(
    lengths: Sequence[int] | np.ndarray, *, seed: int, epoch: int, train_batch_size: int, strategy: Strategy = "random"
) -> list[np.ndarray]:
    """Every global batch of one epoch as row numbers; the last batch may be smaller, no row is lost or repeated.

    `sequential` leaves them in their order. With `group_by_length` rows of similar length meet: the shuffled epoch is
    sorted by length inside windows of 50 batches and the batches are shuffled again. That changes which rows meet, so
    it is a setting and not a default.
    """
    random = np.random.default_rng((SHUFFLE, seed, epoch))
    order = np.arange(len(lengths)) if strategy == "sequential" else random.permutation(len(lengths))
    if strategy != "group_by_length":
        return [order[start : start + train_batch_size] for start in range(0, len(order), train_batch_size)]
    window = 50 * train_batch_size
    known = np.asarray(lengths)
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(known[rows], kind="stable")]
        batches += [rows[first : first + train_batch_size] for first in range(0, len(rows), train_batch_size)]
    return [batches[index] for index in random.permutation(len(batches))]


def steps_per_epoch(num_rows: int, train_batch_size: int) -> int:
    """Optimizer steps of one pass over the data; the last one may hold fewer rows."""
    return -(-num_rows // train_batch_size)


@dataclass(frozen=True)
class MicroBatch:
    """Rows that go through the model together on one process."""

    rows: np.ndarray
    counts: bool = True
    """False for a filler: a process that has no row left still takes part in the collective, with weight zero."""


def micro_batches(
    batch: np.ndarray, lengths: Sequence[int] | np.ndarray, *, world_size: int, micro_batch_size: int
) -> list[list[MicroBatch]]:
    """Cut one global batch: for every process its micro-batches, the same number on each.

    Rows are sorted by length first, so that those padded together are alike and no process gets all the long ones.
    """
    number = -(-len(batch) // (world_size * micro_batch_size))
    if number * world_size > 1:
        batch = batch[np.argsort(np.asarray(lengths)[batch], kind="stable")[::-1]]
    shares: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    for rows in np.array_split(batch, number):
        for rank in range(world_size):
            mine = rows[rank::world_size]
            shares[rank].append(MicroBatch(mine) if len(mine) else MicroBatch(batch[-1:], counts=False))
    return shares


def draws(rows: np.ndarray, *, seed: int, epoch: int) -> list[np.random.Generator]:
    """One generator per row, from (seed, epoch, row): a row's random masking never depends on where it is computed."""
    return [np.random.default_rng((COLLATE, seed, epoch, int(row))) for row in rows]
