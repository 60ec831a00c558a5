"""One label map for all splits: fixed once, then every split is checked against it by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import DataError, nearest


def choose_labels(
    column: Iterable[Any], given: list[str] | None, checkpoint: list[str] | None
) -> tuple[list[str], dict[str, int]]:
    """The label names in id order, and the id of every label as the data writes it.

    The names the user gave; else the checkpoint's, when the training labels are among them (so that its head keeps its
    meaning); else the training labels themselves, whole numbers in numeric order and names in alphabetical order.
    Data that writes the ids 0, 1, ... of named labels is understood.
    """
    found = set(flat(column))
    if given and len(set(given)) < len(given):
        raise DataError(f"data.label_names: a name is listed twice in {given}")
    if given or (checkpoint and _ids(checkpoint, found).keys() >= found):
        names = given or checkpoint or []
        return names, _ids(names, found)
    if len(found) < 2:
        raise DataError(
            f"the training rows have {len(found)} distinct label ({', '.join(sorted(found))}); expected at least two. "
            "For numbers as targets write task: {name: text_classification, problem_type: regression}"
        )
    names = sorted(found, key=lambda name: (0, int(name), "") if _whole(name) else (1, 0, name))
    return names, _ids(names, found)


def check_labels(splits: Mapping[str, Any], column: str, ids: Mapping[str, int]) -> None:
    """Raise DataError listing every label that is not in the map: split, count, first row (counted from 1)."""
    problems = []
    for split, rows in splits.items():
        unknown: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number, cell in enumerate(rows[column], start=1):
            for label in [cell] if isinstance(cell, str) else cell:
                if label not in ids:
                    unknown[label] += 1
                    first.setdefault(label, number)
        problems += [
            f"{split}: the label {label!r} of column {column!r} is not one of the run's labels "
            f"({count} row{'s' if count > 1 else ''}, first in row {first[label]}); {nearest(label, ids)}"
            for label, count in unknown.most_common(20)
        ]
    if problems:
        raise DataError(problems)


def flat(column: Iterable[Any]) -> Iterable[str]:
    """The labels of a column whose cells are a name or a list of names."""
    for cell in column:
        if isinstance(cell, str):
            yield cell
        else:
            yield from cell


def _ids(names: Sequence[str], found: set[str]) -> dict[str, int]:
    """Label as written in the data -> id: by name, or by number where the data holds only numbers."""
    by_name = {name: index for index, name in enumerate(names)}
    by_number = {str(index): index for index in range(len(names))}
    return by_number if found <= by_number.keys() and not found <= by_name.keys() else by_name


def _whole(name: str) -> bool:
    return name.lstrip("-").isdigit()
