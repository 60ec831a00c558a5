"""How many bytes an evaluation keeps of each row, for the tasks that keep something for every label or every word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn

from pipeline.accelerator import make_accelerator
from pipeline.data import DataConfig
from pipeline.evaluation import evaluate
from pipeline.metrics import METRICS
from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.tasks import TASKS
from tests.kept import count_kept

BATCH = 4


class Fixed(nn.Module):
    """A model of whose inputs only the shape counts: (batch, length, labels) of logits, or (batch, labels)."""

    def __init__(self, labels: int, *, every_token: bool):
        super().__init__()
        self.labels, self.every_token = labels, every_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        shape = input_ids.shape if self.every_token else input_ids.shape[:1]
        return SimpleNamespace(logits=torch.rand((*shape, self.labels)))


def kept_by(task: Any, model: nn.Module, dataset: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Bytes kept until the end, and the result."""
    kept = count_kept(monkeypatch)
    processes = Processes(make_accelerator())
    result = evaluate(
        model,
        task,
        dataset,
        {name: METRICS[name]() for name in task.metrics()},
        rows=rows,
        processes=processes,
        batch_size=BATCH,
        seed=0,
        stop=StopRequest(),
        tune=True,
    )
    monkeypatch.undo()
    return kept[0], result


@pytest.mark.parametrize(("threshold", "each"), [(0.5, 1 + 1), ("auto", 4 + 1)])
def test_a_label_of_a_row_takes_a_byte_or_two(threshold: Any, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multi-label: what is predicted and what is right; scores only where thresholds are chosen from them."""
    labels, count = 28, 12
    config = {"name": "text_classification", "problem_type": "multi_label_classification", "threshold": threshold}
    task = TASKS["text_classification"](TASKS["text_classification"].Config(**config), DataConfig(train_file="none"))
    task.tokenizer = SimpleNamespace(pad_token_id=0)
    names = [f"label {number:02d}" for number in range(labels)]
    rows = {"label": [[names[number], names[number + 12]] for number in range(count)]}
    task.read_labels({"train": {"label": [names]}, "validation": rows}, None)
    targets = [[int(name in row) for name in names] for row in rows["label"]]
    dataset = Dataset.from_dict({"input_ids": [[1, 2]] * count, "length": [2] * count, "label": targets})
    kept, result = kept_by(task, Fixed(labels, every_token=False), dataset, rows, monkeypatch)
    assert kept == (8 + each * labels) * count and result["num_samples"] == count
    assert 0 < result["multilabel_f1_micro"] < 1


def test_a_tag_takes_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch as many as its longest row has tokens, whatever max_length is; joined, rows are of one width."""
    lengths, names = [3, 9, 5, 6, 2, 7], ["B-a", "O"]
    config = {"name": "token_classification"}
    task = TASKS["token_classification"](TASKS["token_classification"].Config(**config), DataConfig(train_file="none"))
    task.tokenizer, task.max_length = SimpleNamespace(pad_token_id=0), 512
    rows = {"tokens": [["a"] * length for length in lengths], "ner_tags": [["B-a", "O"] * 4 + ["O"]] * 6}
    rows["ner_tags"] = [tags[:length] for tags, length in zip(rows["ner_tags"], lengths, strict=True)]
    task.read_labels({"train": rows}, None)
    ids = [[names.index(tag) for tag in tags] for tags in rows["ner_tags"]]
    words = [list(range(length)) for length in lengths]
    features = {"input_ids": ids, "labels": ids, "words": words, "length": lengths, "example": [*range(6)]}
    kept, result = kept_by(task, Fixed(2, every_token=True), Dataset.from_dict(features), rows, monkeypatch)
    assert kept == 8 * 6 + 4 * 9 + 2 * 3  # four rows with the longest of 9 tokens, then two with one of 3
    assert result["num_samples"] == 6 and 0 < result["accuracy"] < 1
