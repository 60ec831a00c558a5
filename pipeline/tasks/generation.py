"""Text written by a model at evaluation: its settings, the token ids of a batch, and the texts they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline.config import Section
from pipeline.errors import ConfigError
from pipeline.models.fit import position_limit
from pipeline.models.load import quiet
from pipeline.tasks.base import Batch

NOTHING = -1
"""Stands behind the end of a row of written ids."""
MAX_NEW_TOKENS = 64
TEXT_METRICS = ("bleu", "chrf", "rouge", "exact_match", "numeric_match")
"""Metrics that compare texts."""
NEEDS = {"do_sample": ("temperature", "top_k", "top_p"), "num_beams": ("length_penalty", "early_stopping")}
"""Setting -> those that have no effect without it."""


class GenerateConfig(Section):
    """How text is written at evaluation. These keys count, whatever the checkpoint's generation_config says of them;
    what it says beside them (forced or forbidden tokens) is kept."""

    max_new_tokens: int | None = Field(None, ge=1)
    """Tokens to write at most; unset: max_target_length for seq2seq, 64 for causal_lm."""
    num_beams: int = Field(1, ge=1)
    """Texts followed at once, to find a likely one (beam search); 1 takes the likeliest token each time (greedy)."""
    length_penalty: float = 1.0
    """With beams: above 0 long texts win more often, below 0 short ones."""
    early_stopping: bool = False
    """With beams: stop as soon as there are num_beams whole texts."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No sequence of so many tokens occurs twice, that of a prompt included; 0: it may."""
    repetition_penalty: float = Field(1.0, gt=0)
    """Above 1 makes tokens that are there already less likely."""
    do_sample: bool = False
    """Draw tokens by their probability, from the run's seed and the row: the same at every evaluation, on any number
    of processes."""
    temperature: float = Field(1.0, gt=0)
    """With do_sample: below 1 makes likely tokens likelier."""
    top_k: int | None = Field(None, ge=1)
    """With do_sample: draw from the so many likeliest tokens."""
    top_p: float | None = Field(None, gt=0, le=1)
    """With do_sample: draw from the likeliest tokens that together have this probability."""


class SeededChoice(LogitsProcessor):
    """Adds Gumbel noise to the scores: the highest one is then a draw from their softmax (Gumbel 1954; Maddison et al.
    2014, equation 1).

    Every row has a generator of its own, so that what is drawn for it does not depend on the rows beside it.
    """

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self.generators]
        return scores.float() - torch.stack(draws).log().to(scores.device)


def write(
    model: Any,
    settings: GenerateConfig,
    inputs: Mapping[str, Tensor],
    *,
    tokenizer: Any,
    width: int,
    seeds: Sequence[int] | None = None,
    decoder_start: int | None = None,
    end_mark: int | None = None,
) -> Tensor:
    """Token ids (batch, at most width) that follow `inputs` (`input_ids`, `attention_mask`), with -1 behind their EOS.

    `end_mark` ends a text as EOS does: what a chat template sets behind a turn.

    `decoder_start` is the first token of an encoder-decoder's decoder; without one the model continues its input.
    `seeds`, one per row, are for do_sample.
    """
    with quiet():
        found = model.generate(
            **inputs,
            generation_config=_generation_config(settings, tokenizer, width, decoder_start, end_mark),
            logits_processor=_sampling(settings, seeds),
        )
    new = found[:, 1:] if decoder_start is not None else found[:, inputs["input_ids"].shape[1] :]
    ends = sum((new == mark).int() for mark in _marks(tokenizer, end_mark))
    return torch.where(ends.cumsum(1) - ends > 0, NOTHING, new).int()


def _generation_config(
    settings: GenerateConfig, tokenizer: Any, width: int, decoder_start: int | None, end_mark: int | None
) -> GenerationConfig:
    """Everything that a checkpoint's own could otherwise set is set; what it draws is drawn by `SeededChoice`."""
    return GenerationConfig(
        max_new_tokens=width,
        min_length=0,
        min_new_tokens=0,
        num_beams=settings.num_beams,
        num_return_sequences=1,
        length_penalty=settings.length_penalty,
        early_stopping=settings.early_stopping,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        repetition_penalty=settings.repetition_penalty,
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        use_cache=True,
        return_dict_in_generate=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=_marks(tokenizer, end_mark),
        decoder_start_token_id=decoder_start,
    )


def _marks(tokenizer: Any, end_mark: int | None) -> list[int]:
    return list(dict.fromkeys(mark for mark in (tokenizer.eos_token_id, end_mark) if mark is not None))


def _sampling(settings: GenerateConfig, seeds: Sequence[int] | None) -> LogitsProcessorList:
    steps = LogitsProcessorList()
    if not settings.do_sample:
        return steps
    assert seeds is not None, "do_sample draws from a seed per row"
    steps.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k is not None:
        steps.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p is not None:
        steps.append(TopPLogitsWarper(settings.top_p))
    steps.append(SeededChoice(seeds))
    return steps


def sampling_seeds(settings: GenerateConfig | None, draws: Sequence[np.random.Generator]) -> Batch:
    """What `collate` adds to a batch for do_sample: `sampling_seeds` (batch,)."""
    if settings is None or not settings.do_sample:
        return {}
    return {"sampling_seeds": torch.tensor([int(draw.integers(2**62)) for draw in draws])}


def seeds_of(batch: Batch) -> list[int] | None:
    """The seeds that `sampling_seeds` has put into a batch."""
    return batch["sampling_seeds"].tolist() if "sampling_seeds" in batch else None


def pad_left(rows: Sequence[Sequence[int]], value: int) -> Batch:
    """Rows of ids to `input_ids` and `attention_mask` (batch, longest), which end together so that all go on alike."""
    longest = max(len(row) for row in rows)
    missing = [longest - len(row) for row in rows]
    return {
        "input_ids": torch.tensor([[value] * gap + list(row) for gap, row in zip(missing, rows, strict=True)]),
        "attention_mask": torch.tensor([[0] * gap + [1] * (longest - gap) for gap in missing]),
    }


def prompts_of(batch: Batch, pad_token_id: int) -> Batch:
    """The first `num_prompt_tokens` of each row, as `pad_left` gives them, on the batch's device."""
    lengths = batch["num_prompt_tokens"].tolist()
    rows = [row[:length] for row, length in zip(batch["input_ids"].tolist(), lengths, strict=True)]
    return {key: value.to(batch["input_ids"].device) for key, value in pad_left(rows, pad_token_id).items()}


def texts_of(ids: np.ndarray | Tensor, tokenizer: Any) -> list[str]:
    """The texts of rows of written ids, without special tokens."""
    rows = [[token for token in row if token != NOTHING] for row in ids.tolist()]
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def prompt_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts that are to be continued: with the tokenizer's own special tokens, but no EOS at the end."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    return [row[:-1] if row and row[-1] == tokenizer.eos_token_id else row for row in rows]


def continued(model: Any, settings: GenerateConfig, prompts: Sequence[Sequence[int]], **more: Any) -> list[str]:
    """What the model writes after each prompt (token ids), as `write`; do_sample draws from the prompt's number."""
    device = next(model.parameters()).device
    inputs = {key: value.to(device) for key, value in pad_left(prompts, more["tokenizer"].pad_token_id).items()}
    return texts_of(write(model, settings, inputs, seeds=range(len(prompts)), **more), more["tokenizer"])


def problems(settings: GenerateConfig | None) -> list[str]:
    """Settings of `task.generate` that do not go together, one sentence each."""
    if settings is None:
        return []
    found = []
    fields = type(settings).model_fields
    on = {"do_sample": settings.do_sample, "num_beams": settings.num_beams > 1}
    wanted = {"do_sample": "do_sample: true", "num_beams": "num_beams above 1"}
    for switch, keys in NEEDS.items():
        given = [key for key in keys if vars(settings)[key] != fields[key].default and not on[switch]]
        found += [f"task.generate.{key}: has an effect only with {wanted[switch]}; give that too" for key in given]
    if settings.no_repeat_ngram_size == 1:
        found.append("task.generate.no_repeat_ngram_size: 1 would let no token occur twice, no comma; give 2 or more")
    if all(on.values()):
        found.append("task.generate.do_sample: draws one text, and num_beams looks for a likely one; give one of them")
    return found


def check_room(
    tokenizer: Any, config: Any, prompts: Sequence[Sequence[int]], *, answers: bool, width: int
) -> int | None:
    """Tokens that a prompt may have, so that `width` more fit into the positions of a decoder; None without a limit.

    ConfigError when it cannot write at all, or not behind `prompts`, those of task.sample_prompts. `answers`: whether
    rows are answered too; `config` is the model's.
    """
    limit = position_limit(config)
    room = None if limit is None else limit - width
    if not prompts and not answers:
        return room
    found = []
    if tokenizer.eos_token_id is None:
        found.append("task.generate: needs a tokenizer with an EOS token, which ends a text; this one has none")
    found += [
        f"task.sample_prompts: text {number} gives no token to go on from; write something in it"
        for number, prompt in enumerate(prompts, start=1)
        if not prompt
    ]
    size = max(map(len, prompts), default=0)
    if room is not None and room < 1:
        found.append(
            f"task.generate.max_new_tokens: {width} written tokens leave no room for a prompt in this model's {limit} "
            "positions; give fewer"
        )
    elif room is not None and size > room:
        found.append(
            f"task.sample_prompts: {size} tokens and {width} written ones exceed this model's {limit} positions; "
            "shorten them, or give a smaller task.generate.max_new_tokens"
        )
    if found:
        raise ConfigError(found)
    return room


def unanswerable(answers: Sequence[str], features: Any, *, width: int, room: int | None) -> dict[int, str]:
    """Encoded rows (`num_prompt_tokens`, `length`) that no answer can be written for, or compared with, and why.

    `answers` are those of the rows; `width` and `room` as in `check_room`.
    """
    bad = {}
    sizes = zip(features["num_prompt_tokens"], features["length"], strict=True)
    for number, (answer, (prompt, length)) in enumerate(zip(answers, sizes, strict=True)):
        if prompt >= length:
            bad[number] = "has its last answer behind data.max_length; raise it, or leave task.generate out"
        elif not answer:
            bad[number] = "ends without words to compare with; drop the row, or leave task.generate out"
        elif room is not None and prompt > room:
            bad[number] = (
                f"gives a prompt of {prompt} tokens; {width} written ones behind it exceed this model's {room + width} "
                f"positions: shorten it, drop the row, or give task.generate.max_new_tokens: {room + width - prompt}"
            )
    return bad


def problems_within(config: Any, *, writes: bool, scores: bool, off: str, on: str) -> list[str]:
    """What in the rest of the configuration does not go with text that is written, or that is not.

    `writes`: whether any text is written, and `off` how to have none; `scores`: whether one is written for every row,
    and `on` how to have that.
    """
    found = []
    if writes and config.train.fsdp:
        found.append(f"train.fsdp: no text is written from weights in shares; {off}")
    if not scores:
        names = ", ".join(name for name in config.eval.metrics if name in TEXT_METRICS)
        found += [f"eval.metrics: texts are compared by {names}, and this run writes none; {on}"] if names else []
    return found
