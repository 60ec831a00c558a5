"""What an evaluation keeps, over how many examples it is, and how sure its numbers are."""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn

from pipeline.accelerator import make_accelerator
from pipeline.bootstrap import intervals
from pipeline.errors import ConfigError
from pipeline.evaluation import evaluate, refuse_misfits
from pipeline.metrics import METRICS
from pipeline.processes import Processes
from pipeline.stopping import Stopped, StopRequest
from pipeline.tasks.base import TOGETHER
from tests.kept import count_kept

VOCABULARY, LENGTH, BATCH = 5000, 16, 4


class Wide:
    """A task whose logits are far larger than what its metrics need, with three windows per example."""

    across_rows = False

    def __init__(self) -> None:
        self.logits: list[weakref.ref[Tensor]] = []

    def collate(self, features: Any, draws: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros((len(features), LENGTH), dtype=torch.long)}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        alive = sum(reference() is not None for reference in self.logits)
        assert not alive, f"the logits of {alive} earlier batches are still in memory"
        logits = torch.zeros((*batch["input_ids"].shape, VOCABULARY))
        self.logits.append(weakref.ref(logits))
        return logits.sum() + len(logits), logits

    def postprocess(self, logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"predictions": logits[:, 0].argmax(-1), "references": batch["input_ids"][:, 0], "view": logits[:, 0, 0]}

    def generate(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {}

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        return {key: value[::3] for key, value in columns.items()}

    def terms(self, batch: dict[str, Tensor]) -> int:
        return len(batch["input_ids"])


def scored(rows: int, monkeypatch: pytest.MonkeyPatch, task: Wide | None = None) -> tuple[int, dict[str, float], int]:
    """Bytes kept until the end, the result, and the number of batches."""
    kept = count_kept(monkeypatch)
    dataset = SimpleNamespace(length=[LENGTH] * rows)
    task, processes = task or Wide(), Processes(make_accelerator())
    result = evaluate(
        nn.Linear(1, 1),
        task,  # type: ignore[arg-type]
        type("Rows", (), {"__getitem__": lambda self, key: dataset.length if key == "length" else {}})(),
        {"accuracy": METRICS["accuracy"]()},
        rows=None,
        processes=processes,
        batch_size=BATCH,
        seed=0,
        stop=StopRequest(),
    )
    monkeypatch.undo()
    return kept[0], result, len(task.logits)


def test_no_logits_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: three numbers of 8 bytes and one of 4 per row, and no logit of an earlier batch beside the next one."""
    for rows in (12, 60):
        kept, result, batches = scored(rows, monkeypatch)
        assert kept == (3 * 8 + 4) * rows < LENGTH * VOCABULARY
        assert batches == rows // BATCH and result["loss"] == 1
        assert result["num_samples"] == rows / 3 and result["accuracy"] == 1


class OnDevice(Tensor):
    """A tensor as if on an accelerator: what is made of it is there too, until it is brought to the processor."""

    alive: ClassVar[weakref.WeakSet[Tensor]] = weakref.WeakSet()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu or (func is Tensor.to and "cpu" in args):
            return found.as_subclass(Tensor)
        if isinstance(found, OnDevice):
            cls.alive.add(found)
        return found


class Vectors(Wide):
    """A task that keeps whole vectors of every row, as retrieval does."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[int] = []

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.held.append(sum(tensor.numel() for tensor in OnDevice.alive))
        logits = torch.rand((len(batch["input_ids"]), 3, 64)).as_subclass(OnDevice)
        return torch.tensor(float(len(logits))), logits

    def postprocess(self, logits: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "predictions": batch["input_ids"][:, 0],
            "references": batch["input_ids"][:, 0],
            "vectors": logits[:, :2],
        }


def test_what_is_kept_of_a_row_is_kept_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: before a batch the device holds at most what is kept of the last one, however many there were."""
    for rows in (12, 60):
        task = Vectors()
        kept, result, _ = scored(rows, monkeypatch, task)
        assert len(task.held) == rows // BATCH and max(task.held) <= BATCH * 2 * 64
        assert result["num_samples"] == rows / 3
        assert kept > rows * 2 * 64 * 4


def test_rows_on_the_processor_are_gathered_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the device, which would hold the whole split then; rows of padding are left out.

    The other process has two rows, of two values each where this one's have one: -1 stands in the second place here.
    """
    accelerator = make_accelerator()
    processes = Processes(accelerator)
    processes.count = 2

    def everyone(parts: list[Tensor], own: Tensor, group: Any) -> None:
        for rank, part in enumerate(parts):
            part.copy_(own + 10 * rank)

    monkeypatch.setattr(accelerator, "gather", lambda value: pytest.fail("gathered on the device"))
    monkeypatch.setattr(processes, "share", lambda text: [text, str([2, 2][: len(json.loads(text))])])
    monkeypatch.setattr(distributed, "all_gather", everyone)
    own = {"row": torch.tensor([2, 0, 1]), "value": torch.tensor([[2.0], [0.0], [1.0]])}
    found = processes.in_row_order(own)
    assert found["row"].tolist() == [0, 1, 2, 10, 12]
    assert found["value"].tolist() == [[0, -1], [1, -1], [2, -1], [10, 9], [12, 9]]


def never() -> None:
    pass


def test_intervals_are_those_of_the_statistic() -> None:
    """The interval of a share is the binomial's; texts are drawn like numbers; the same seed gives the same ends."""
    hits = np.arange(200) < 140
    columns = {"predictions": hits.astype("i8"), "references": np.ones(200, "i8"), "unused": ["x"] * 200}
    metrics = {"accuracy": METRICS["accuracy"]()}
    found = intervals(metrics, columns, 2000, 0, poll=never)
    spread = 1.96 * np.sqrt(0.7 * 0.3 / 200)
    assert found["accuracy"] == pytest.approx([0.7 - spread, 0.7 + spread], abs=0.01)
    assert intervals(metrics, columns, 2000, 0, poll=never) == found
    assert intervals(metrics, columns, 2000, 1, poll=never) != found


def test_words_of_a_sentence_are_drawn_together() -> None:
    """Sentences all right or all wrong: as many words tell no more than as many sentences, and the interval says so."""
    right = np.repeat(np.arange(50) < 35, 20)
    columns = {"predictions": right.astype("i8"), "references": np.ones(1000, "i8")}
    metrics = {"accuracy": METRICS["accuracy"]()}
    together = {**columns, TOGETHER: np.repeat(np.arange(50), 20)}
    low, high = intervals(metrics, together, 2000, 0, poll=never)["accuracy"] or [0, 0]
    spread = 1.96 * np.sqrt(0.7 * 0.3 / 50)
    assert [low, high] == pytest.approx([0.7 - spread, 0.7 + spread], abs=0.02)
    alone = intervals(metrics, columns, 200, 0, poll=never)["accuracy"] or [0, 1]
    assert high - low > 3 * (alone[1] - alone[0])


def test_intervals_of_a_metric_of_texts_and_of_one_that_may_be_undefined() -> None:
    import datasets
    import evaluate as library

    class Same(library.Metric):
        """Share of equal texts."""

        def _info(self) -> Any:
            features = datasets.Features({key: datasets.Value("string") for key in ("texts", "targets")})
            return library.MetricInfo(description="", citation="", inputs_description="", features=features)

        def _compute(self, texts: list[str], targets: list[str]) -> dict[str, float]:
            return {"same": sum(a == b for a, b in zip(texts, targets, strict=True)) / len(texts)}

    columns = {"texts": list("abcd"), "targets": list("abxx"), "predictions": [1.0, 2.0, 3.0, 4.0]}
    columns["references"] = [0.0, 0.0, 0.0, 1.0]  # of four drawn, about a third have no 1 among them
    metrics = {"same": Same(keep_in_memory=True), "pearson": METRICS["pearson"]()}
    found = intervals(metrics, columns, 100, 0, poll=never)
    low, high = found["same"] or [0, 0]
    assert 0 <= low < 0.5 < high <= 1 and found["pearson"] is None


def test_a_stop_is_heard_between_draws() -> None:
    asked = iter([False, True])

    def poll() -> None:
        if next(asked):
            raise Stopped(15)

    with pytest.raises(Stopped):
        intervals({"accuracy": METRICS["accuracy"]()}, {"predictions": [1], "references": [1]}, 100, 0, poll=poll)


def test_metrics_for_other_outputs_are_refused_before_training() -> None:
    own = {name: METRICS[name]() for name in ("accuracy", "f1_macro")}
    refuse_misfits(own, {"matthews_correlation": METRICS["matthews_correlation"]()})
    with pytest.raises(ConfigError, match=r"bleu is for predictions \(text\)") as caught:
        refuse_misfits(own, {name: METRICS[name]() for name in ("bleu", "multilabel_accuracy", "f1")})
    assert len(caught.value.problems) == 2
