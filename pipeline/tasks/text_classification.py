"""Classify a text or a pair of texts: one label, several labels, or a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.errors import DataError
from pipeline.tasks.base import Batch, Features, Task, attention_mask, pad
from pipeline.tasks.labels import check_labels, choose_labels, named_labels

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


class TextClassification(Task):
    """`data.text_column` names the text (or a list of two for pairs), `data.label_column` the label."""

    class Config(Section):
        name: str
        problem_type: Problem = "single_label_classification"
        """One label per row, a list of labels per row, or a number."""
        threshold: float = 0.5
        """Multi-label: a label is predicted when its probability is above this."""

    reads = ("text_column", "label_column", "label_names")
    model_class = "AutoModelForSequenceClassification"
    head_modules = ("classifier", "pre_classifier", "score", "classification_head", "sequence_summary", "pooler")

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.label_names: list[str] = []
        self.label_ids: dict[str, int] = {}
        self.main_metric = {
            "single_label_classification": "accuracy",
            "multi_label_classification": "multilabel_f1_macro",
            "regression": "spearman",
        }[config.problem_type]

    @property
    def text_columns(self) -> list[str]:
        columns = self.data.text_column or "text"
        return [columns] if isinstance(columns, str) else list(columns)

    @property
    def label_column(self) -> str:
        return self.data.label_column or "label"

    def problems(self) -> list[str]:
        found = super().problems()
        if not 1 <= len(self.text_columns) <= 2:
            found.append(f"data.text_column: expected one column or a list of two, got {self.text_columns}")
        if self.config.problem_type == "regression" and self.data.label_names:
            found.append("data.label_names: a regression has numbers, no label names; leave it out")
        return found

    def columns(self) -> dict[str, Kind]:
        kinds: dict[Problem, Kind] = {
            "single_label_classification": "label",
            "multi_label_classification": "labels",
            "regression": "number",
        }
        return {**dict.fromkeys(self.text_columns, "text"), self.label_column: kinds[self.config.problem_type]}

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        if self.config.problem_type == "regression":
            same = [name for name, rows in splits.items() if len(set(rows[self.label_column])) < 2]
            if same:
                raise DataError(
                    f"data.label_column: every {' and '.join(same)} row has the same number in {self.label_column!r}; "
                    "there is nothing to learn or to compare"
                )
            return
        labels = splits["train"][self.label_column]
        self.label_names, self.label_ids = choose_labels(labels, self.data.label_names, checkpoint_labels)
        check_labels(splits, self.label_column, self.label_ids, self.data)

    def model_kwargs(self) -> dict[str, Any]:
        if self.config.problem_type == "regression":
            return {"num_labels": 1, "problem_type": "regression"}
        return {**named_labels(self.label_names), "problem_type": self.config.problem_type}

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        texts = [list(rows[column]) for column in self.text_columns]
        full = self.tokenizer(*texts, verbose=False)["input_ids"]
        inputs = self.tokenizer(*texts, truncation=True, max_length=self.max_length)
        features = {key: inputs[key] for key in ("input_ids", "token_type_ids") if key in inputs}
        return {**features, "full_length": [len(row) for row in full], "label": self._targets(rows[self.label_column])}

    def _targets(self, labels: Sequence[Any]) -> list[Any]:
        """Label names to what the loss wants: an id, a 0/1 row per label, or the number itself."""
        if self.config.problem_type == "regression":
            return [float(label) for label in labels]
        if self.config.problem_type == "single_label_classification":
            return [self.label_ids[label] for label in labels]
        chosen = [{self.label_ids[label] for label in row} for row in labels]
        return [[int(index in row) for index in range(len(self.label_names))] for row in chosen]

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        whole = self.config.problem_type == "single_label_classification"
        batch = {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": attention_mask(rows),
            "labels": torch.tensor(
                [feature["label"] for feature in features], dtype=torch.long if whole else torch.float32
            ),
        }
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad([feature["token_type_ids"] for feature in features], 0)
        return batch

    def terms(self, batch: Batch) -> int:
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy; binary cross-entropy averaged over the labels of a row; squared error. Summed over rows."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits, labels = model(**inputs).logits.float(), batch["labels"]
        if self.config.problem_type == "single_label_classification":
            return functional.cross_entropy(logits, labels, reduction="sum"), logits
        if self.config.problem_type == "regression":
            return functional.mse_loss(logits.squeeze(-1), labels, reduction="sum"), logits
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum(), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        predictions = {
            "single_label_classification": lambda: logits.argmax(-1),
            "multi_label_classification": lambda: (logits.sigmoid() > self.config.threshold).long(),
            "regression": lambda: logits.squeeze(-1),
        }[self.config.problem_type]()
        references = batch["labels"]
        if self.config.problem_type == "multi_label_classification":
            references = references.long()
        return {"predictions": predictions, "references": references}

    def metrics(self) -> list[str]:
        if self.config.problem_type == "regression":
            return ["pearson", "spearman", "mse"]
        if self.config.problem_type == "multi_label_classification":
            return ["multilabel_accuracy", "multilabel_f1_macro", "multilabel_f1_micro"]
        binary = ["f1"] if len(self.label_names) == 2 else []
        return ["accuracy", "f1_macro", *binary, "matthews_correlation"]
