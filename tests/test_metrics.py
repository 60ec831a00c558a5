"""Every metric against scikit-learn, scipy and hand-computed cases, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats
from sklearn import metrics as sk

from pipeline.errors import ConfigError, DataError
from pipeline.metrics import METRICS, load_metric

Columns = dict[str, Any]

# name -> (columns, expected), worked out by hand
BY_HAND: dict[str, tuple[Columns, float]] = {
    "accuracy": ({"predictions": [0, 2, 1, 1], "references": [0, 1, 1, 1]}, 3 / 4),
    # class 1: 2 right of 3 predicted and of 3 present
    "f1": ({"predictions": [1, 1, 1, 0, 0], "references": [1, 1, 0, 1, 0]}, 2 / 3),
    # class 0: 1, class 1: 2 * 1 * (2/3) / (5/3) = 4/5, class 2 (predicted, absent): 0
    "f1_macro": ({"predictions": [0, 2, 1, 1], "references": [0, 1, 1, 1]}, (1 + 4 / 5 + 0) / 3),
    "f1_micro": ({"predictions": [0, 2, 1, 1], "references": [0, 1, 1, 1]}, 3 / 4),
    # TP 2, TN 1, FP 1, FN 1: (2*1 - 1*1) / sqrt(3*3*2*2)
    "matthews_correlation": ({"predictions": [1, 1, 1, 0, 0], "references": [1, 1, 0, 1, 0]}, 1 / 6),
    "multilabel_accuracy": ({"predictions": [[1, 0], [1, 1]], "references": [[1, 0], [1, 0]]}, 1 / 2),
    # label 0: 1, label 1: 0
    "multilabel_f1_macro": ({"predictions": [[1, 0], [1, 1]], "references": [[1, 0], [1, 0]]}, 1 / 2),
    # TP 2, FP 1, FN 0
    "multilabel_f1_micro": ({"predictions": [[1, 0], [1, 1]], "references": [[1, 0], [1, 0]]}, 4 / 5),
    "pearson": ({"predictions": [1.0, 2.0, 3.0], "references": [1.0, 3.0, 2.0]}, 1 / 2),
    "spearman": ({"predictions": [1.0, 10.0, 100.0], "references": [1.0, 30.0, 20.0]}, 1 / 2),
    "mse": ({"predictions": [1.0, 2.0], "references": [1.5, 4.0]}, (0.25 + 4) / 2),
    "mae": ({"predictions": [1.0, 2.0], "references": [1.5, 4.0]}, (0.5 + 2) / 2),
    # 4 tokens of probability 1/8; the mean of the rows' own means would be the same only for equal rows
    "perplexity": ({"nll": [3 * math.log(8), 1 * math.log(8)], "tokens": [3, 1]}, 8.0),
    # 12 bits over 6 bytes
    "bits_per_byte": ({"nll": [3 * math.log(8), 1 * math.log(8)], "num_bytes": [4.5, 1.5]}, 2.0),
    "token_accuracy": ({"correct": [3, 0], "tokens": [4, 2]}, 1 / 2),
    "retrieval_accuracy": ({"rank": [1, 2, 11, 1]}, 1 / 2),
    "mrr_at10": ({"rank": [1, 2, 11, 10]}, (1 + 1 / 2 + 0 + 1 / 10) / 4),
    # higher, equal, lower, higher
    "reward_accuracy": ({"chosen_rewards": [1.0, 0.5, -1.0, 2.0], "rejected_rewards": [0.0, 0.5, 1.0, -2.0]}, 2 / 4),
    "reward_margin": ({"chosen_rewards": [1.0, -1.0], "rejected_rewards": [0.0, 0.5]}, (1 - 1.5) / 2),
}

# name, columns, value: what the documentation of `evaluate` and scikit-learn prints for these predictions
PUBLISHED: list[tuple[str, Columns, float]] = [
    ("accuracy", {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 1, 1, 2, 1, 0]}, 0.5),
    ("f1", {"references": [0, 1, 0, 1, 0], "predictions": [0, 0, 1, 1, 0]}, 0.5),
    ("f1_macro", {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 2, 1, 0, 0, 1]}, 0.27),
    ("f1_micro", {"references": [0, 1, 2, 0, 1, 2], "predictions": [0, 2, 1, 0, 0, 1]}, 0.33),
    ("matthews_correlation", {"references": [1, 3, 2, 0, 3, 2], "predictions": [1, 2, 2, 0, 3, 3]}, 0.54),
    ("multilabel_accuracy", {"references": [[0, 1], [1, 1]], "predictions": [[1, 1], [1, 1]]}, 0.5),
    ("pearson", {"references": [10, 9, 2.5, 6, 4], "predictions": [1, 2, 3, 4, 5]}, -0.74),
    ("spearman", {"references": [1, 2, 3, 4, 5], "predictions": [10, 9, 2.5, 6, 4]}, -0.7),
    ("mse", {"references": [3, -0.5, 2, 7], "predictions": [2.5, 0.0, 2, 8]}, 0.375),
    ("mae", {"references": [3, -0.5, 2, 7], "predictions": [2.5, 0.0, 2, 8]}, 0.5),
]

REFERENCE: dict[str, Callable[..., float]] = {
    "accuracy": lambda p, r: sk.accuracy_score(r, p),
    "f1": lambda p, r: sk.f1_score(r, p),
    "f1_macro": lambda p, r: sk.f1_score(r, p, average="macro"),
    "f1_micro": lambda p, r: sk.f1_score(r, p, average="micro"),
    "matthews_correlation": lambda p, r: sk.matthews_corrcoef(r, p),
    "multilabel_accuracy": lambda p, r: sk.accuracy_score(r, p),
    "multilabel_f1_macro": lambda p, r: sk.f1_score(r, p, average="macro"),
    "multilabel_f1_micro": lambda p, r: sk.f1_score(r, p, average="micro"),
    "pearson": lambda p, r: stats.pearsonr(p, r).statistic,
    "spearman": lambda p, r: stats.spearmanr(p, r).statistic,
    "mse": lambda p, r: sk.mean_squared_error(r, p),
    "mae": lambda p, r: sk.mean_absolute_error(r, p),
    "perplexity": lambda nll, tokens: float(np.exp(nll.sum() / tokens.sum())),
    "bits_per_byte": lambda nll, num_bytes: float(nll.sum() / np.log(2) / num_bytes.sum()),
    "token_accuracy": lambda correct, tokens: float(np.repeat(1, correct.sum()).sum() / tokens.sum()),
    "retrieval_accuracy": lambda rank: float(np.sum(rank < 2) / len(rank)),
    "mrr_at10": lambda rank: sum(1 / value for value in rank.tolist() if value <= 10) / len(rank),
    "reward_accuracy": lambda chosen, rejected: float(np.heaviside(chosen - rejected, 0.0).mean()),
    "reward_margin": lambda chosen, rejected: float(chosen.mean() - rejected.mean()),
}


def random_columns(name: str, rows: int = 57) -> dict[str, np.ndarray]:
    """Rows for a metric, by the kind of its inputs."""
    draw = np.random.default_rng(sum(map(ord, name)))
    tokens = draw.integers(1, 40, rows)
    named = {
        "rank": draw.integers(1, 15, rows),
        "tokens": tokens,
        "correct": draw.integers(0, tokens + 1),
        "nll": draw.gamma(2.0, 3.0, rows),
        "num_bytes": draw.uniform(1, 90, rows),
    }
    classes = 2 if name == "f1" else 5
    by_kind = {
        "int": lambda: draw.integers(0, classes, rows),
        "float": lambda: draw.normal(size=rows).round(1),
        "ints": lambda: draw.integers(0, 2, (rows, 4)),
    }
    return {column: named.get(column, by_kind[kind]()) for column, kind in METRICS[name].inputs.items()}


def in_batches(name: str, columns: Columns, size: int) -> float:
    metric = load_metric(name)
    rows = len(next(iter(columns.values())))
    for start in range(0, rows, size):
        metric.add_batch(**{column: values[start : start + size] for column, values in columns.items()})
    return metric.compute()[name]


@pytest.mark.parametrize(("name", "columns", "value"), PUBLISHED)
def test_published_values(name: str, columns: Columns, value: float) -> None:
    digits = len(str(value).partition(".")[2])
    assert round(load_metric(name).compute(**columns)[name], digits) == value


OVER_NUMBERS = [name for name, metric in METRICS.items() if not {"text", "texts"} & set(metric.inputs.values())]
"""Metrics of texts have a file of tests of their own."""
ran: set[str] = set()


@pytest.mark.parametrize("name", OVER_NUMBERS)
def test_every_metric(name: str) -> None:
    columns, expected = BY_HAND[name]
    assert in_batches(name, columns, 1) == pytest.approx(expected, abs=1e-12)
    columns = random_columns(name)
    expected = REFERENCE[name](*columns.values())
    assert math.isfinite(expected) and in_batches(name, columns, 57) == pytest.approx(expected, abs=1e-12)
    assert in_batches(name, columns, 8) == pytest.approx(expected, abs=1e-12)
    tensors = {column: torch.from_numpy(values) for column, values in columns.items()}
    assert in_batches(name, tensors, 10) == pytest.approx(expected, abs=1e-12)
    metric = METRICS[name]()
    assert isinstance(metric, evaluate.Metric) and metric.name == name
    assert metric.compute(**columns)[name] == pytest.approx(expected)
    assert metric.compute(**BY_HAND[name][0])[name] == pytest.approx(BY_HAND[name][1]), "an instance starts afresh"
    with pytest.raises(DataError, match="nothing to score"):
        metric.compute()
    ran.add(name)


def test_every_metric_was_run() -> None:
    if not ran:
        pytest.skip("run the whole file")
    assert ran == set(OVER_NUMBERS) == set(BY_HAND) == set(REFERENCE) and len(ran) == 19


def test_each_metric_says_which_way_is_better() -> None:
    lower = {name for name, metric in METRICS.items() if not metric.greater_is_better}
    assert lower == {"mse", "mae", "perplexity", "bits_per_byte"}


@given(rows=some.lists(some.tuples(some.integers(0, 3), some.integers(0, 3)), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_classes_agree_with_scikit_learn(rows: list[tuple[int, int]]) -> None:
    predictions, references = zip(*rows, strict=True)
    ours = METRICS["f1_macro"]().compute(predictions=predictions, references=references)["f1_macro"]
    assert ours == pytest.approx(sk.f1_score(references, predictions, average="macro", zero_division=0), abs=1e-12)


def test_live_instances_neither_wait_nor_mix() -> None:
    first, second = METRICS["accuracy"](), METRICS["accuracy"]()
    first.add_batch(predictions=[1, 1], references=[1, 1])
    second.add_batch(predictions=[0], references=[1])
    first.add(prediction=0, reference=1)
    assert first.filelock is None and second.filelock is None, "one instance waits a second for the lock of another"
    assert first.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert second.compute() == {"accuracy": 0.0}


@pytest.mark.parametrize("values", [[0.6, 1.0], np.array([0.6, 1.0]), torch.tensor([0.6, 1.0]), torch.ones(2).half()])
def test_fractions_are_not_cut_off(values: Any) -> None:
    with pytest.raises(TypeError, match="accuracy: predictions: expected whole numbers"):
        load_metric("accuracy").add_batch(predictions=values, references=[1, 1])


def test_low_precision_and_booleans_are_taken() -> None:
    columns = {"predictions": torch.tensor([1.5, 2.0], dtype=torch.bfloat16), "references": torch.tensor([1.5, 3.0])}
    assert load_metric("mse").compute(**columns)["mse"] == 0.5
    assert load_metric("accuracy").compute(predictions=[True, False], references=[1, 1])["accuracy"] == 0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pearson", "spearman", "mse", "mae", "perplexity", "bits_per_byte"])
def test_values_that_are_not_finite_raise(name: str, wrong: float) -> None:
    columns = random_columns(name, 5)
    column = next(iter(columns))
    columns[column][3] = wrong
    with pytest.raises(DataError, match=f"{name}: {column}: row 3 of the batch is {wrong}"):
        load_metric(name).add_batch(**columns)


def test_the_sums_are_exact() -> None:
    columns = {"nll": [1e16, 1.0, -1e16, 1.0], "num_bytes": [1.0, 1.0, 1.0, 1.0]}
    assert load_metric("bits_per_byte").compute(**columns)["bits_per_byte"] == pytest.approx(2 / 4 / math.log(2))


def test_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert load_metric("perplexity").compute(nll=[710.0], tokens=[1])["perplexity"] == math.inf


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("accuracy", {"predictions": [1, 2], "references": [1]}, "differ in length"),
        ("accuracy", {"predictions": [1, 2]}, "expected the columns"),
        ("accuracy", {"predictions": [[1], [2]], "references": [1, 2]}, "1 dimension"),
        ("multilabel_accuracy", {"predictions": [1, 2], "references": [1, 2]}, "2 dimension"),
        ("f1", {"predictions": [1, 2], "references": [0, 1]}, "use f1_macro"),
        ("pearson", {"predictions": [1.0, 2.0], "references": [4.0, 4.0]}, "all 2 references are 4"),
        ("spearman", {"predictions": [1.0], "references": [4.0]}, "evaluate on more rows"),
        ("perplexity", {"nll": [0.0], "tokens": [0]}, "no tokens"),
        ("bits_per_byte", {"nll": [0.0], "num_bytes": [0.0]}, "no bytes"),
        ("accuracy", {"predictions": [], "references": []}, "nothing to score"),
    ],
)
def test_what_cannot_be_scored_is_said(name: str, columns: Columns, says: str) -> None:
    metric = load_metric(name)
    with pytest.raises(ValueError, match=says):
        metric.compute(**columns)
    good, expected = BY_HAND[name]
    assert metric.compute(**good)[name] == pytest.approx(expected), "the failed call left rows behind"


def test_an_empty_batch_changes_nothing() -> None:
    metric = load_metric("multilabel_accuracy")
    metric.add_batch(predictions=torch.zeros(0, 3).long(), references=torch.zeros(0, 3).long())
    metric.add_batch(predictions=[[1, 0, 0]], references=[[1, 0, 0]])
    assert metric.compute() == {"multilabel_accuracy": 1.0}


def test_a_constant_prediction_correlates_with_nothing() -> None:
    for name in ("pearson", "spearman"):
        assert load_metric(name).compute(predictions=[2.0, 2.0, 2.0], references=[1.0, 2.0, 3.0]) == {name: 0.0}


OWN = '''
import datasets
import evaluate


class {name}(evaluate.Metric):
    """Share of ones."""

    def _info(self):
        features = datasets.Features({{"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {{"ones": sum(predictions) / len(predictions)}}
'''


def test_a_metric_from_a_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "ones").mkdir()
    for path in (tmp_path / "own.py", tmp_path / "ones" / "ones.py"):
        path.write_text(OWN.format(name="Ones"), encoding="utf-8")
    for given_path in (tmp_path / "own.py", tmp_path / "ones"):
        metric = load_metric(str(given_path))
        assert metric.keep_in_memory and metric.compute(predictions=[1, 0], references=[0, 0]) == {"ones": 0.5}


def test_a_metric_that_is_not_there(tmp_path: Path) -> None:
    two = tmp_path / "two.py"
    two.write_text(OWN.format(name="First") + OWN.format(name="Second"), encoding="utf-8")
    with pytest.raises(ConfigError, match="one class that extends evaluate.Metric; found: First, Second"):
        load_metric(str(two))
    with pytest.raises(ConfigError, match="no metric at .*absent.py"):
        load_metric("./absent.py")
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        load_metric("acuracy")


def test_a_hub_metric_fails_without_trying_the_network_when_offline() -> None:
    with pytest.raises(ConfigError, match="metric: nobody/nothing is not in the local cache .* the hub is not reached"):
        load_metric("hub:nobody/nothing")
    with pytest.raises(ConfigError, match="metric: hub:nobody/nothing@a{40} cannot be read from the hub"):
        load_metric(f"hub:nobody/nothing@{'a' * 40}")
    with pytest.raises(ConfigError, match="hub:nothing cannot be a metric of the hub; expected hub:user/name"):
        load_metric("hub:nothing")
