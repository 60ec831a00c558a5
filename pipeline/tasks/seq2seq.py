"""From one text to another with an encoder-decoder: translation, summaries, texts from data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor, nn

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.errors import ConfigError
from pipeline.models.fit import position_limit
from pipeline.tasks import generation
from pipeline.tasks.base import IGNORED, Batch, Features, Task
from pipeline.tasks.generation import GenerateConfig
from pipeline.tasks.language import bytes_column, cross_entropy_sum, language_columns, text_only
from pipeline.tasks.padding import attention_mask, pad

MAX_TARGET_LENGTH = 128


class Seq2Seq(Task):
    """`data.text_column` is read by the encoder, `data.target_column` and its EOS are learned by the decoder.

    The loss is teacher-forced: each target token is predicted from the true ones before it. A target that does not fit
    is cut at the end and then has no EOS. At evaluation the target is also written out, unless `generate: false`.
    """

    class Config(Section):
        name: str
        source_prefix: str = ""
        """Text put before every source, such as T5's "translate English to German: "."""
        max_target_length: int | None = Field(None, ge=2)
        """Tokens a target is cut to; unset: 128, or what the model takes. data.max_length is for the source."""
        generate: GenerateConfig | None = GenerateConfig()
        """How targets are written at evaluation; false: only the loss and what follows from it are measured."""

    settings_of_scores = ("generate",)
    reads = ("text_column", "target_column")
    model_class = "AutoModelForSeq2SeqLM"
    pipeline_tag, purpose = "text2text-generation", "writes the target text that belongs to a source text"
    main_metric = "loss"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.max_target_length = 0
        self.decoder_start = 0

    def problems(self) -> list[str]:
        found = [*super().problems(), *text_only(self.data), *generation.problems(self.config.generate)]
        if self.target_column == self.source_column:
            found.append(f"data.target_column: {self.target_column!r} is the source too; name the column to learn")
        return found

    def problems_within(self, config: Any) -> list[str]:
        writes = self.config.generate is not None
        off, on = "set task.generate: false", "take task.generate: false out"
        return generation.problems_within(config, writes=writes, scores=writes, off=off, on=on)

    @property
    def source_column(self) -> str:
        return str(self.data.text_column or "text")

    @property
    def target_column(self) -> str:
        return self.data.target_column or "target"

    def columns(self) -> dict[str, Kind]:
        return {self.source_column: "text", self.target_column: "text"}

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        super().use_tokenizer(tokenizer, max_length)
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "task: seq2seq needs a tokenizer with an EOS token, which ends a target; this one has none"
            )

    def check(self, model: Any, *, random: bool) -> None:
        config = model.config
        limit = position_limit(config)
        asked = self.config.max_target_length
        if limit is not None and asked is not None and asked > limit:
            raise ConfigError(f"task.max_target_length: {asked} is more than this model's {limit} positions")
        self.max_target_length = asked or min(MAX_TARGET_LENGTH, limit or MAX_TARGET_LENGTH)
        if limit is not None and self.config.generate is not None and self.width > limit:
            raise ConfigError(f"task.generate.max_new_tokens: {self.width} is more than this model's {limit} positions")
        start = config.to_dict().get("decoder_start_token_id")
        if start is None:
            raise ConfigError(
                f"model: the config of this {config.model_type} has no decoder_start_token_id, so nothing says what a "
                "target begins with; add it to its config.json (or to model.config)"
            )
        self.decoder_start = start

    @property
    def width(self) -> int:
        """Tokens written at most."""
        assert self.config.generate is not None
        return self.config.generate.max_new_tokens or self.max_target_length

    def processing(self) -> str:
        return f"{super().processing()} {self.max_target_length}"

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        sources = [f"{self.config.source_prefix}{text}" for text in rows[self.source_column]]
        targets, eos = list(rows[self.target_column]), self.tokenizer.eos_token_id
        full = self.tokenizer(sources, verbose=False)["input_ids"]
        cut = self.tokenizer(sources, truncation=True, max_length=self.max_length)["input_ids"]
        labels = self.tokenizer(text_target=targets, verbose=False)["input_ids"]
        labels = [row if row and row[-1] == eos else [*row, eos] for row in labels]
        kept = [row[: self.max_target_length] for row in labels]
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in targets]
        return {
            "input_ids": cut,
            "target_ids": kept,
            "num_bytes": [size * len(k) / len(a) for size, k, a in zip(sizes, kept, labels, strict=True)],
            "length": [len(source) + len(target) for source, target in zip(cut, kept, strict=True)],
            "full_length": [len(source) + len(target) for source, target in zip(full, labels, strict=True)],
        }

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        sources = [feature["input_ids"] for feature in features]
        targets = [feature["target_ids"] for feature in features]
        padding = self.tokenizer.pad_token_id
        return {
            "input_ids": pad(sources, padding),
            "attention_mask": attention_mask(sources),
            # what has come before each target token; behind the end stands padding, which nothing looks back at
            "decoder_input_ids": pad([[self.decoder_start, *target[:-1]] for target in targets], padding),
            "labels": pad(targets, IGNORED),
            "num_bytes": bytes_column(features),
            **generation.sampling_seeds(self.config.generate, draws),
        }

    def terms(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "decoder_input_ids")}
        logits = model(**inputs, use_cache=False).logits
        return cross_entropy_sum(logits, batch["labels"]), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return language_columns(logits, batch["labels"], batch["num_bytes"])

    def generate(self, model: nn.Module, batch: Batch) -> Batch:
        if self.config.generate is None:
            return {}
        written = generation.write(
            model,
            self.config.generate,
            {key: batch[key] for key in ("input_ids", "attention_mask")},
            tokenizer=self.tokenizer,
            width=self.width,
            seeds=generation.seeds_of(batch),
            decoder_start=self.decoder_start,
        )
        return {"written": written}

    def to_predict(self) -> None:
        super().to_predict()
        self.config.generate = self.config.generate or GenerateConfig()

    def asked(self) -> list[str]:
        return [self.source_column]

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        return {self.target_column: ["" for _ in rows[self.source_column]]}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        return self.generate(model, batch)

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{generated_text}`."""
        return [{"generated_text": text} for text in generation.texts_of(columns["written"], self.tokenizer)]

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        if self.config.generate is None:
            return columns
        texts = generation.texts_of(columns["written"], self.tokenizer)
        return {**columns, "predictions": texts, "references": self.references(rows)}

    def references(self, rows: Any) -> list[str] | None:
        return None if self.config.generate is None else list(rows[self.target_column])

    def metrics(self) -> list[str]:
        return ["perplexity", "token_accuracy", *(["exact_match"] if self.config.generate else [])]

    def unlearnable(self, features: Any) -> np.ndarray:
        """A source without a token gives the encoder nothing to read; every target has its EOS at least."""
        return np.flatnonzero(np.array([not row for row in features["input_ids"]], dtype=bool))

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        target = batch["labels"][row]
        pieces = self.tokenizer.convert_ids_to_tokens(target[target != IGNORED].tolist())
        return [*super().show(batch, row), (" -> ", False), *((piece, True) for piece in pieces)]
