"""The batches of a run, step by step: which rows meet, who gets which, and their tensors - all from the step's number.

Nothing here has a position that could be lost. Threads may make coming steps ahead of time: what they make does not
depend on when or where it is made, so their number changes nothing but the waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.data.batching import MicroBatch, micro_batches, plan

STEPS_AHEAD = 2
"""Steps that each thread has in hand."""
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Portion:
    """One optimizer step, as one process sees it."""

    epoch: int
    rows: np.ndarray
    """Row numbers of the whole global batch."""
    parts: list[MicroBatch]
    """This process's micro-batches."""
    batches: list[Batch]
    """Their tensors, on the processor."""
    tokens: int
    """Tokens of the global batch, without padding."""
    largest: int
    """Positions of the largest micro-batch of any process, with padding: what decides whether it fits in memory."""
    most_rows: int
    """Rows of the micro-batch with the most rows."""


class Feed:
    """Makes the portion of any step for any micro-batch size."""

    def __init__(
        self,
        collate: Callable[[np.ndarray, int], Batch],
        lengths: np.ndarray,
        *,
        config: Any,
        steps_per_epoch: int,
        rank: int,
        world_size: int,
    ):
        """`collate(rows, epoch)` makes tensors; `config` is the train section."""
        self.collate, self.lengths, self.config = collate, lengths, config
        self.steps_per_epoch, self.rank, self.world_size = steps_per_epoch, rank, world_size
        self.plan = lru_cache(maxsize=2)(self._plan)  # the epoch at hand, and the next for threads that are ahead
        workers = config.dataloader_num_workers
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="collate") if workers else None
        self.ahead: dict[tuple[int, int], Future[Portion]] = {}

    def take(self, step: int, micro_batch_size: int, *, last_step: int) -> Portion:
        """The portion of a step; threads go on with the next ones up to `last_step`."""
        if self.threads is None:
            return self._make(step, micro_batch_size)
        wanted = range(step, min(step + 1 + STEPS_AHEAD * self.config.dataloader_num_workers, last_step))
        kept = {(number, micro_batch_size) for number in wanted}
        for key in self.ahead.keys() - kept:  # of another micro-batch size, or of steps that a rollback jumped over
            self.ahead.pop(key).cancel()
        for key in sorted(kept - self.ahead.keys()):
            self.ahead[key] = self.threads.submit(self._make, *key)
        return self.ahead.pop((step, micro_batch_size)).result()

    def close(self) -> None:
        """Stop the threads."""
        if self.threads is not None:
            self.threads.shutdown(cancel_futures=True)

    def _plan(self, epoch: int) -> list[np.ndarray]:
        return plan(
            self.lengths,
            seed=self.config.seed,
            epoch=epoch,
            train_batch_size=self.config.train_batch_size,
            strategy=self.config.train_sampling_strategy,
        )

    def _make(self, step: int, micro_batch_size: int) -> Portion:
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self.plan(epoch)[position]
        shares = micro_batches(rows, self.lengths, world_size=self.world_size, micro_batch_size=micro_batch_size)
        every = [part for share in shares for part in share]
        return Portion(
            epoch=epoch,
            rows=rows,
            parts=shares[self.rank],
            batches=[self.collate(part.rows, epoch) for part in shares[self.rank]],
            tokens=int(self.lengths[rows].sum()),
            largest=max(len(part.rows) * int(self.lengths[part.rows].max()) for part in every),
            most_rows=max(len(part.rows) for part in every),
        )
