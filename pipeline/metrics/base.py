"""The base of our metrics: rows are checked when they are added and scored as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import datasets
import evaluate
import numpy as np
import torch

from pipeline.errors import DataError

Kind = Literal["int", "float", "ints", "text", "texts"]

DTYPES = {"int": "i8", "float": "f8", "ints": "i1"}
FEATURES: dict[Kind, Any] = {
    "int": datasets.Value("int64"),
    "float": datasets.Value("float64"),
    "ints": datasets.Sequence(datasets.Value("int8")),
    "text": datasets.Value("string"),
    "texts": datasets.Sequence(datasets.Value("string")),
}


class LocalMetric(evaluate.Metric):
    """A metric is a subclass with its `inputs` and its `score`; its name is the class name in snake case.

    `add_batch` takes lists, NumPy arrays and tensors of any float type and device. Unlike its parent it refuses
    fractions where whole numbers are expected (they would be cut off), NaN and infinity.
    """

    inputs: ClassVar[dict[str, Kind]]
    """The columns a row has, by name, in the order `score` takes them."""
    greater_is_better: ClassVar[bool] = True
    reported: ClassVar[tuple[str, ...]] = ()
    """The names of its numbers, for a metric of several; otherwise it reports one under its own name."""

    def unscorable(self, references: Sequence[Any]) -> dict[int, str]:
        """What no prediction could be compared with: the number of the reference -> what is wrong with it."""
        return {}

    @property
    def signature(self) -> str | None:
        """How exactly it scores, for a metric that others compute in other ways; it is kept beside the results."""
        return None

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **settings: Any):
        # A metric that keeps its rows in a file waits a second on the lock of every other one alive.
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **settings)

    def score(self, *args: Any, **kwargs: Any) -> float | dict[str, float]:
        """The metric over all rows; takes one array (of texts: a list) per entry of `inputs`, in its order.

        A number is reported under the metric's name; a metric of several numbers gives them with their names.
        """
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description=f"Inputs, one per row: {self.inputs}",
            features=datasets.Features({name: FEATURES[kind] for name, kind in self.inputs.items()}),
        )

    def _compute(self, **columns: Any) -> dict[str, float]:
        return self.scores(**columns)

    def scores(self, **columns: Any) -> dict[str, float]:
        """The numbers by name, of rows that were checked before; no row is kept."""
        found = self.score(*(_column(columns[name], kind) for name, kind in self.named()))
        named = found if isinstance(found, dict) else {self.name: found}
        return {name: float(value) for name, value in named.items()}

    def named(self) -> list[tuple[str, Kind]]:
        return list(self.inputs.items())

    def compute(self, **columns: Any) -> dict[str, float]:
        """Score the rows added so far and those given here, and forget them: `{name: value}`."""
        if self.writer is None:  # all rows are given here: no table is made of them
            rows = self._checked(columns) if columns else {}
            if not any(map(len, rows.values())):
                raise DataError(f"{self.name}: there is nothing to score: no row was added; is the split empty?")
            return self.scores(**rows)
        if columns:
            self.add_batch(**columns)
        return super().compute()

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """Add one row."""
        if "predictions" in self.inputs:
            columns = {"predictions": prediction, "references": reference, **columns}
        self.add_batch(**{name: [value] for name, value in columns.items()})

    def add_batch(self, **columns: Any) -> None:
        """Add rows: one list, array or tensor per input, all of one length."""
        rows = self._checked(columns)
        if any(map(len, rows.values())):
            super().add_batch(**rows)

    def _checked(self, columns: dict[str, Any]) -> dict[str, Any]:
        """The columns as arrays and lists of one length."""
        if set(columns) != set(self.inputs):
            raise ValueError(f"{self.name}: expected the columns {list(self.inputs)}, got {list(columns)}")
        arrays = {name: to_array(columns[name], kind, where=f"{self.name}: {name}") for name, kind in self.named()}
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: the columns differ in length: {lengths}")
        return arrays


def _column(values: Any, kind: Kind) -> Any:
    """What `score` gets of a column."""
    if kind in ("text", "texts"):
        return list(values)
    return np.asarray(values, dtype=DTYPES[kind])


def to_array(values: Any, kind: Kind, *, where: str) -> Any:
    """Values of one column, checked: (rows,) of int64 or float64, (rows, labels) of int8 for `ints`; lists of texts."""
    if kind in ("text", "texts"):
        whole = str if kind == "text" else list
        if others := [value for value in values if not isinstance(value, whole)]:
            raise TypeError(f"{where}: expected {kind}, got {type(others[0]).__name__}")
        return list(values)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = (values.double() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    dimensions = 2 if kind == "ints" else 1
    if array.size == 0:
        return array.reshape((0,) * dimensions).astype(DTYPES[kind])
    if array.ndim != dimensions:
        raise ValueError(f"{where}: expected {dimensions} dimension(s), got the shape {array.shape}")
    if kind == "float":
        if array.dtype.kind not in "iubf":
            raise TypeError(f"{where}: expected numbers, got {array.dtype}")
        wrong = np.flatnonzero(~np.isfinite(array))
        if len(wrong):
            raise DataError(
                f"{where}: row {wrong[0]} of the batch is {array[wrong[0]]} ({len(wrong)} of {len(array)} rows are not "
                "finite); the model has diverged: lower optim.learning_rate or train in float32"
            )
        return array.astype("f8")
    if array.dtype.kind not in "iub":
        raise TypeError(f"{where}: expected whole numbers, got {array.dtype}; take the argmax or compare first")
    if kind == "ints" and not np.isin((array.min(), array.max()), (0, 1)).all():
        raise TypeError(f"{where}: expected zeros and ones, got {array.min()} to {array.max()}")
    return array.astype(DTYPES[kind])
