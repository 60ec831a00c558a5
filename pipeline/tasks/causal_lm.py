"""Predict the next token: plain text, or a response to a prompt with the loss on the response only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.data.packing import blocks
from pipeline.tasks import generation
from pipeline.tasks.base import IGNORED, Batch, Features, Task, attention_mask, pad
from pipeline.tasks.generation import MAX_NEW_TOKENS, GenerateConfig
from pipeline.tasks.language import (
    bytes_column,
    cross_entropy_sum,
    encode_text,
    language_columns,
    predicted,
    text_only,
    truncated,
)


class CausalLM(Task):
    """Plain text is packed into blocks of `data.max_length` tokens unless `data.packing: none`.

    With `data.prompt_column` and `data.response_column` a row is prompt + separator + response + EOS, and only the
    response and its EOS are learned. A response that does not fit is cut at the end; a prompt never is.
    """

    class Config(Section):
        name: str
        separator: str = "\n"
        """Between prompt and response."""
        generate: GenerateConfig | None = None
        """Write a response to every prompt at evaluation, with these settings."""
        sample_prompts: list[str] = []
        """Texts the model goes on from at every evaluation; they are printed and kept in metrics.jsonl."""

    reads = ("text_column", "prompt_column", "response_column", "packing")
    model_class = "AutoModelForCausalLM"
    main_metric = "loss"

    @property
    def prompted(self) -> bool:
        """Rows are prompt and response rather than plain text."""
        return self.data.prompt_column is not None

    def problems(self) -> list[str]:
        found = [*super().problems(), *text_only(self.data)]
        if self.prompted != (self.data.response_column is not None):
            given = "prompt_column" if self.prompted else "response_column"
            found.append(f"data.{given}: prompt_column and response_column go together; give both or neither")
        if self.prompted and self.data.packing:
            found.append(f"data.packing: {self.data.packing} packs plain text; rows of prompt and response stay apart")
        if self.prompted and self.data.text_column:
            found.append("data.text_column: is for plain text; give it or prompt_column and response_column, not both")
        found += generation.problems(self.config.generate)
        if self.config.generate and not self.prompted and not self.config.sample_prompts:
            found.append(
                "task.generate: rows of plain text have no prompt to answer; give data.prompt_column and "
                "data.response_column, or task.sample_prompts"
            )
        return found

    def problems_within(self, config: Any) -> list[str]:
        writes = self.answers or bool(self.config.sample_prompts)
        off = "leave task.generate and task.sample_prompts out"
        on = "give task.generate, with data.prompt_column and data.response_column"
        return generation.problems_within(config, writes=writes, scores=self.answers, off=off, on=on)

    @property
    def answers(self) -> bool:
        """A response is written for every row at evaluation."""
        return self.config.generate is not None and self.prompted

    def columns(self) -> dict[str, Kind]:
        if self.prompted:
            return {str(self.data.prompt_column): "text", str(self.data.response_column): "text"}
        return {self.data.text_column or "text": "text"}  # type: ignore[dict-item]

    def check(self, model: Any, *, random: bool) -> None:
        config = model.config
        prompts = self._sample_prompts() if self.config.sample_prompts else []
        longest = self.max_length if self.answers else 0
        generation.check_room(self.tokenizer, config, prompts=prompts, longest=longest, width=self.width)

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        if self.prompted:
            return self._encode_pairs(*(list(rows[column]) for column in self.columns()))
        (column,) = self.columns()
        features = encode_text(self.tokenizer, rows[column], end=True)
        return features if self.packs else predicted(truncated(features, self.max_length), self.tokenizer.bos_token_id)

    def _encode_pairs(self, prompts: list[str], responses: list[str]) -> Features:
        """Prompt and response are tokenized apart, so that no token straddles the border of what is learned."""
        eos = self.tokenizer.eos_token_id
        heads = self.tokenizer([prompt + self.config.separator for prompt in prompts], verbose=False)["input_ids"]
        tails = self.tokenizer(responses, add_special_tokens=False, verbose=False)["input_ids"]
        features: Features = {"input_ids": [], "num_prompt_tokens": [], "num_bytes": [], "full_length": []}
        for head, tail, response in zip(heads, tails, responses, strict=True):
            head = head[:-1] if head and head[-1] == eos else head
            tail = tail if eos is None else [*tail, eos]
            kept = max(0, min(len(tail), self.max_length - len(head)))
            features["input_ids"].append(head + tail[:kept])
            features["num_prompt_tokens"].append(len(head))
            features["num_bytes"].append(len(response.encode("utf-8", "surrogatepass")) * kept / max(1, len(tail)))
            features["full_length"].append(len(head) + len(tail))
        return features

    @property
    def packs(self) -> bool:
        return not self.prompted and self.data.packing != "none"

    def pack(self, batches: Iterator[Features]) -> Iterator[Features]:
        return blocks(batches, block_size=self.max_length) if self.packs else batches

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        mask = attention_mask(rows)
        input_ids = pad(rows, self.tokenizer.pad_token_id)
        labels = torch.where(mask.bool(), input_ids, IGNORED)
        if self.prompted:
            prompts = torch.tensor([feature["num_prompt_tokens"] for feature in features])
            labels[torch.arange(labels.shape[1])[None, :] < prompts[:, None]] = IGNORED
        labels[:, 0] = IGNORED  # nothing comes before the first token
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": labels,
            "num_bytes": bytes_column(features),
            **generation.sampling_seeds(self.config.generate if self.answers else None, draws),
        }

    def terms(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
        return cross_entropy_sum(logits[:, :-1], batch["labels"][:, 1:]), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return language_columns(logits[:, :-1], batch["labels"][:, 1:], batch["num_bytes"])

    @property
    def width(self) -> int:
        """Tokens written at most."""
        settings = self.config.generate or GenerateConfig()
        return settings.max_new_tokens or MAX_NEW_TOKENS

    def generate(self, model: nn.Module, batch: Batch) -> Batch:
        if not self.answers:
            return {}
        prompts = generation.prompts_of(batch, self.tokenizer.pad_token_id)
        more = {"tokenizer": self.tokenizer, "width": self.width, "seeds": generation.seeds_of(batch)}
        return {"written": generation.write(model, self.config.generate, prompts, **more)}

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        if not self.answers:
            return columns
        texts = generation.texts_of(columns["written"], self.tokenizer)
        return {**columns, "predictions": texts, "references": list(rows[self.data.response_column])}

    def samples(self, model: nn.Module) -> list[tuple[str, str]]:
        if not self.config.sample_prompts:
            return []
        settings, prompts = self.config.generate or GenerateConfig(), self._sample_prompts()
        texts = generation.continued(model, settings, prompts, tokenizer=self.tokenizer, width=self.width)
        return list(zip(self.config.sample_prompts, texts, strict=True))

    def _sample_prompts(self) -> list[list[int]]:
        end = self.config.separator if self.prompted else ""
        return generation.prompt_ids(self.tokenizer, [f"{text}{end}" for text in self.config.sample_prompts])

    def metrics(self) -> list[str]:
        return ["perplexity", "bits_per_byte", "token_accuracy", *(["exact_match"] if self.answers else [])]

    def unlearnable(self, features: Any) -> np.ndarray:
        lengths = np.asarray(features["length"])
        return np.flatnonzero(lengths <= (np.asarray(features["num_prompt_tokens"]) if self.prompted else 1))

    def trained_positions(self, batch: Batch) -> Tensor:
        return batch["labels"] != IGNORED
