"""Scores and intervals over splits of one to three rows: numbers or none, and never a warning of a library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.bootstrap import intervals
from pipeline.metrics import METRICS
from tests.test_metrics import random_columns

TEXTS: dict[str, list[Any]] = {"text": ["a b 3"], "texts": [["a b 3"]]}
TAGS: list[list[list[str]]] = [[["O", "B-x"]], [["O", "O"]]]


def columns_for(name: str, rows: int) -> list[dict[str, Any]]:
    """Columns that differ, and those in which all rows are one and the same."""
    inputs = METRICS[name].inputs
    if {"text", "texts"} & set(inputs.values()):
        kinds = [{"text": tags, "texts": tags} for tags in TAGS] if name == "seqeval" else [TEXTS]
        return [{column: kind[inputs[column]] * rows for column in inputs} for kind in kinds]
    found = [random_columns(name, rows)]
    for value in (0, 1):
        same = {column: value + (column == "rank") for column in inputs}  # ranks begin with 1
        found.append({column: np.full_like(cells, same[column]) for column, cells in found[0].items()})
    return found


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("name", METRICS)
def test_no_split_is_too_small(name: str, rows: int) -> None:
    for columns in columns_for(name, rows):
        metric = METRICS[name]()
        found = intervals({name: metric}, columns, 20, 0, poll=lambda: None)
        for ends in found.values():
            assert ends is None or ends[0] <= ends[1]
