"""What rows are on their way to a model: columns of features, then batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that is not learned from (the value PyTorch's cross-entropy ignores)."""

TOGETHER = "drawn_together"  # a column of `examples`: equal numbers in a row are drawn together for an interval
Batch = dict[str, Tensor]
Features = dict[str, list[Any]]
"""Columns of encoded rows: `input_ids` (or `length`, where rows are not tokens) and whatever else `collate` reads."""


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Right-pad integer rows to the longest: (batch, longest)."""
    out = np.full((len(rows), max(len(row) for row in rows)), value, dtype=np.int64)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return torch.from_numpy(out)


def attention_mask(rows: Sequence[Sequence[int]]) -> Tensor:
    """1 on tokens, 0 on padding: (batch, longest). Made from lengths, so a pad token that is also EOS does no harm."""
    lengths = torch.tensor([len(row) for row in rows])
    return (torch.arange(int(lengths.max()))[None, :] < lengths[:, None]).long()
