"""Metrics of numbers: correlations and errors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error

from pipeline.errors import DataError
from pipeline.metrics.base import Kind, LocalMetric

Floats = NDArray[np.float64]

NUMBERS: dict[str, Kind] = {"predictions": "float", "references": "float"}


def uninformative(name: str, predictions: Floats, references: Floats) -> bool:
    """Whether the predictions are constant, where the correlation is undefined and we say 0, as Matthews' does.

    References that are constant make it undefined whatever the model says: DataError.
    """
    if np.ptp(references) == 0:
        raise DataError(
            f"{name}: all {len(references)} references are {references[0]:g}, so it is undefined; "
            "evaluate on more rows or use mse"
        )
    return bool(np.ptp(predictions) == 0)


class Pearson(LocalMetric):
    """Linear correlation; 0 for a constant prediction."""

    inputs = NUMBERS

    def score(self, predictions: Floats, references: Floats) -> float:
        return 0.0 if uninformative(self.name, predictions, references) else pearsonr(predictions, references).statistic


class Spearman(LocalMetric):
    """Correlation of ranks; 0 for a constant prediction."""

    inputs = NUMBERS

    def score(self, predictions: Floats, references: Floats) -> float:
        return (
            0.0 if uninformative(self.name, predictions, references) else spearmanr(predictions, references).statistic
        )


class MSE(LocalMetric):
    """Mean squared error."""

    inputs = NUMBERS
    greater_is_better = False

    def score(self, predictions: Floats, references: Floats) -> float:
        return mean_squared_error(references, predictions)


class MAE(LocalMetric):
    """Mean absolute error."""

    inputs = NUMBERS
    greater_is_better = False

    def score(self, predictions: Floats, references: Floats) -> float:
        return mean_absolute_error(references, predictions)
