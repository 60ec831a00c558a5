"""One hash for what a dataset says, whatever file it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.data.images import identity

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000


def fingerprint(dataset: Dataset, columns: Iterable[str]) -> str:
    """sha256 (hex) over the rows of `columns` in order. Equal for csv, jsonl and parquet files of the same rows.

    A row is hashed as one line of JSON: strings are quoted there, so no text can pass for two cells or two rows.
    An image counts as the bytes of its file, wherever that is.
    """
    names = sorted(columns)
    digest = hashlib.sha256(json.dumps(names).encode())
    for batch in dataset.select_columns(names).iter(batch_size=BATCH):
        for row in zip(*(batch[name] for name in names), strict=True):
            digest.update(json.dumps([identity(cell) for cell in row], separators=(",", ":")).encode())
            digest.update(b"\n")
    return digest.hexdigest()
