"""Several documents in one row, kept apart: positions that start again, and the proof that a model heeds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ConfigError

KERNELS = ("eager", "sdpa")
"""Attention kernels that are told by position ids alone where a document ends, in rows side by side too."""


def position_ids(document_lengths: Sequence[Sequence[int]], width: int) -> Tensor:
    """Positions that start at 0 for each document: (rows, width). The padding of a row is one document more.

    transformers masks attention between documents where positions start again, when it gets no attention mask.
    """
    rows = []
    for lengths in document_lengths:
        padding = width - sum(lengths)
        rows.append(np.concatenate([np.arange(length) for length in (*lengths, padding)]))
    return torch.from_numpy(np.stack(rows)).long()


def refuse_leaks(model: Any) -> None:
    """Raise ConfigError unless every document of a small packed batch gets the logits it gets alone.

    Models differ in what they do with position ids: recurrent ones carry their state over, and some take none.
    """
    advice = "set data.packing: none (or blocks, for plain text)"
    name = model.config.model_type
    if model.config._attn_implementation not in KERNELS:
        raise ConfigError(
            f"data.packing: best_fit keeps documents apart with eager or sdpa attention, and the model runs with "
            f"{model.config._attn_implementation}; set model.attn_implementation: sdpa, or {advice}"
        )
    lengths = [[4, 3, 1], [2, 5]]
    width = 8
    count = model.get_input_embeddings().num_embeddings
    device = model.get_input_embeddings().weight.device
    ids = (torch.arange(2 * width, device=device).reshape(2, width) * 7 + 1) % count
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = model(input_ids=ids, position_ids=position_ids(lengths, width).to(device), use_cache=False).logits
            worst = 0.0
            for row, parts in enumerate(lengths):
                for start, end in zip(np.cumsum([0, *parts[:-1]]), np.cumsum(parts), strict=True):
                    alone = model(input_ids=ids[row : row + 1, start:end], use_cache=False).logits[0]
                    worst = max(worst, float((packed[row, start:end] - alone).abs().max()))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"data.packing: best_fit needs a model that takes position_ids, and {name} does not ({error}); {advice}"
        ) from error
    finally:
        model.train(was_training)
    rounding = 1e-5 if packed.dtype == torch.float32 else 5e-2
    if not worst <= rounding * max(1.0, float(packed.abs().max())):
        raise ConfigError(
            f"data.packing: best_fit needs a model that keeps the documents of a row apart, and {name} carries one "
            f"over into the next (its outputs move by {worst:.2g}); {advice}"
        )
