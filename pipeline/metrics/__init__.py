"""Metrics as `evaluate.Metric` objects that need no network; import it late, `evaluate` takes seconds."""

from __future__ import annotations

import evaluate

from pipeline.metrics.answers import SquadExactMatch, SquadF1
from pipeline.metrics.base import LocalMetric
from pipeline.metrics.classification import (
    F1,
    Accuracy,
    F1Macro,
    F1Micro,
    MatthewsCorrelation,
    MultilabelAccuracy,
    MultilabelF1Macro,
    MultilabelF1Micro,
)
from pipeline.metrics.generated import Bleu, Chrf, ExactMatch, NumericMatch, Rouge
from pipeline.metrics.language import BitsPerByte, Perplexity, TokenAccuracy
from pipeline.metrics.loading import load
from pipeline.metrics.preference import RewardAccuracy, RewardMargin
from pipeline.metrics.regression import MAE, MSE, Pearson, Spearman
from pipeline.metrics.retrieval import MRRAt10, RetrievalAccuracy
from pipeline.metrics.sequences import Seqeval

__all__ = ["METRICS", "LocalMetric", "load_metric"]

METRICS: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "f1_macro": F1Macro,
    "f1_micro": F1Micro,
    "matthews_correlation": MatthewsCorrelation,
    "multilabel_accuracy": MultilabelAccuracy,
    "multilabel_f1_macro": MultilabelF1Macro,
    "multilabel_f1_micro": MultilabelF1Micro,
    "pearson": Pearson,
    "spearman": Spearman,
    "mse": MSE,
    "mae": MAE,
    "perplexity": Perplexity,
    "bits_per_byte": BitsPerByte,
    "token_accuracy": TokenAccuracy,
    "squad_exact_match": SquadExactMatch,
    "squad_f1": SquadF1,
    "retrieval_accuracy": RetrievalAccuracy,
    "mrr_at10": MRRAt10,
    "seqeval": Seqeval,
    "bleu": Bleu,
    "chrf": Chrf,
    "rouge": Rouge,
    "exact_match": ExactMatch,
    "numeric_match": NumericMatch,
    "reward_accuracy": RewardAccuracy,
    "reward_margin": RewardMargin,
}


def load_metric(name: str, **settings: object) -> evaluate.Metric:
    """A new metric: a name of `METRICS`, `./my_metric.py` or its folder, `hub:user/name` (with
    `@revision`), or `my_module:MyMetric`.

    `settings` go to the metric's constructor. Raises ConfigError for what cannot be found. A file or a hub metric is
    code, and it runs with your rights.
    """
    return load(name, METRICS, settings)
