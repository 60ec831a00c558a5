"""What the language-model tasks share: text to tokens, cross-entropy as a sum, and per-row sums for the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data import DataConfig
from pipeline.errors import BadRows
from pipeline.tasks.base import IGNORED, Batch, Features


def encode_text(tokenizer: Any, texts: Sequence[str], *, end: bool) -> Features:
    """Whole texts to token ids with the tokenizer's own special tokens, and EOS behind each when `end`."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    eos = tokenizer.eos_token_id
    if end and eos is not None:
        rows = [row if row and row[-1] == eos else [*row, eos] for row in rows]
    return {
        "input_ids": rows,
        "num_bytes": [float(len(text.encode("utf-8", "surrogatepass"))) for text in texts],
        "full_length": [len(row) for row in rows],
    }


def text_only(data: DataConfig) -> list[str]:
    """What a language model has no use for, one sentence each."""
    if isinstance(data.text_column, list):
        return [f"data.text_column: a language model reads one column, got {data.text_column}"]
    return []


def truncated(features: Features, max_length: int) -> Features:
    """Rows cut at `max_length`, with the bytes of the text shortened in proportion."""
    rows = features["input_ids"]
    shares = [min(1.0, max_length / max(1, len(row))) for row in rows]
    return {
        **features,
        "input_ids": [row[:max_length] for row in rows],
        "num_bytes": [size * share for size, share in zip(features["num_bytes"], shares, strict=True)],
    }


def of_predicted(features: Features, bos: int | None) -> Features:
    """Bytes of the predicted tokens only: without a BOS before it, the first token of a row is given, not predicted."""
    pairs = zip(features["num_bytes"], features["input_ids"], strict=True)
    return {**features, "num_bytes": [size * _share(row, bos) for size, row in pairs]}


def _share(row: Sequence[int], bos: int | None) -> float:
    return 1.0 if not row or row[0] == bos else (len(row) - 1) / len(row)


def refuse_empty(features: Features, column: str, max_length: int) -> None:
    """Raise BadRows for rows that have nothing to learn from."""
    counts = features.get("num_trained") or [len(row) - 1 for row in features["input_ids"]]
    sentence = (
        f"{column} holds nothing to learn from within {max_length} tokens; raise data.max_length or leave the row out"
    )
    if empty := {number: sentence for number, count in enumerate(counts) if count < 1}:
        raise BadRows(empty)


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood in nats, summed over the positions whose label is not ignored.

    logits (batch, length, vocabulary), labels (batch, length).
    """
    return functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def language_columns(logits: Tensor, labels: Tensor, num_bytes: Tensor) -> Batch:
    """Per row: nats, tokens, correctly predicted tokens and bytes, each (batch,); metrics only add them up."""
    nll = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="none"
    ).reshape(labels.shape)
    known = labels != IGNORED
    return {
        "nll": nll.double().sum(1),
        "tokens": known.sum(1),
        "correct": ((logits.argmax(-1) == labels) & known).sum(1),
        "num_bytes": num_bytes.double(),
    }


def bytes_column(features: Sequence[Any]) -> Tensor:
    """The `num_bytes` of the rows of a micro-batch: (batch,)."""
    return torch.tensor([feature["num_bytes"] for feature in features], dtype=torch.float64)
