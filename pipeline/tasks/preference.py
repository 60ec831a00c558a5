"""Learn which of two answers is better: direct preference optimization (DPO), with no reward model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, listed, places_of
from pipeline.errors import DataError, UserError
from pipeline.tasks.base import IGNORED, Batch, Features, Task
from pipeline.tasks.chat import end_of_turn, render
from pipeline.tasks.chat_templates import OWN, set_template, template_problems
from pipeline.tasks.conversations import ROLES
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.saying import shown

SHOWN = 20


class Preference(Task):
    """A prompt, the chosen and the rejected answer: three texts, or with `data.messages_column` a conversation and two
    messages of the assistant.

    The loss compares the model with the start it is trained from (the reference): Rafailov et al. 2023, "Direct
    Preference Optimization", equation 7. Beside it stand IPO (Azar et al. 2023, equation 17), over log-probabilities
    per token, and the hinge loss of SLiC (Zhao et al. 2023) as used by Liu et al. 2023 (RSO). The names are TRL's.
    An answer that does not fit is cut at the end; a prompt never is.
    """

    class Config(Section):
        name: str
        beta: float = Field(0.1, gt=0)
        """How much of the distance to the start counts: the higher, the closer the model stays to it."""
        loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
        label_smoothing: float = Field(0.0, ge=0, lt=0.5)
        """Share of pairs that are taken to be the wrong way round (conservative DPO, Mitchell 2023); with sigmoid."""
        separator: str = "\n"
        """Between prompt and answer, where they are texts."""
        chat_template: str | None = None
        """How a conversation is written down, as for causal_lm: a named format, a .jinja file, or unset for the
        tokenizer's own. It is saved with the model."""

    reads = ("prompt_column", "messages_column", "chosen_column", "rejected_column")
    model_class = "AutoModelForCausalLM"
    pipeline_tag = "text-generation"
    purpose = "answers, and was taught by pairs of answers which of two is the better one (DPO)"
    main_metric = "reward_accuracy"

    @property
    def answers(self) -> list[str]:
        """The columns of the chosen and the rejected answer."""
        return [self.data.chosen_column or "chosen", self.data.rejected_column or "rejected"]

    @property
    def prompts(self) -> list[str]:
        """The columns of the prompt; one, where it is a conversation."""
        return listed(self.data.messages_column or self.data.prompt_column or "prompt")

    def problems(self) -> list[str]:
        found = super().problems()
        names = [*self.prompts, *self.answers]
        if len(set(names)) < len(names) or not self.prompts:
            found.append(f"data.chosen_column: prompt, chosen and rejected need a column each, got {', '.join(names)}")
        if self.data.messages_column and self.data.prompt_column:
            found.append("data.prompt_column: the prompt is the conversation of data.messages_column; keep one of them")
        if self.data.messages_column and "separator" in self.config.model_fields_set:
            found.append("task.separator: a conversation is written by its chat template; leave it out")
        found += template_problems(self.config.chat_template)
        if self.config.chat_template and not self.data.messages_column:
            found.append("task.chat_template: writes conversations; name their column in data.messages_column")
        if self.config.label_smoothing and self.config.loss_type != "sigmoid":
            found.append(f"task.label_smoothing: goes with loss_type sigmoid, not with {self.config.loss_type}")
        return found

    def columns(self) -> dict[str, Kind]:
        if self.data.messages_column:
            return dict.fromkeys([*self.prompts, *self.answers], "json")
        first, *more = self.prompts
        return {first: "text", **dict.fromkeys(more, "any_text"), **dict.fromkeys(self.answers, "text")}

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        """There are no labels; but a pair that cannot be learned from is named here, with the place of its row."""
        wrong = [(split, number, problem) for split, rows in splits.items() for number, problem in self._wrong(rows)]
        problems = [
            f"{places_of(self.data, split, self.answers[0], [number])[number]}: {problem}"
            for split, number, problem in wrong[:SHOWN]
        ]
        if wrong[SHOWN:]:
            problems.append(f"... and {len(wrong) - SHOWN} more ({len(wrong)} in all)")
        if problems:
            raise DataError(problems)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        self.config.chat_template = self.config.chat_template and OWN  # it was saved with the tokenizer
        self.read_labels(splits, None)

    def _wrong(self, rows: Mapping[str, Sequence[Any]]) -> Iterator[tuple[int, str]]:
        """Numbers of rows with what is wrong in each."""
        for number, (chosen, rejected) in enumerate(zip(*(rows[column] for column in self.answers), strict=True)):
            if chosen == rejected:
                yield number, f"{' and '.join(self.answers)} are the same, so neither is better; drop the row"
        for column in (*self.prompts, *self.answers) if self.data.messages_column else ():
            for number, cell in enumerate(rows[column]):
                try:
                    messages(cell, of_assistant=column in self.answers)
                except ValueError as error:
                    yield number, f"{column} {error}"

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        super().use_tokenizer(tokenizer, max_length)
        if self.data.messages_column:
            set_template(tokenizer, self.config.chat_template)

    def processing(self) -> str:
        return f"{super().processing()}{self.tokenizer.chat_template}"

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        """Prompt and answers are tokenized apart, so that no token straddles the border of what is learned."""
        written = self._conversations(rows) if self.data.messages_column else self._texts(rows)
        bare = self.data.messages_column is not None  # a chat template writes BOS itself
        heads = self.tokenizer(written[0], add_special_tokens=not bare, verbose=False)["input_ids"]
        chosen, rejected = (
            self.tokenizer(answers, add_special_tokens=False, verbose=False)["input_ids"] for answers in written[1:]
        )
        names = ("chosen_input_ids", "rejected_input_ids", "num_prompt_tokens", "differ", "length", "full_length")
        features: Features = {name: [] for name in names}
        for head, *tails in zip(heads, chosen, rejected, strict=True):
            head = head[:-1] if head and head[-1] == self.tokenizer.eos_token_id else head
            whole = [self._ended(tail) for tail in tails]
            kept = [tail[: max(0, self.max_length - len(head))] for tail in whole]
            features["chosen_input_ids"].append(head + kept[0])
            features["rejected_input_ids"].append(head + kept[1])
            features["num_prompt_tokens"].append(len(head))
            features["differ"].append(kept[0] != kept[1])
            features["length"].append(2 * len(head) + sum(map(len, kept)))
            features["full_length"].append(2 * len(head) + sum(map(len, whole)))
        return features

    def _texts(self, rows: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str], list[str]]:
        """Prompts with the separator, chosen and rejected answers; empty parts of a prompt are left out."""
        parts = zip(*(rows[column] for column in self.prompts), strict=True)
        prompts = ["\n".join(filter(None, texts)) + self.config.separator for texts in parts]
        chosen, rejected = (list(rows[column]) for column in self.answers)
        return prompts, chosen, rejected

    def _conversations(self, rows: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[str], list[str]]:
        """The same for conversations, as the chat template writes them."""
        found: tuple[list[str], list[str], list[str]] = ([], [], [])
        for prompt, *answers in zip(*(rows[column] for column in (*self.prompts, *self.answers)), strict=True):
            before = messages(prompt)
            pairs = [rendered(self.tokenizer, before, messages(answer, of_assistant=True)) for answer in answers]
            for column, text in zip(found, (pairs[0][0], pairs[0][1], pairs[1][1]), strict=True):
                column.append(text)
        return found

    def _ended(self, answer: list[int]) -> list[int]:
        """The answer with EOS at its end, unless a chat template wrote one."""
        eos = self.tokenizer.eos_token_id
        return answer if eos is None or eos in answer else [*answer, eos]

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        """All chosen answers, then all rejected ones: one forward pass over (2 * batch, longest) tokens."""
        rows = [feature[name] for name in ("chosen_input_ids", "rejected_input_ids") for feature in features]
        mask, input_ids = attention_mask(rows), pad(rows, self.tokenizer.pad_token_id)
        prompts = torch.tensor([feature["num_prompt_tokens"] for feature in features]).repeat(2)
        labels = torch.where(mask.bool(), input_ids, IGNORED)
        labels[torch.arange(labels.shape[1])[None, :] < prompts[:, None]] = IGNORED
        labels[:, 0] = IGNORED  # nothing comes before the first token
        batch = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        if "reference_chosen" in features[0]:
            pairs = [[feature["reference_chosen"], feature["reference_rejected"]] for feature in features]
            batch["reference"] = torch.tensor(pairs)
        return batch

    def terms(self, batch: Batch) -> int:
        return len(batch["input_ids"]) // 2

    def log_probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """Log-probability of the chosen and the rejected answers given their prompts: (pairs, 2), in nats.

        Summed over the tokens of an answer; with IPO their mean.
        """
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        logits, labels = model(**inputs, use_cache=False).logits[:, :-1], batch["labels"][:, 1:]
        nll = functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        found = -nll.view(labels.shape).sum(1)
        if self.config.loss_type == "ipo":
            found = found / (labels != IGNORED).sum(1).clamp(min=1)
        return found.view(2, -1).T

    def reference(self, model: nn.Module, batch: Batch) -> Batch:
        chosen, rejected = self.log_probabilities(model, batch).unbind(1)
        return {"reference_chosen": chosen, "reference_rejected": rejected}

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss summed over pairs, and the log-probabilities of both answers: (pairs, 2)."""
        policy = self.log_probabilities(model, batch)
        return self.pair_losses(policy - batch["reference"]).sum(), policy

    def pair_losses(self, ratios: Tensor) -> Tensor:
        """Loss of every pair, (pairs,), from the log-probabilities less those of the reference, (pairs, 2)."""
        beta, wrong = self.config.beta, self.config.label_smoothing
        margin = ratios[:, 0] - ratios[:, 1]
        if self.config.loss_type == "ipo":
            return (margin - 1 / (2 * beta)) ** 2
        if self.config.loss_type == "hinge":
            return (1 - beta * margin).relu()
        right, turned = functional.logsigmoid(beta * margin), functional.logsigmoid(-beta * margin)
        return -(1 - wrong) * right - wrong * turned

    def postprocess(self, policy: Tensor, batch: Batch) -> Batch:
        chosen, rejected = (self.config.beta * (policy - batch["reference"])).unbind(1)
        return {"chosen_rewards": chosen, "rejected_rewards": rejected}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """The implicit reward of both answers (beta times what the model adds to the log-probability of the start)."""
        pairs = zip(columns["chosen_rewards"], columns["rejected_rewards"], strict=True)
        return [
            {
                "chosen_reward": shown(chosen),
                "rejected_reward": shown(rejected),
                "preferred": self.answers[0 if chosen > rejected else 1],
            }
            for chosen, rejected in pairs
        ]

    def metrics(self) -> list[str]:
        return ["reward_accuracy", "reward_margin"]

    def unlearnable(self, features: Any) -> np.ndarray:
        """Pairs without a difference within the length: their loss is the same whatever the model says."""
        return np.flatnonzero(~np.asarray(features["differ"]))

    def trained_positions(self, batch: Batch) -> Tensor:
        return batch["labels"] != IGNORED


def messages(cell: str, *, of_assistant: bool = False) -> list[dict[str, str]]:
    """JSON of one message or a list of them, `{role, content}` or ShareGPT's `{from, value}`, as role and content.

    Raises ValueError for what is no conversation that an answer can follow or, with `of_assistant`, no such answer.
    """
    given = json.loads(cell)
    found = []
    for message in given if isinstance(given, list) else [given]:
        if not isinstance(message, dict):
            message = {}
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError("has an entry without role and content (or from and value), both text; fill them in")
        if role not in ROLES:
            raise ValueError(f"has the unknown role {role[:40]!r}; known: {', '.join(ROLES)}")
        found.append({"role": ROLES[role], "content": content})
    if of_assistant and [message["role"] for message in found] != ["assistant"]:
        raise ValueError("holds no answer: expected one message of the assistant (or gpt)")
    if not of_assistant and (not found or found[-1]["role"] == "assistant"):
        raise ValueError("is no prompt: expected a conversation whose last message is not the assistant's")
    return found


def rendered(tokenizer: Any, prompt: list[dict[str, str]], answer: list[dict[str, str]]) -> tuple[str, str]:
    """Prompt and answer as the chat template writes them, without the white space behind the answer's end mark."""
    begins = f"the conversation that begins {prompt[0]['content'][:40]!r}"
    try:
        before, _ = render(tokenizer, prompt, None, prompt=True)
        whole, _ = render(tokenizer, [*prompt, *answer], None)
    except UserError:  # a broken template, which is no row's fault
        raise
    except ValueError as error:
        raise DataError(f"data.messages_column: {begins} {error}") from error
    if not whole.startswith(before):
        raise DataError(
            f"task.chat_template: the template writes the prompt of {begins} otherwise when an answer follows; give "
            "one whose generation prompt is how it begins an answer"
        )
    return before, whole[len(before) : end_of_turn(whole, answer[0]["content"])]
