"""Classify a text or a pair of texts: one label, several labels, or a number."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, listed
from pipeline.errors import DataError
from pipeline.tasks.base import Batch, Features, Task
from pipeline.tasks.labels import check_labels, choose_labels, named_labels, recall_labels, refuse_fractions
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.saying import shown, shown_row
from pipeline.tasks.scaling import Scaling, check_head, fold
from pipeline.tasks.thresholds import KEPT, best_thresholds, thresholds_note

logger = logging.getLogger("graft")
Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


class TextClassification(Task):
    """`data.text_column` names the text (or a list of two for pairs), `data.label_column` the label."""

    class Config(Section):
        name: str
        problem_type: Problem = "single_label_classification"
        """One label per row, a list of labels per row, or a number."""
        threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = KEPT
        """Multi-label: a label is predicted when its probability is above this. `auto`: above the threshold that gives
        the label its best F1 on the validation rows."""
        label_scaling: Literal["none", "standard"] = "none"
        """Regression: `standard` learns labels less their mean, over their standard deviation (both of the training
        rows). Metrics and the saved model speak the labels' own unit all the same."""

    settings_of_scores, settings_of_outputs = ("threshold",), ("threshold",)  # it is saved with the model
    reads = ("text_column", "label_column", "label_names")
    model_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    head_modules = ("classifier", "pre_classifier", "score", "classification_head", "sequence_summary", "pooler")

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.label_names: list[str] = []
        self.label_ids: dict[str, int] = {}
        self.thresholds = np.zeros(0)
        self.not_tuned: list[str] = []
        self.scaling = Scaling()
        self.main_metric = {
            "single_label_classification": "accuracy",
            "multi_label_classification": "multilabel_f1_macro",
            "regression": "spearman",
        }[config.problem_type]
        self.purpose = {
            "single_label_classification": "says which of several classes a text belongs to",
            "multi_label_classification": "says which of several labels apply to a text, any number of them",
            "regression": "gives a text a number",
        }[config.problem_type]

    @property
    def text_columns(self) -> list[str]:
        return listed(self.data.text_column or "text")

    @property
    def label_column(self) -> str:
        return self.data.label_column or "label"

    def problems(self) -> list[str]:
        found = super().problems()
        if not 1 <= len(self.text_columns) <= 2:
            found.append(f"data.text_column: expected one column or a list of two, got {self.text_columns}")
        if self.config.problem_type == "regression" and self.data.label_names:
            found.append("data.label_names: a regression has numbers, no label names; leave it out")
        if self.config.problem_type != "multi_label_classification" and self.config.threshold != KEPT:
            found.append("task.threshold: is for problem_type multi_label_classification; leave it out")
        if self.config.problem_type != "regression" and self.config.label_scaling != "none":
            found.append("task.label_scaling: is for problem_type regression; leave it out")
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
            self.scaling = Scaling.of(splits["train"][self.label_column], self.config.label_scaling)
            return
        labels = splits["train"][self.label_column]
        if self.data.label_names is None and checkpoint_labels is None:
            refuse_fractions(labels)
        self.label_names, self.label_ids = choose_labels(labels, self.data.label_names, checkpoint_labels)
        check_labels(splits, self.label_column, self.label_ids, self.data)
        if self.tunes:
            self._plan_thresholds(splits)
        elif self.config.problem_type == "multi_label_classification":
            self.thresholds = np.full(len(self.label_names), self.config.threshold)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        if self.config.problem_type == "regression":
            if self.config.label_scaling == "standard":
                self.scaling = Scaling(**settings["label_scaling"], standard=True, folded=True)
            return
        self.label_names, self.label_ids = recall_labels(settings, splits, self.label_column, self.data)
        if self.config.problem_type == "multi_label_classification":
            same = self.config.threshold != "auto"
            number = self.config.threshold if same else KEPT
            found = None if same else settings.get("label_thresholds")
            self.thresholds = np.array(found or [number] * len(self.label_names))

    def _plan_thresholds(self, splits: Mapping[str, Any]) -> None:
        if "validation" not in splits:
            raise DataError(
                "task.threshold: auto chooses thresholds on validation rows, and there are none; give "
                "data.validation_file, data.dataset_validation_split or data.validation_split_fraction, or a number"
            )
        seen = {self.label_ids[label] for row in splits["validation"][self.label_column] for label in row}
        self.not_tuned = [name for index, name in enumerate(self.label_names) if index not in seen]
        self.thresholds = np.full(len(self.label_names), KEPT)
        if self.not_tuned:
            logger.warning(self.notes()[0])

    def check(self, model: nn.Module, *, random: bool) -> None:
        if self.scaling.standard and not self.scaling.folded:
            check_head(model, self.head_modules, trained=not random)

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
            return self._squared_errors(logits, labels).sum(), logits
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1).sum(), logits

    def _squared_errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        said = self.scaling.learned(logits.squeeze(-1))
        return functional.mse_loss(said, self.scaling.apply(labels), reduction="none")

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        if self.config.problem_type == "multi_label_classification":  # kept for every label of every row: small
            scores, references = logits.sigmoid(), batch["labels"].to(torch.int8)
            return {**({"scores": scores} if self.tunes else self._chosen(scores)), "references": references}
        whole = self.config.problem_type == "single_label_classification"
        predictions = logits.argmax(-1) if whole else self.scaling.undo(logits.squeeze(-1))
        return {"predictions": predictions, "references": batch["labels"]}

    @property
    def tunes(self) -> bool:
        return bool(self.config.threshold == "auto")

    def tune(self, columns: dict[str, np.ndarray]) -> None:
        if self.tunes:
            self.thresholds = best_thresholds(columns["scores"], columns["references"])

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        if not self.tunes:
            return columns
        chosen = self._chosen(torch.from_numpy(columns["scores"]))
        return {**columns, "predictions": chosen["predictions"].numpy()}

    def _chosen(self, scores: Tensor) -> Batch:
        """The labels above their thresholds."""
        thresholds = torch.as_tensor(self.thresholds, device=scores.device)
        return {"predictions": (scores > thresholds).to(torch.int8)}

    def exported(self, model: nn.Module) -> nn.Module:
        """The head in the labels' unit; `label_thresholds`, or the unit of the loss, in the config of the model."""
        if self.scaling.standard and not self.scaling.folded:
            fold(model, self.head_modules, self.scaling)
        settings = vars(model.config)
        for key in ("label_thresholds", "label_scaling"):
            settings.pop(key, None)  # of the checkpoint that this one was made from
        if self.scaling.standard:
            settings["label_scaling"] = {"mean": self.scaling.mean, "std": self.scaling.std}
        if self.config.problem_type == "multi_label_classification":
            settings["label_thresholds"] = self.thresholds.tolist()
        return model

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        kind = self.config.problem_type
        label = 0.0 if kind == "regression" else self.label_names[0]
        cell = [label] if kind == "multi_label_classification" else label
        return {self.label_column: [cell for _ in rows[self.text_columns[0]]]}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        _, logits = self.loss(model, batch)
        sure = {} if self.config.problem_type == "regression" else {"score": logits.softmax(-1).amax(-1)}
        return {**self.postprocess(logits, batch), **sure}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{label, score}`; of several labels those above their threshold, with the scores of all; or the number."""
        if self.config.problem_type == "regression":
            return [{"label": shown(value)} for value in columns["predictions"]]
        if self.config.problem_type == "single_label_classification":
            pairs = zip(columns["predictions"], columns["score"], strict=True)
            return [{"label": self.label_names[label], "score": shown(score)} for label, score in pairs]
        found = self.examples(columns, rows, features)["predictions"]
        return [
            {
                "labels": [name for name, chosen in zip(self.label_names, row, strict=True) if chosen],
                "scores": dict(zip(self.label_names, shown_row(scores), strict=True)),
            }
            for row, scores in zip(found, columns["scores"], strict=True)
        ]

    def notes(self) -> list[str]:
        if self.config.problem_type == "regression":
            return [self.scaling.note()]
        return [thresholds_note(self.not_tuned)] if self.tunes else []

    def facts(self) -> dict[str, Any]:
        if self.config.problem_type == "regression":
            scaling = {"mean": self.scaling.mean, "std": self.scaling.std}
            return {"label_scaling": scaling if self.scaling.standard else None}
        return {"label_thresholds": self.thresholds.tolist()} if len(self.thresholds) else {}

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        labels = batch["labels"][row]
        if self.config.problem_type == "regression":
            answer = f"{labels:g}"
        elif self.config.problem_type == "single_label_classification":
            answer = self.label_names[labels]
        else:
            answer = ", ".join(name for name, given in zip(self.label_names, labels, strict=True) if given)
        return [*super().show(batch, row), (" -> ", False), (answer, True)]

    def metrics(self) -> list[str]:
        if self.config.problem_type == "regression":
            return ["pearson", "spearman", "mse"]
        if self.config.problem_type == "multi_label_classification":
            return ["multilabel_accuracy", "multilabel_f1_macro", "multilabel_f1_micro"]
        binary = ["f1"] if len(self.label_names) == 2 else []
        return ["accuracy", "f1_macro", *binary, "matthews_correlation"]
