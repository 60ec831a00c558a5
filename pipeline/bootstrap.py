"""How sure a score is: percentile intervals by drawing the scored rows anew (Efron 1979).

What belongs together is drawn together: the words of a sentence are not independent of each other, and drawn one by one
they would give intervals that are too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.tasks.base import TOGETHER

ENDS = (2.5, 97.5)
"""Percentiles between which 95 % of the draws lie."""
MOST_UNDEFINED = 0.1
"""Share of draws for which a metric may be undefined (one class only, say) and still get an interval."""


@dataclass
class Intervals:
    """95 % intervals of the final scores of a run: `found[split][name]` is [low, high]."""

    metrics: Mapping[str, Any]
    resamples: int
    seed: int
    processes: Processes
    stop: StopRequest
    found: dict[str, dict[str, list[float] | None]] = field(default_factory=dict)

    def draw(self, split: str, columns: Mapping[str, Any]) -> None:
        """Make the intervals of a split. Raises Stopped, on all processes, when one of them was asked to stop."""
        if self.resamples:
            self.found[split] = intervals(self.metrics, columns, self.resamples, self.seed, poll=self._poll)

    def _poll(self) -> None:
        if self.processes.total(self.stop())[0]:
            raise self.stop.stopped()


def intervals(
    metrics: Mapping[str, Any], columns: Mapping[str, Any], resamples: int, seed: int, *, poll: Callable[[], None]
) -> dict[str, list[float] | None]:
    """A 95 % interval [low, high] for every number that the metrics report, over the examples in `columns`.

    Each resample draws as many examples as there are, or groups of those that belong together, with replacement, the
    same ones for all metrics. None for a number that more than a tenth of the draws leave undefined or infinite. `poll`
    is called before each draw, and may raise. The interval is over rows: how other seeds would train the model is not
    in it.
    """
    draw = np.random.default_rng(seed)
    taken = {key for metric in metrics.values() for key in columns_of(metric)}
    count = len(next(iter(columns.values())))
    groups = np.split(np.arange(count), np.flatnonzero(np.diff(columns[TOGETHER])) + 1) if TOGETHER in columns else None
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        poll()
        size = count if groups is None else len(groups)
        rows = draw.integers(0, size, size)
        if groups is not None:
            rows = np.concatenate([groups[row] for row in rows])
        drawn = {key: _take(columns[key], rows) for key in taken}
        for metric in metrics.values():
            for name, value in _scores(metric, {key: drawn[key] for key in columns_of(metric)}).items():
                found.setdefault(name, []).append(value)
    return {name: _interval(values, resamples) for name, values in found.items()}


def columns_of(metric: Any) -> list[str]:
    """Names of the columns that a metric takes."""
    return list(metric.features[0] if isinstance(metric.features, list) else metric.features)


def numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """What a metric reports, without what is no number."""
    return {key: float(value) for key, value in result.items() if isinstance(value, (int, float, np.number))}


def _scores(metric: Any, columns: dict[str, Any]) -> dict[str, float]:
    from pipeline.metrics import LocalMetric  # costs seconds to import, and the settings import this file

    try:
        # our own without a table made in between, for a thousand draws: the rows were checked when they were scored
        return numbers(metric.scores(**columns) if isinstance(metric, LocalMetric) else metric.compute(**columns))
    except (ValueError, ZeroDivisionError):  # undefined for these rows; over all rows it was not
        return {}


def _take(values: Any, rows: Sequence[int] | np.ndarray) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else [values[int(row)] for row in rows]


def _interval(values: list[float], resamples: int) -> list[float] | None:
    finite = [value for value in values if np.isfinite(value)]
    if len(finite) < (1 - MOST_UNDEFINED) * resamples:
        return None
    low, high = np.percentile(finite, ENDS)
    return [float(low), float(high)]
