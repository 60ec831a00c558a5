"""One label map for all splits: fixed once, then every split is checked against it by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.data import DataConfig, places_of
from pipeline.errors import ConfigError, DataError, nearest


def choose_labels(
    column: Iterable[Any], given: list[str] | None, checkpoint: list[str] | None
) -> tuple[list[str], dict[str, int]]:
    """The label names in id order, and the id of every label as the data writes it.

    The names the user gave; else the checkpoint's, whose head knows them and no others; else the training labels
    themselves, whole numbers in numeric order and names in alphabetical order. Data that writes the ids 0, 1, ... of
    named labels is understood.
    """
    found = set(flat(column))
    if given and len(set(given)) < len(given):
        twice = next(name for name in given if given.count(name) > 1)
        raise DataError(f"data.label_names: {twice!r} is listed twice in {given}")
    if given or (checkpoint and _ids(checkpoint, found).keys() >= found):
        names = given or checkpoint or []
        return names, _ids(names, found)
    if checkpoint:
        raise DataError(
            f"data.label_names: the checkpoint was trained for the labels {_listed(checkpoint)}, and the training rows "
            f"have {_listed(sorted(found))}; start from the checkpoint before it was fine-tuned, or rename the rows "
            "(to give its outputs other meanings, list as many names in data.label_names)"
        )
    if len(found) < 2:
        raise DataError(
            f"data.label_column: all training rows have the label {_listed(sorted(found))}; expected at least two "
            "labels (for numbers as targets write task: {name: text_classification, problem_type: regression})"
        )
    names = sorted(found, key=lambda name: (0, int(name), "") if _whole(name) else (1, 0, name))
    return names, _ids(names, found)


def recall_labels(
    settings: Mapping[str, Any], splits: Mapping[str, Any], column: str, data: DataConfig
) -> tuple[list[str], dict[str, int]]:
    """The label names of a saved model in id order, from its config.json, and the id of each as labelled rows write it.

    Names that the user gives stand in for `LABEL_0`, `LABEL_1`, ... and for none. Raises ConfigError when the model's
    names are not those given, or do not cover the labels of the rows.
    """
    stored, given = settings.get("id2label") or {}, data.label_names
    known = [str(stored[index]) for index in sorted(stored, key=int)]
    named = not all(re.fullmatch(r"LABEL_\d+", name) for name in known)
    if not known and not given:
        raise ConfigError("data.label_names: the model's config.json names no labels; name them here, in id order")
    if given and known and (given != known if named else len(given) != len(known)):
        raise ConfigError(
            f"data.label_names: the model's labels are {_listed(known)}, in this order, and these are "
            f"{_listed(given)}; leave it out"
        )
    names = given or known
    found = {label for rows in splits.values() for label in flat(rows[column])}
    ids = _ids(names, found)
    try:
        check_labels(splits, column, ids, data)
    except DataError as error:
        raise ConfigError(
            [
                f"data.label_column: the model knows the labels {_listed(names)}, and the rows have "
                f"{_listed(sorted(found - ids.keys()))} beside them or instead",
                *error.problems,
            ]
        ) from error
    return names, ids


def check_labels(splits: Mapping[str, Any], column: str, ids: Mapping[str, int], data: DataConfig) -> None:
    """Raise DataError listing every label that is not in the map: where it stands first, and in how many rows."""
    problems = []
    for split, rows in splits.items():
        unknown: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number, cell in enumerate(rows[column]):
            for label in [cell] if isinstance(cell, str) else cell:
                if label not in ids:
                    unknown[label] += 1
                    first.setdefault(label, number)
        places = places_of(data, split, column, first.values())
        problems += [
            f"{places[first[label]]}: the {split} label {label!r} in {column!r} is not one of the run's labels "
            f"({count} row{'s' if count > 1 else ''}); {_hint(label, ids, data.label_names)}"
            for label, count in unknown.most_common(20)
        ]
    if problems:
        raise DataError(problems)


def named_labels(names: Sequence[str]) -> dict[str, Any]:
    """What a model's config says about its labels."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _hint(label: str, ids: Mapping[str, int], names: list[str] | None) -> str:
    if names and not ids.keys() & set(names):
        return f"numbers stand for data.label_names ({_listed(names)}), counted from 0"
    return nearest(label, ids)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def flat(column: Iterable[Any]) -> Iterable[str]:
    """The labels of a column whose cells are a name or a list of names."""
    for cell in column:
        if isinstance(cell, str):
            yield cell
        else:
            yield from cell


def _ids(names: Sequence[str], found: set[str]) -> dict[str, int]:
    """Label as written in the data -> id: by name, or by number where the data holds only numbers and no name."""
    by_name = {name: index for index, name in enumerate(names)}
    by_number = {str(index): index for index in range(len(names))}
    if found <= by_name.keys():
        return by_name
    numbers_only = all(_whole(label) for label in found) and not found & by_name.keys()
    return by_number if numbers_only or found <= by_number.keys() else by_name


def refuse_fractions(column: Iterable[Any]) -> None:
    """DataError for labels that are numbers with fractions, which nearly always are to be learned as numbers."""
    fractions = sorted(filter(_fraction, set(flat(column))))
    if fractions:
        raise DataError(
            f"data.label_column: the training rows have numbers with fractions as labels ({_listed(fractions)}); to "
            "learn them as numbers write task: {name: text_classification, problem_type: regression}, to learn each as "
            "a class of its own list them all in data.label_names"
        )


def _fraction(name: str) -> bool:
    """1.0 is none: a class, which some tool wrote as a float."""
    return re.fullmatch(r"-?[0-9]*\.[0-9]*[1-9][0-9]*", name) is not None


def _whole(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None  # isdigit also takes signs that int does not
