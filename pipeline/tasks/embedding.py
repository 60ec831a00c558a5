"""Learn sentence embeddings: from pairs and triplets with in-batch negatives, or from scored pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, listed
from pipeline.errors import ConfigError, DataError
from pipeline.models.fit import has_class
from pipeline.optim.rules import Rule
from pipeline.tasks.base import Batch, Features, Task
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.ranking import competition, rank_of_positive
from pipeline.tasks.saying import shown_row
from pipeline.tasks.sentence_files import Pooling, pooling_of, write_sentence_files

DEFAULT_SCALE, DEFAULT_GROUP = 20.0, 32
COMPARED = 2**24
"""Pairs of a row and a candidate that are compared at once."""
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Embedding(Task):
    """`data.text_column` names two columns, anchor and positive, or three with a hard negative.

    Without scores the loss is MultipleNegativesRanking (Henderson et al. 2017, section 4.4; sentence-transformers'
    name): cross-entropy of a row's own positive among the positives and negatives of the whole global batch. A
    candidate that is known to be no negative does not compete: the same text as the row's positive, or the positive
    of the same anchor. With `data.label_column`, a score per pair, the loss is the squared difference between the
    cosine similarity and the score brought to 0-1.
    """

    class Config(Section):
        name: str
        pooling: Pooling | None = None
        """`mean` of the last hidden states, or that of the first token; unset: as the sentence-transformers checkpoint
        says, else mean."""
        normalize: bool = True
        """Save the model so that its embeddings have length 1. Training compares by cosine either way."""
        scale: float | None = Field(None, gt=0)
        """What cosine similarities are multiplied with before the cross-entropy; unset: 20."""
        eval_group_size: int | None = Field(None, ge=2)
        """Rows that compete in the loss of an evaluation, consecutive rows of the split; unset: 32. Take the
        train_batch_size to compare it with the training loss. Ranks are always among all rows of the split."""
        score_range: tuple[float, float] | None = None
        """Lowest and highest possible score; unset: 0 and 1."""

    settings_of_scores, settings_of_outputs = ("eval_group_size",), ("normalize",)
    reads = ("text_column", "label_column")
    model_class = "AutoModel"
    pipeline_tag = "sentence-similarity"
    purpose = "turns texts into vectors that are close together when the texts belong together"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.scored = data.label_column is not None
        self.across_rows = not self.scored
        self.main_metric = "spearman" if self.scored else "mrr_at10"
        self.pooling: Pooling = config.pooling or "mean"

    @property
    def text_columns(self) -> list[str]:
        found = listed(self.data.text_column or ["anchor", "positive"])
        return found[:1] if self.predicting else found

    @property
    def new_parameters(self) -> str:
        """A checkpoint of another kind of model may lack the pooler, which this task does not use."""
        return POOLER

    def problems(self) -> list[str]:
        found, config = super().problems(), self.config
        expected = (1,) if self.predicting else (2,) if self.scored else (2, 3)
        if len(self.text_columns) not in expected or len(set(self.text_columns)) < len(self.text_columns):
            wanted = "a list of two columns, [anchor, positive]"
            wanted += " for scored pairs" if self.scored else ", or of three, [anchor, positive, negative]"
            found.append(f"data.text_column: expected {wanted}; got {', '.join(self.text_columns)}")
        others = ("scale", "eval_group_size") if self.scored else ("score_range",)
        for key in () if self.predicting else others:
            if vars(config)[key] is not None:
                needs = "is for pairs without scores" if self.scored else "is for scored pairs (data.label_column)"
                found.append(f"task.{key}: {needs}; leave it out")
        if config.score_range is not None and not config.score_range[0] < config.score_range[1]:
            low, high = config.score_range
            found.append(f"task.score_range: expected [lowest, highest], got [{low:g}, {high:g}]")
        return found

    def columns(self) -> dict[str, Kind]:
        scores: dict[str, Kind] = {str(self.data.label_column): "number"} if self.scored else {}
        return {**dict.fromkeys(self.text_columns, "text"), **scores}

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        if not self.scored:
            return
        low, high = self._score_range
        problems = []
        for name, rows in splits.items():
            scores = np.asarray(rows[self.data.label_column])
            outside = np.flatnonzero((scores < low) | (scores > high))
            if len(outside):
                problems.append(
                    f"task.score_range: {len(outside)} of {len(scores)} {name} scores lie outside [{low:g}, {high:g}] "
                    f"(row {outside[0] + 1} has {scores[outside[0]]:g}; they go from {scores.min():g} to "
                    f"{scores.max():g}); set it to the lowest and highest possible score"
                )
            elif np.ptp(scores) == 0:
                problems.append(
                    f"data.label_column: every {name} row has the same score; there is nothing to learn or to compare"
                )
        if problems:
            raise DataError(problems)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        self.read_labels(splits, None)

    @property
    def _score_range(self) -> tuple[float, float]:
        return self.config.score_range or (0.0, 1.0)

    def facts(self) -> dict[str, Any]:
        return {"pooling": self.pooling}

    def save_processing(self, folder: Path) -> None:
        """The tokenizer, and what sentence-transformers reads beside it."""
        self.tokenizer.padding_side = "right"  # as in training; to the left, positions would shift
        super().save_processing(folder)
        write_sentence_files(folder, pooling=self.pooling, normalize=self.config.normalize, max_length=self.max_length)

    def check(self, model: Any, *, random: bool) -> None:
        config = model.config
        found = None if random else pooling_of(config.name_or_path, vars(config).get("_commit_hash"))
        self.pooling = self.config.pooling or found or "mean"
        if config.is_encoder_decoder:
            raise ConfigError(
                f"model: {config.model_type} has an encoder and a decoder, and an embedding is made by one of them; "
                "choose an encoder such as a BERT"
            )
        one_way = has_class(config, "AutoModelForCausalLM") and not has_class(config, "AutoModelForMaskedLM")
        if self.pooling == "cls" and one_way:
            raise ConfigError(
                f"task.pooling: cls takes the first token, which in {config.model_type} sees none of the others; "
                "use mean"
            )

    def rules(self, model: Any) -> list[Rule]:
        has_pooler = any(".pooler." in f".{name}" for name, _ in model.named_parameters())
        return [Rule(POOLER, 0.0, reason="not used by the task")] if has_pooler else []

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        """The texts of a row one after another, `num_tokens` long each."""
        texts = [list(rows[column]) for column in self.text_columns]
        full = [self.tokenizer(column, verbose=False)["input_ids"] for column in texts]
        inputs = [self.tokenizer(column, truncation=True, max_length=self.max_length) for column in texts]
        features: Features = {
            key: [
                [token for text in row for token in text] for row in zip(*(part[key] for part in inputs), strict=True)
            ]
            for key in ("input_ids", "token_type_ids")
            if key in inputs[0]
        }
        lengths = [[len(text) for text in part["input_ids"]] for part in inputs]
        features["num_tokens"] = [list(row) for row in zip(*lengths, strict=True)]
        features["full_length"] = [sum(map(len, row)) for row in zip(*full, strict=True)]
        if self.scored:
            low, high = self._score_range
            features["label"] = [(score - low) / (high - low) for score in rows[str(self.data.label_column)]]
        return features

    def unlearnable(self, features: Any) -> np.ndarray:
        return np.flatnonzero(np.asarray(features["num_tokens"]).min(1) == 0)

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        """All anchors, then all positives (then all negatives): (texts x rows, longest); the rest is (rows, ...)."""
        texts = _column_by_column(features, "input_ids")
        batch = {"input_ids": pad(texts, self.tokenizer.pad_token_id), "attention_mask": attention_mask(texts)}
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad(_column_by_column(features, "token_type_ids"), 0)
        if self.scored:
            batch["labels"] = torch.tensor([feature["label"] for feature in features], dtype=torch.float32)
        else:
            batch["texts"] = torch.tensor([_number(text) for text in texts]).view(-1, len(features)).T.contiguous()
        return batch

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        cosine = [(" -> ", False), (f"cosine {batch['labels'][row]:.4g}", True)] if self.scored else []
        return [*super().show(batch, row), *cosine]

    def terms(self, batch: Batch) -> int:
        return len(batch["labels" if self.scored else "texts"])

    def represent(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Batch]:
        """Embeddings (rows, texts, width) before they are normalized."""
        inputs = {key: batch[key] for key in MODEL_INPUTS if key in batch}
        hidden = model(**inputs).last_hidden_state.float()
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = batch["attention_mask"][..., None].float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        vectors = pooled.view(-1, self.terms(batch), pooled.shape[-1]).transpose(0, 1)
        return vectors.contiguous(), {key: value for key, value in batch.items() if key not in MODEL_INPUTS}

    def loss_of(self, representations: Tensor, columns: Batch) -> Tensor:
        """Squared error of the cosine, or MultipleNegativesRanking, summed over rows."""
        if self.scored:
            return functional.mse_loss(_cosine(representations), columns["labels"], reduction="sum")
        return self._ranking(representations, columns["texts"]).sum()

    def _ranking(self, vectors: Tensor, texts: Tensor) -> Tensor:
        """(rows,): cross-entropy of each row's positive among the candidates of these rows."""
        rows = torch.arange(len(vectors), device=vectors.device)
        scale = self.config.scale or DEFAULT_SCALE
        return functional.cross_entropy(scale * competition(vectors, texts, rows), rows, reduction="none")

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss of a batch that is whole, and its embeddings (rows, texts, width)."""
        vectors, columns = self.represent(model, batch)
        return self.loss_of(vectors, columns), vectors

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        if self.scored:
            return {"predictions": _cosine(logits), "references": batch["labels"]}
        return {"vectors": logits, "texts": batch["texts"]}

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        """The rank of each row's positive among all candidates of the split, and its loss among those of its group."""
        if self.scored:
            return columns
        vectors, texts = torch.from_numpy(columns["vectors"]), torch.from_numpy(columns["texts"])
        count, size = len(vectors), self.config.eval_group_size or DEFAULT_GROUP
        groups = np.array_split(np.arange(count), -(-count // size))
        losses = [self._ranking(vectors[group], texts[group]) for group in map(torch.from_numpy, groups)]
        ranks = [
            rank_of_positive(vectors, texts, asked) for asked in torch.arange(count).split(max(1, COMPARED // count))
        ]
        return {"rank": torch.cat(ranks).numpy(), "loss": torch.cat(losses).double().numpy()}

    def to_predict(self) -> None:
        """The first text of a row is embedded."""
        super().to_predict()
        self.scored = False

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        vectors = self.represent(model, batch)[0][:, 0]
        return {"vectors": functional.normalize(vectors, dim=-1) if self.config.normalize else vectors}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{embedding}`."""
        return [{"embedding": shown_row(vector)} for vector in columns["vectors"]]

    def metrics(self) -> list[str]:
        return ["pearson", "spearman"] if self.scored else ["retrieval_accuracy", "mrr_at10"]


POOLER = r"(^|\.)pooler\."
"""Parameters of a head for another purpose, which some encoders carry."""


def _cosine(vectors: Tensor) -> Tensor:
    """(rows,): similarity of the two texts of each row."""
    return functional.cosine_similarity(vectors[:, 0], vectors[:, 1], dim=-1)


def _column_by_column(features: Sequence[Mapping[str, Any]], key: str) -> list[list[int]]:
    """The texts of rows, which lie one after another, as one list: all first ones, then all second ones."""
    ends = [np.cumsum([0, *feature["num_tokens"]]) for feature in features]
    columns = range(len(ends[0]) - 1)
    return [
        feature[key][end[column] : end[column + 1]]
        for column in columns
        for feature, end in zip(features, ends, strict=True)
    ]


def _number(text: Sequence[int]) -> int:
    """A number that stands for a text: the same for the same tokens."""
    digest = hashlib.blake2b(np.asarray(text, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
