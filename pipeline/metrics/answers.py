"""Metrics of answers as texts: exact match and F1 over words as SQuAD's evaluation scripts compute them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.metrics.base import Kind, LocalMetric

ANSWERS: dict[str, Kind] = {"predictions": "text", "references": "texts"}
ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_words(text: str) -> list[str]:
    """The words that are compared: in lower case, without ASCII punctuation and without English articles."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def squad_scores(
    name: str,
    agreement: Callable[[list[str], list[str]], float],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
) -> dict[str, float]:
    """The mean over the rows, 0 to 100, of the best agreement of a prediction with any reference of its row.

    When no row lacks references this is the script of SQuAD 1.1 (Rajpurkar et al. 2016). Otherwise it is that of
    SQuAD 2.0 (Rajpurkar et al. 2018): references without a word count for nothing, a row that is left without any is
    right when nothing was predicted, and the rows with and without references are reported apart too.
    """
    answerable = np.array([bool(answers) for answers in references])
    version_2 = not answerable.all()
    scores = np.empty(len(answerable))
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        found, known = answer_words(prediction), [answer_words(answer) for answer in answers]
        if version_2:
            known = [words for words in known if words]
        scores[row] = max(agreement(found, words) for words in known) if known else not found
    parts = {name: scores}
    if version_2:
        parts |= {f"{name}_has_answer": scores[answerable], f"{name}_no_answer": scores[~answerable]}
    return {part: 100 * float(values.mean()) for part, values in parts.items() if len(values)}


def same_words(prediction: list[str], answer: list[str]) -> float:
    """1 for the same words in the same order, else 0."""
    return float(prediction == answer)


def word_f1(prediction: list[str], answer: list[str]) -> float:
    """Harmonic mean of the shares of shared words in the prediction and in the answer; 0 when none is shared."""
    shared = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


class SquadExactMatch(LocalMetric):
    """Answers with the words of a reference, 0 to 100 as SQuAD's own script gives it; see `squad_scores`."""

    inputs = ANSWERS

    def score(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return squad_scores(self.name, same_words, predictions, references)


class SquadF1(LocalMetric):
    """F1 over the words of an answer and its best reference, 0 to 100 as SQuAD's own script; see `squad_scores`."""

    inputs = ANSWERS

    def score(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        return squad_scores(self.name, word_f1, predictions, references)
