"""Metrics of classes: one class per row, or a row of zeros and ones with a place per label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from pipeline.errors import DataError
from pipeline.metrics.base import Kind, LocalMetric

Ints = NDArray[np.int64]

CLASSES: dict[str, Kind] = {"predictions": "int", "references": "int"}
LABEL_ROWS: dict[str, Kind] = {"predictions": "ints", "references": "ints"}


def f1_of(predictions: Ints, references: Ints, average: str, **settings: Any) -> float:
    """A class that is neither predicted nor present counts as 0, without a warning."""
    return float(f1_score(references, predictions, average=average, zero_division=0, **settings))


class Accuracy(LocalMetric):
    """Share of rows whose class is right."""

    inputs = CLASSES

    def score(self, predictions: Ints, references: Ints) -> float:
        return accuracy_score(references, predictions)


class F1(LocalMetric):
    """F1 of class 1 among the classes 0 and 1."""

    inputs = CLASSES

    def score(self, predictions: Ints, references: Ints) -> float:
        others = sorted({*predictions.tolist(), *references.tolist()} - {0, 1})
        if others:
            raise DataError(f"f1: it is for the two classes 0 and 1, found also {others[:5]}; use f1_macro or f1_micro")
        return f1_of(predictions, references, "binary")


class F1Macro(LocalMetric):
    """Mean of the F1 of each class that is predicted or present."""

    inputs = CLASSES

    def score(self, predictions: Ints, references: Ints) -> float:
        return f1_of(predictions, references, "macro")


class F1Micro(LocalMetric):
    """F1 over all decisions (with one class per row it is the accuracy)."""

    inputs = CLASSES

    def score(self, predictions: Ints, references: Ints) -> float:
        return f1_of(predictions, references, "micro")


class MatthewsCorrelation(LocalMetric):
    """Correlation of predicted and true classes; 0 for a constant prediction."""

    inputs = CLASSES

    def score(self, predictions: Ints, references: Ints) -> float:
        if len(np.union1d(references, predictions)) < 2:  # one class alone: constant too, and scikit-learn would warn
            return 0.0
        return matthews_corrcoef(references, predictions)


class MultilabelAccuracy(LocalMetric):
    """Share of rows whose labels are all right."""

    inputs = LABEL_ROWS

    def score(self, predictions: Ints, references: Ints) -> float:
        return accuracy_score(references, predictions)


class MultilabelF1Macro(LocalMetric):
    """Mean over the labels of the F1 of each."""

    inputs = LABEL_ROWS

    def score(self, predictions: Ints, references: Ints) -> float:
        return f1_of(predictions, references, "macro")


class MultilabelF1Micro(LocalMetric):
    """F1 over all labels of all rows taken together."""

    inputs = LABEL_ROWS

    def score(self, predictions: Ints, references: Ints) -> float:
        return f1_of(predictions, references, "micro")
