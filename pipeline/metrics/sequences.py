"""Metrics of tagged words: whole entities, as seqeval counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pipeline.errors import ConfigError, DataError
from pipeline.metrics.base import Kind, LocalMetric

TAGGED: dict[str, Kind] = {"predictions": "texts", "references": "texts"}
TAG = re.compile(r"O|[BIESLU]-.+", re.DOTALL)
Tags = list[list[str]]


class Seqeval(LocalMetric):
    """Entities with the right words and the right type: precision, recall and F1 over all, and F1 of every type.

    Rows are lists of tags, one per word. BIO tags are read as conlleval and `evaluate`'s seqeval do: an I-x that
    follows no x begins an entity. BIOES and BILOU tags, known by their S- and E-, or U- and L-, are read strictly: only
    whole entities count. Also the share of words with the right tag (`accuracy`) and, for every type x that is
    predicted or present, `f1_x` and how many entities it has (`support_x`). What divides by zero is 0.
    """

    inputs = TAGGED
    reported = ("precision", "recall", "f1", "accuracy")

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **settings: Any):
        try:
            import seqeval  # noqa: F401  # here and below: an extra that only this metric needs
        except ImportError as error:
            raise ConfigError(
                "metric: seqeval is not installed; pip install 'graft-pipeline[metrics]' (or leave out the validation "
                "and test rows to train without scores)"
            ) from error
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **settings)

    def score(self, predictions: Tags, references: Tags) -> dict[str, float]:
        from seqeval.metrics import accuracy_score, classification_report

        tags = {tag for rows in (predictions, references) for row in rows for tag in row}
        if plain := sorted(tag for tag in tags if not TAG.fullmatch(tag)):
            raise DataError(f"seqeval: {plain[0]!r} is no tag of an entity; expected O, B-x, I-x, E-x, S-x, L-x or U-x")
        scheme = _scheme({tag[0] for tag in tags})
        if _has_entities([*references, *predictions], scheme):
            settings = {"mode": "strict", "scheme": scheme} if scheme else {}
            report = classification_report(references, predictions, output_dict=True, zero_division=0, **settings)
        else:  # seqeval's report is a mean over the types
            report = {"micro avg": {"precision": 0.0, "recall": 0.0, "f1-score": 0.0}}
        over_all = report["micro avg"]
        found = {"precision": over_all["precision"], "recall": over_all["recall"], "f1": over_all["f1-score"]}
        found["accuracy"] = accuracy_score(references, predictions)
        for name, numbers in report.items():
            if name not in ("micro avg", "macro avg", "weighted avg"):
                found[f"f1_{name}"], found[f"support_{name}"] = numbers["f1-score"], numbers["support"]
        return found


def entities(tags: list[str], known: Iterable[str]) -> list[tuple[int, int, str]]:
    """First word, last word + 1 and type of the entities of one row, read as they are counted above.

    `known` are all tags there are: their first letters tell the scheme.
    """
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import Entities

    scheme = _scheme({tag[0] for tag in known})
    if scheme:
        return [(found.start, found.end, found.tag) for found in Entities([tags], scheme).entities[0]]
    return [(first, last + 1, kind) for kind, first, last in get_entities(tags)]


def _scheme(marks: set[str]) -> Any:
    """The class by which seqeval reads tags with these first letters strictly; None for BIO."""
    from seqeval.scheme import BILOU, IOBES

    if marks & {"L", "U"}:
        return BILOU
    return IOBES if "S" in marks or {"B", "E"} <= marks else None


def _has_entities(rows: Tags, scheme: Any) -> bool:
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import Entities

    return bool(Entities(rows, scheme).unique_tags if scheme else get_entities(rows))
