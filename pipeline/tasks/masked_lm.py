"""Predict masked tokens from both sides (BERT, Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.data.packing import blocks
from pipeline.errors import BadRows, ConfigError
from pipeline.tasks.base import IGNORED, Batch, Features, Task
from pipeline.tasks.language import bytes_column, cross_entropy_sum, encode_text, language_columns, text_only, truncated
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.saying import shown

FILLS = 5
"""Tokens that are named for a mask."""


class MaskedLM(Task):
    """Each row is one text cut at `data.max_length`; `data.packing: blocks` joins texts into full blocks instead.

    Of the chosen tokens 80 % become the mask token, 10 % a random one and 10 % stay. What is chosen depends on the
    seed, the epoch and the row alone; evaluation masks the same tokens every time.
    """

    class Config(Section):
        name: str
        mlm_probability: float = Field(0.15, gt=0, lt=1)
        """Share of the tokens to predict; every row has at least one."""

    reads = ("text_column", "packing")
    model_class = "AutoModelForMaskedLM"
    pipeline_tag, purpose = "fill-mask", "fills in the masked words of a text"
    head_modules = ("cls", "lm_head", "vocab_transform", "vocab_layer_norm", "vocab_projector", "predictions")
    main_metric = "loss"

    def problems(self) -> list[str]:
        found = [*super().problems(), *text_only(self.data)]
        if self.data.packing == "best_fit":
            found.append("data.packing: best_fit keeps documents apart for causal_lm; masked_lm takes blocks or none")
        return found

    def columns(self) -> dict[str, Kind]:
        return {self.data.text_column or "text": "text"}  # type: ignore[dict-item]

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        super().use_tokenizer(tokenizer, max_length)
        if tokenizer.mask_token_id is None:
            raise ConfigError(
                "task: masked_lm needs a tokenizer with a mask token, and this one has none; use causal_lm"
            )
        self.special = set(tokenizer.all_special_ids)

    def to_predict(self) -> None:
        super().to_predict()
        self.data = self.data.model_copy(update={"packing": None})

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        (column,) = self.columns()
        if self.packs:
            return encode_text(self.tokenizer, rows[column], end=False)
        features = self.tokenizer(list(rows[column]), verbose=False)
        full = [len(row) for row in features["input_ids"]]
        cut = self.tokenizer(list(rows[column]), truncation=True, max_length=self.max_length)["input_ids"]
        if self.predicting:
            self._refuse_without_mask(column, cut)
        return truncated({"input_ids": cut, "num_bytes": [0.0] * len(cut), "full_length": full}, self.max_length)

    def _refuse_without_mask(self, column: str, rows: Sequence[Sequence[int]]) -> None:
        mask, name = self.tokenizer.mask_token_id, self.tokenizer.mask_token
        sentence = f"{column} has no {name} within {self.max_length} tokens, so there is nothing to fill in"
        if bad := {number: sentence for number, row in enumerate(rows) if mask not in row}:
            raise BadRows(bad)

    @property
    def packs(self) -> bool:
        return self.data.packing == "blocks"

    @property
    def block_size(self) -> int | None:
        return self.max_length if self.packs else None

    def pack(self, batches: Iterator[Features]) -> Iterator[Features]:
        return blocks(batches, block_size=self.max_length) if self.packs else batches

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows, labels = zip(
            *(self._unmasked(feature["input_ids"]) for feature in features)
            if self.predicting
            else (self._masked(feature["input_ids"], draw) for feature, draw in zip(features, draws, strict=True)),
            strict=True,
        )
        return {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": attention_mask(rows),
            "labels": pad(labels, IGNORED),
            "num_bytes": bytes_column(features),
        }

    def _masked(self, row: Sequence[int], draw: np.random.Generator) -> tuple[list[int], list[int]]:
        """One row with its tokens masked, and its labels."""
        ids = np.asarray(row)
        words = np.flatnonzero([token not in self.special for token in row])
        labels = np.full(len(ids), IGNORED)
        if len(words):
            chosen = words[draw.random(len(words)) < self.config.mlm_probability]
            chosen = chosen if len(chosen) else draw.choice(words, 1)
            labels[chosen] = ids[chosen]
            fate = draw.random(len(chosen))
            random_ids = draw.integers(0, len(self.tokenizer), len(chosen))
            ids = ids.copy()
            ids[chosen[fate < 0.8]] = self.tokenizer.mask_token_id
            ids[chosen[fate >= 0.9]] = random_ids[fate >= 0.9]
        return ids.tolist(), labels.tolist()

    def _unmasked(self, row: Sequence[int]) -> tuple[list[int], list[int]]:
        """A row that has its masks already."""
        return list(row), [IGNORED] * len(row)

    def terms(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return cross_entropy_sum(logits, batch["labels"]), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return language_columns(logits, batch["labels"], batch["num_bytes"])

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        """The likeliest tokens of every position, and what they are worth: (batch, max_length, FILLS) each."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scores, ids = logits.float().softmax(-1).topk(min(FILLS, logits.shape[-1]))
        missing = (0, 0, 0, self.max_length - ids.shape[1])
        return {"ids": functional.pad(ids.int(), missing), "scores": functional.pad(scores, missing)}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{fills: [[{token, score}]]}`: for every mask of the text the likeliest tokens, best first."""
        found = []
        for row, ids, scores in zip(features["input_ids"], columns["ids"], columns["scores"], strict=True):
            masks = [place for place, token in enumerate(row) if token == self.tokenizer.mask_token_id]
            found.append({"fills": [self._fills(ids[place], scores[place]) for place in masks]})
        return found

    def _fills(self, ids: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        return [
            {"token": self.tokenizer.decode([int(token)]).strip(), "score": shown(score)}
            for token, score in zip(ids, scores, strict=True)
        ]

    def metrics(self) -> list[str]:
        return ["perplexity", "token_accuracy"]

    def unlearnable(self, features: Any) -> np.ndarray:
        around = 0 if self.packs else self.tokenizer.num_special_tokens_to_add()
        return np.flatnonzero(np.asarray(features["length"]) <= around)

    def trained_positions(self, batch: Batch) -> Tensor:
        return batch["labels"] != IGNORED
