"""Metrics of texts that were written against those that were wanted; nothing is downloaded."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from decimal import Decimal
from importlib.metadata import version
from typing import Any

from pipeline.errors import ConfigError, DataError
from pipeline.metrics.base import Kind, LocalMetric

TEXTS: dict[str, Kind] = {"predictions": "text", "references": "text"}
NUMBER = re.compile(r"(?:(?<![0-9.])[-+])?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
"""Digits, maybe with a sign, with commas between thousands, and with a fraction."""


def extra_package(name: str, *, metric: str) -> Any:
    """A module that only some metrics need. Raises ConfigError with the line that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"metric: {metric} needs the package {name.partition('.')[0]}, which is not installed ({error}); "
            "pip install 'graft-pipeline[metrics]'"
        ) from error


class Bleu(LocalMetric):
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), as sacrebleu computes it (Post 2018)."""

    inputs = TEXTS

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.scorer = extra_package("sacrebleu.metrics", metric="bleu").BLEU()

    @property
    def signature(self) -> str:
        return _signature(self.scorer)

    def score(self, predictions: list[str], references: list[str]) -> float:
        return self.scorer.corpus_score(predictions, [references]).score


class Chrf(LocalMetric):
    """Corpus chrF from 0 to 100: the F-score of character n-grams (Popovic 2015), as sacrebleu computes it."""

    inputs = TEXTS

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.scorer = extra_package("sacrebleu.metrics", metric="chrf").CHRF()

    @property
    def signature(self) -> str:
        return _signature(self.scorer)

    def score(self, predictions: list[str], references: list[str]) -> float:
        return self.scorer.corpus_score(predictions, [references]).score


def _signature(scorer: Any) -> str:
    """sacrebleu's own description of how it scored; it knows the number of references only after it has seen some."""
    scorer.corpus_score(["a"], [["a"]])
    return str(scorer.get_signature())


class Rouge(LocalMetric):
    """ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004): mean F-score over the rows, from 0 to 1, as rouge-score computes it.

    Words are runs of a-z and 0-9, so for other scripts it sees nothing; there use chrf.
    """

    inputs = TEXTS
    reported = ("rouge1", "rouge2", "rougeL")

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.scorer = extra_package("rouge_score.rouge_scorer", metric="rouge").RougeScorer(list(self.reported))

    @property
    def signature(self) -> str:
        return f"score:f1|average:rows|stemmer:no|version:rouge-score-{version('rouge-score')}"

    def score(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        rows = [self.scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
        return {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in self.reported}


class ExactMatch(LocalMetric):
    """Share of texts that are equal, but for white space around them."""

    inputs = TEXTS

    def score(self, predictions: list[str], references: list[str]) -> float:
        pairs = zip(predictions, references, strict=True)
        return sum(text.strip() == wanted.strip() for text, wanted in pairs) / len(references)


class NumericMatch(LocalMetric):
    """Share of texts whose answer is the same number: the one after `####` (GSM8K, Cobbe et al. 2021), else the last.

    18, 18.0 and +18 are the same, as are 1,000 and 1000.
    """

    inputs = TEXTS

    def unscorable(self, references: Sequence[str]) -> dict[int, str]:
        return {
            row: f"has no number in it: {text[:60]!r}; leave the metric out, or give every row an answer with a number"
            for row, text in enumerate(references)
            if answer(text) is None
        }

    def score(self, predictions: list[str], references: list[str]) -> float:
        if found := self.unscorable(references):
            raise DataError([f"numeric_match: reference {row + 1} {sentence}" for row, sentence in found.items()][:20])
        wanted = [answer(text) for text in references]
        return sum(answer(text) == number for text, number in zip(predictions, wanted, strict=True)) / len(wanted)


def answer(text: str) -> Decimal | None:
    """The number that a text ends in: the first after its last `####`, without one the last of all; None without any.

    >>> answer("She has 3 + 4 = 7 apples. #### 1,007")
    Decimal('1007')
    """
    _, mark, rest = text.rpartition("####")
    found = NUMBER.findall(rest if mark else text)
    if not found:
        return None
    return Decimal((found[0] if mark else found[-1]).replace(",", ""))
