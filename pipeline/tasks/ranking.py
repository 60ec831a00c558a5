"""What a text is nearest to, among the texts of all rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def competition(vectors: Tensor, texts: Tensor, asked: Tensor) -> Tensor:
    """Cosine similarity of the anchors of some rows (numbers) with all candidates: (asked, candidates).

    Candidates are all positives, then all negatives, so that the one of row i is in column i. One that is known to be
    no negative has -inf.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        unit = functional.normalize(vectors.float(), dim=-1)
        scores = unit[asked, 0] @ unit[:, 1:].transpose(0, 1).flatten(0, 1).T
    candidates, anchors = texts[:, 1:].T.flatten(), texts[:, 0]
    related = candidates[None, :] == texts[asked, 1, None]
    related[:, : len(texts)] |= anchors[None, :] == anchors[asked, None]
    related[torch.arange(len(asked), device=asked.device), asked] = False
    return scores.masked_fill(related, -torch.inf)


def rank_of_positive(vectors: Tensor, texts: Tensor, asked: Tensor) -> Tensor:
    """(asked,): 1 where nothing is nearer to the anchor than its positive; a vector with NaN comes last."""
    scores = competition(vectors, texts, asked)
    own = scores.gather(1, asked[:, None])
    return 1 + (~(scores <= own)).sum(1)
