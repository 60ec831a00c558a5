"""The tags of words: which of them mark entities, and the map of all of them to ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.data import DataConfig, places_of
from pipeline.errors import DataError
from pipeline.tasks.labels import check_labels, choose_labels, flat, recall_labels
from pipeline.tasks.spans import OUTSIDE, Span, read_spans

ENTITY_TAG = re.compile(r"[BIESLU]-.+", re.DOTALL)


def marks_entity(name: str) -> bool:
    """B-x, I-x and their like, rather than a tag that says what a word is by itself."""
    return ENTITY_TAG.fullmatch(name) is not None


def check_tags(
    splits: Mapping[str, Any], column: str, ids: Mapping[str, int], names: Sequence[str], data: DataConfig
) -> None:
    """Raise DataError for tags that no score would hold for: plain ones beside those of entities, and two schemes.

    Every plain tag is listed with the place where it stands first, and in how many rows.
    """
    marking = [name for name in names if marks_entity(name)]
    ends = [next((name for name in marking if name[0] in marks), None) for marks in ("ES", "LU")]
    if None not in ends:
        raise DataError(
            f"data.label_column: {ends[0]!r} is a tag of BIOES and {ends[1]!r} one of BILOU; write all entities in one "
            "of the two (E-x as L-x and S-x as U-x, or the other way round)"
        )
    problems = []
    for split, rows in splits.items() if marking else ():
        tags = [{tag for tag in row if not _fits(names[ids[tag]])} for row in rows[column]]
        counts = Counter(tag for row in tags for tag in row)
        first = {tag: next(number for number, row in enumerate(tags) if tag in row) for tag in counts}
        places = places_of(data, split, column, first.values())
        problems += [
            f"{places[first[tag]]}: the {split} tag {tag!r} in {column!r} marks no entity ({count} "
            f"row{'s' if count > 1 else ''}), and {marking[0]!r} does; write O where there is no entity, B-x and I-x "
            "(or E-x, S-x, L-x, U-x) where there is one, or give every word a plain tag"
            for tag, count in counts.most_common(20)
        ]
    if problems:
        raise DataError(problems)


def _fits(name: str) -> bool:
    """Whether a tag can stand among those of entities."""
    return name == OUTSIDE or marks_entity(name)


def types_of(names: Iterable[str]) -> list[str]:
    """The types x of entities that the tags B-x, I-x, ... mark, in alphabetical order."""
    return sorted({name[2:] for name in names if marks_entity(name)})


def scorable(name: str) -> str:
    """A tag as entities are scored: one of a checkpoint that marks none, such as `[CLS]`, says what O says."""
    return name if marks_entity(name) else OUTSIDE


def within(names: Sequence[str], tag: int) -> int:
    """The id for what follows within the same word: of B-x that of I-x, if there is one."""
    name = f"I-{names[tag][2:]}" if names[tag].startswith("B-") else names[tag]
    return names.index(name) if name in names else tag


def tags_of_spans(
    spans: Mapping[str, Sequence[Sequence[Span]]], column: str, data: DataConfig, checkpoint: list[str] | None
) -> tuple[list[str], dict[str, str]]:
    """The tags O, B-x and I-x in id order, and the x of every label as the spans of the splits write it.

    The names in `data.label_names`, if any, are those of the labels x. Raises DataError for a label of a split that
    the training rows do not have, and for a checkpoint with other tags.
    """
    labels = {split: {column: [[span.label for span in row] for row in rows]} for split, rows in spans.items()}
    found = sorted(set(flat(labels["train"][column])))
    if not found:
        raise DataError(f"data.label_column: no training row has a span in {column!r}; there is nothing to learn")
    known = _types(checkpoint) if checkpoint and data.label_names is None else None
    if known is None and data.label_names is None and len(found) == 1:
        names, ids = found, {found[0]: 0}  # one type of entity is enough: the other words are O
    else:
        names, ids = choose_labels(labels["train"][column], data.label_names, known)
    check_labels(labels, column, ids, data)
    tags = [OUTSIDE, *(f"{mark}-{name}" for name in names for mark in "BI")]
    if data.label_names is None:
        tags = checkpoint or sorted(tags)
    return tags, {label: names[index] for label, index in ids.items()}


def recall_span_tags(
    settings: Mapping[str, Any], splits: Mapping[str, Any], column: str, data: DataConfig
) -> tuple[list[str], dict[str, str]]:
    """The same of a saved model, from its config.json, and labelled rows that must be of its types."""
    tags, _ = recall_labels(settings, {}, column, data.model_copy(update={"label_names": None}))
    types = data.label_names or _types(tags)
    labels = {
        split: {column: [[span.label for span in read_spans(cell)] for cell in rows[column]]}
        for split, rows in splits.items()
    }
    _, ids = recall_labels({"id2label": dict(enumerate(types))}, labels, column, data)
    return tags, {label: types[index] for label, index in ids.items()}


def _types(checkpoint: Sequence[str]) -> list[str]:
    """The x of a checkpoint that tags O, B-x and I-x; other tags cannot say what spans say."""
    types = [name[2:] for name in checkpoint if name.startswith("B-")]
    if set(checkpoint) != {OUTSIDE, *(f"{mark}-{name}" for name in types for mark in "BI")}:
        raise DataError(
            "task.label_format: spans become the tags O, B-x and I-x, and the checkpoint was trained for "
            f"{', '.join(map(repr, checkpoint[:8]))}{', ...' if len(checkpoint) > 8 else ''}; start from the "
            "checkpoint before it was fine-tuned, or give words with the checkpoint's own tags"
        )
    return types


def most_frequent(rows: Sequence[Sequence[Any]]) -> Any:
    """The tag that most words have; of equals the first in order."""
    counts: dict[Any, int] = {}
    for row in rows:
        for tag in row:
            counts[tag] = counts.get(tag, 0) + 1
    return max(sorted(counts), key=lambda tag: counts[tag])
