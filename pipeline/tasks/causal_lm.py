"""Predict the next token: of plain text, of the response to a prompt, or of what the assistant says in a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.data.packing import best_fit, blocks
from pipeline.errors import BadRows
from pipeline.tasks import generation
from pipeline.tasks.base import IGNORED, Batch, Features, Task
from pipeline.tasks.causal_rows import chats_of, columns_of, placeholders, prompts_of, to_be_answered
from pipeline.tasks.causal_settings import SEPARATOR, problems_of
from pipeline.tasks.chat import encode_chats, end_mark, render
from pipeline.tasks.chat_templates import OWN, set_template
from pipeline.tasks.conversations import messages_of
from pipeline.tasks.generation import MAX_NEW_TOKENS, GenerateConfig
from pipeline.tasks.language import (
    bytes_column,
    cross_entropy_sum,
    encode_text,
    language_columns,
    of_predicted,
    refuse_empty,
    truncated,
)
from pipeline.tasks.packed import position_ids, refuse_leaks
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.pairs import encode_pairs


class CausalLM(Task):
    """Rows are one of three things, and `data.packing: best_fit` puts whole rows of any of them into blocks.

    Plain text (`data.text_column`) is joined and cut into blocks of `data.max_length` tokens unless `packing` says
    otherwise.

    With `data.prompt_column` and `data.response_column` a row is system prompt + prompt + separator + response + EOS,
    and only the response and its EOS are learned. With `task.chat_template` it is a conversation of one turn instead.

    With `data.messages_column` a row is a conversation, written down by a chat template; what the assistant says and
    what ends its turns is learned.

    What does not fit in `data.max_length` is cut at the end. A row of which nothing learned is left is refused.
    """

    class Config(Section):
        name: str
        separator: str = SEPARATOR
        """Between prompt and response, where no chat template says what stands there."""
        chat_template: str | None = None
        """How a conversation is written down: `chatml`, `llama3`, `zephyr`, a .jinja file, or `tokenizer` for the
        tokenizer's own template, which conversations take when this is unset. It is saved with the model."""
        assistant_only_loss: bool = True
        """Learn only what the assistant says; false: all tokens of a conversation."""
        generate: GenerateConfig | None = None
        """Write a response to every prompt (a conversation's: all before its last message) at evaluation."""
        sample_prompts: list[str] = []
        """Texts the model goes on from at every evaluation; they are printed and kept in metrics.jsonl."""

    settings_of_scores, settings_of_outputs = ("generate",), ("sample_prompts",)
    reads = (
        *("text_column", "prompt_column", "response_column", "messages_column", "tools_column", "system_column"),
        "packing",
    )
    model_class = "AutoModelForCausalLM"
    pipeline_tag, purpose = "text-generation", "goes on writing where a text ends"
    end_mark: int | None = None  # of the chat template, where it is not EOS
    room: int | None = None  # tokens of a prompt behind which the model can still write

    @property
    def prompted(self) -> bool:
        """Rows are prompt and response rather than plain text."""
        return self.data.prompt_column is not None

    @property
    def chatting(self) -> bool:
        """Rows go through a chat template."""
        return self.data.messages_column is not None or (self.prompted and self.config.chat_template is not None)

    def problems(self) -> list[str]:
        return super().problems() + problems_of(self.config, self.data, chatting=self.chatting)

    def problems_within(self, config: Any) -> list[str]:
        writes = self.answers or self.has_samples
        off = "leave task.generate and task.sample_prompts out"
        on = "give task.generate, with data.prompt_column and data.response_column"
        return generation.problems_within(config, writes=writes, scores=self.answers, off=off, on=on)

    @property
    def answers(self) -> bool:
        """A response is written for every row at evaluation."""
        return self.config.generate is not None and (self.prompted or self.chatting)

    def columns(self) -> dict[str, Kind]:
        return columns_of(self.data)

    def to_predict(self) -> None:
        super().to_predict()
        self.config.generate = self.config.generate or GenerateConfig()
        if not (self.prompted or self.chatting):
            self.config.separator = ""
        self.data = to_be_answered(self.data)

    def asked(self) -> list[str]:
        return [name for name in self.columns() if name != self.data.response_column]

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        return placeholders(rows, self.data)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        self.config.chat_template = self.config.chat_template and OWN  # it was saved with the tokenizer

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        super().use_tokenizer(tokenizer, max_length)
        if self.chatting:
            set_template(tokenizer, self.config.chat_template, tools=self.data.tools_column is not None)
            mark = end_mark(tokenizer)
            self.end_mark = None if mark == tokenizer.eos_token_id or tokenizer.eos_token_id is None else mark

    def processing(self) -> str:
        return f"{super().processing()}{self.tokenizer.chat_template if self.chatting else ''}"

    def check(self, model: Any, *, random: bool) -> None:
        prompts = self._sample_prompts() if self.has_samples else []
        self.room = generation.check_room(self.tokenizer, model.config, prompts, answers=self.answers, width=self.width)

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        if self.chatting or self.prompted:
            features = self._encode_chats(rows) if self.chatting else self._encode_pairs(rows)
        else:
            features = encode_text(self.tokenizer, rows[self.inputs()[0]], end=True)
            if self.data.packing == "none":
                features = truncated(features, self.max_length)
            if self.data.packing in ("none", "best_fit"):
                features = of_predicted(features, self.tokenizer.bos_token_id)
        if self.data.packing == "best_fit":
            refuse_empty(features, self.inputs()[0], self.max_length)  # in a block nobody would see it
        return features

    def _encode_chats(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        """Conversations, or pairs as conversations of one turn, through the chat template."""
        chats, bad = chats_of(rows, self.data)
        if not bad:
            assistant_only = self.config.assistant_only_loss
            features, bad = encode_chats(
                self.tokenizer, chats, max_length=self.max_length, assistant_only=assistant_only
            )
        if bad:
            raise BadRows({number: f"{self.inputs()[0]} {sentence}" for number, sentence in bad.items()})
        return features

    def _encode_pairs(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        prompts = [f"{prompt}{self.config.separator}" for prompt in prompts_of(rows, self.data)]
        return encode_pairs(self.tokenizer, prompts, rows[str(self.data.response_column)], max_length=self.max_length)

    @property
    def packs(self) -> bool:
        return not (self.prompted or self.chatting) and self.data.packing != "none"

    @property
    def block_size(self) -> int | None:
        return self.max_length if self.packs or self.data.packing == "best_fit" else None

    def accept(self, model: nn.Module) -> None:
        if self.data.packing == "best_fit":
            refuse_leaks(model)

    def pack(self, batches: Iterator[Features]) -> Iterator[Features]:
        if self.data.packing == "best_fit":
            return best_fit(batches, block_size=self.max_length)
        return blocks(batches, block_size=self.max_length) if self.packs else batches

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        mask = attention_mask(rows)
        input_ids = pad(rows, self.tokenizer.pad_token_id)
        learned = pad([feature["trained"] for feature in features], 0) if "trained" in features[0] else mask
        labels = torch.where(learned.bool(), input_ids, IGNORED)
        labels[:, 0] = IGNORED  # nothing comes before the first token
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels, "num_bytes": bytes_column(features)}
        if self.answers:
            batch |= generation.sampling_seeds(self.config.generate, draws)
            batch["num_prompt_tokens"] = torch.tensor([feature["num_prompt_tokens"] for feature in features])
        if "document_lengths" in features[0]:
            lengths = [feature["document_lengths"] for feature in features]
            batch["position_ids"] = position_ids(lengths, input_ids.shape[1])
            labels[batch["position_ids"] == 0] = IGNORED
        return batch

    def terms(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        # transformers keeps packed documents apart by their positions only when it gets no mask
        seen = "position_ids" if "position_ids" in batch else "attention_mask"
        logits = model(input_ids=batch["input_ids"], **{seen: batch[seen]}, use_cache=False).logits
        return cross_entropy_sum(logits[:, :-1], batch["labels"][:, 1:]), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return language_columns(logits[:, :-1], batch["labels"][:, 1:], batch["num_bytes"])

    @property
    def width(self) -> int:
        """Tokens written at most."""
        settings = self.config.generate or GenerateConfig()
        return settings.max_new_tokens or MAX_NEW_TOKENS

    @property
    def _writing(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "width": self.width, "end_mark": self.end_mark}

    def exported(self, model: Any) -> nn.Module:
        if self.end_mark is not None:  # whoever loads the model wants a turn to end where it learned to end
            model.generation_config.eos_token_id = [self.tokenizer.eos_token_id, self.end_mark]
        return model

    def generate(self, model: nn.Module, batch: Batch) -> Batch:
        if not self.answers:
            return {}
        prompts = generation.prompts_of(batch, self.tokenizer.pad_token_id)
        seeds = generation.seeds_of(batch)
        return {"written": generation.write(model, self.config.generate, prompts, seeds=seeds, **self._writing)}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        return self.generate(model, batch)

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{generated_text}`: the response, the assistant's next message, or what follows a plain text."""
        return [{"generated_text": text} for text in generation.texts_of(columns["written"], self.tokenizer)]

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        if not self.answers:
            return columns
        texts = generation.texts_of(columns["written"], self.tokenizer)
        return {**columns, "predictions": texts, "references": self.references(rows)}

    def references(self, rows: Any) -> list[str] | None:
        if not self.answers:
            return None
        talks, answers = self.data.messages_column, self.data.response_column
        return [messages_of(cell)[-1]["content"] for cell in rows[talks]] if talks else list(rows[answers])

    def unanswerable(self, rows: Any, features: Any) -> dict[int, str]:
        answers = self.references(rows) or []
        found = generation.unanswerable(answers, features, width=self.width, room=self.room) if answers else {}
        return {number: f"{self.inputs()[0]} {sentence}" for number, sentence in found.items()}

    @property
    def has_samples(self) -> bool:
        return bool(self.config.sample_prompts)

    def samples(self, model: nn.Module) -> list[tuple[str, str]]:
        settings, prompts = self.config.generate or GenerateConfig(), self._sample_prompts()
        texts = generation.continued(model, settings, prompts, **self._writing)
        return list(zip(self.config.sample_prompts, texts, strict=True))

    def _sample_prompts(self) -> list[list[int]]:
        if self.chatting:
            chats = [[{"role": "user", "content": text}] for text in self.config.sample_prompts]
            texts = [render(self.tokenizer, chat, None, prompt=True)[0] for chat in chats]
            return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        end = self.config.separator if self.prompted else ""
        return generation.prompt_ids(self.tokenizer, [f"{text}{end}" for text in self.config.sample_prompts])

    def metrics(self) -> list[str]:
        return ["perplexity", "bits_per_byte", "token_accuracy", *(["exact_match"] if self.answers else [])]

    def unlearnable(self, features: Any) -> np.ndarray:
        if "num_trained" in features.column_names:
            return np.flatnonzero(np.asarray(features["num_trained"]) == 0)
        return np.flatnonzero(np.asarray(features["length"]) <= 1)

    def trained_positions(self, batch: Batch) -> Tensor:
        return batch["labels"] != IGNORED
