"""Answer a question with a span of a text, as in SQuAD: long texts in overlapping windows, maybe no answer at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, places_of
from pipeline.data.columns import SHOWN, Problems
from pipeline.tasks.base import Batch, Features, Task
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.saying import shown

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
EXPECTED = (
    "expected {text: [...], answer_start: [...]}, two lists of one length (empty when the text does not answer the "
    "question), or a list of {text, answer_start}"
)


class QuestionAnswering(Task):
    """`data.question_column`, `data.context_column` and `data.answers_column`: SQuAD's columns, or its nested JSON.

    A context that is too long becomes several windows, each with the whole question. A window that does not hold all
    of the answer learns to point at [CLS] (the first token where a tokenizer has none), as does a question without an
    answer (Devlin et al. 2018, section 4.3). Of several answers the first is learned; all of them are references.
    """

    class Config(Section):
        name: str
        doc_stride: int = Field(128, ge=0)
        """Context tokens that neighbouring windows share; at most half of those that fit beside the question."""
        max_answer_length: int = Field(30, ge=1)
        """Tokens of the longest answer that is predicted."""
        version_2_with_negative: bool | Literal["auto"] = "auto"
        """Whether the empty answer may be predicted; `auto`: when some question has no answer."""
        null_score_diff_threshold: float = 0.0
        """No answer is predicted when [CLS] scores more than this above the best span."""

    settings_of_scores = ("max_answer_length", "null_score_diff_threshold")
    reads = ("question_column", "context_column", "answers_column")
    model_class = "AutoModelForQuestionAnswering"
    pipeline_tag, purpose = "question-answering", "finds the words of a text that answer a question"
    head_modules = ("qa_outputs", "classifier")
    main_metric = "squad_f1"
    nothing_to_learn = "have a question that leaves no room for the context"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.question_column = data.question_column or "question"
        self.context_column = data.context_column or "context"
        self.answers_column = data.answers_column or "answers"
        self.may_be_empty = config.version_2_with_negative is True

    def columns(self) -> dict[str, Kind]:
        return {self.question_column: "text", self.context_column: "text", self.answers_column: "json"}

    def inputs(self) -> list[str]:
        return [self.question_column, self.context_column]

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        """Check that every answer stands where the data says, and see whether some question has none."""
        problems = Problems()
        for split, rows in splits.items():
            wrong: dict[int, str] = {}
            cells = zip(rows[self.context_column], rows[self.answers_column], strict=True)
            for number, (context, cell) in enumerate(cells):
                try:
                    answers = read_answers(cell)
                    check_places(context, answers)
                    if not answers:
                        self._allow_empty()
                except ValueError as error:
                    wrong[number] = str(error)
            places = places_of(self.data, split, self.answers_column, list(wrong)[:SHOWN])
            for number, sentence in wrong.items():
                problems.add(places.get(number, ""), f"{self.answers_column} {sentence}")
        problems.raise_any()

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        if self.config.version_2_with_negative == "auto":
            self.may_be_empty = bool(settings.get("version_2_with_negative"))
        self.read_labels(splits, None)

    def exported(self, model: Any) -> nn.Module:
        """`version_2_with_negative` in the config of the model says whether it may answer nothing."""
        vars(model.config)["version_2_with_negative"] = self.may_be_empty
        return model

    def _allow_empty(self) -> None:
        if self.config.version_2_with_negative is False:
            raise ValueError("is empty, and task.version_2_with_negative is false; leave that out or drop the row")
        self.may_be_empty = True

    def model_kwargs(self) -> dict[str, Any]:
        return {"num_labels": 2}

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        """One feature row per window; a question too long for any window gives one of length 0."""
        questions, contexts = list(rows[self.question_column]), list(rows[self.context_column])
        inputs = self.tokenizer(questions, contexts, return_offsets_mapping=True, verbose=False)
        kept_keys = [key for key in ("input_ids", "token_type_ids") if key in inputs]
        found = [*kept_keys, "char_starts", "char_ends", "cls_position", "start_position", "end_position"]
        features: Features = {key: [] for key in ("example", "length", *found)}
        for number, cell in enumerate(rows[self.answers_column]):
            parts, offsets = inputs.sequence_ids(number), inputs["offset_mapping"][number]
            span = learned_span(read_answers(cell))
            inside = [at for at, part in enumerate(parts) if part == 1 and _overlap(offsets[at], span)]
            for kept in windows(parts, self.max_length, self.config.doc_stride):
                start = end = cls = self._cls_position(inputs["input_ids"][number], parts, kept)
                if inside and {inside[0], inside[-1]} <= set(kept):
                    start, end = kept.index(inside[0]), kept.index(inside[-1])
                for key in kept_keys:
                    features[key].append([inputs[key][number][at] for at in kept])
                features["char_starts"].append([offsets[at][0] if parts[at] == 1 else -1 for at in kept])
                features["char_ends"].append([offsets[at][1] if parts[at] == 1 else -1 for at in kept])
                features["cls_position"].append(cls)
                features["start_position"].append(start)
                features["end_position"].append(end)
                features["example"].append(number)
                features["length"].append(len(kept) if len(kept) <= self.max_length else 0)
        return features

    def _cls_position(self, ids: list[int], parts: list[int | None], kept: list[int]) -> int:
        cls = self.tokenizer.cls_token_id
        return next((new for new, at in enumerate(kept) if parts[at] is None and ids[at] == cls), 0)

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        batch = {"input_ids": pad(rows, self.tokenizer.pad_token_id), "attention_mask": attention_mask(rows)}
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad([feature["token_type_ids"] for feature in features], 0)
        for key in ("char_starts", "char_ends"):
            batch[key] = pad([feature[key] for feature in features], -1)
        for key in ("cls_position", "start_position", "end_position"):
            batch[f"{key}s"] = torch.tensor([feature[key] for feature in features])
        return batch

    def terms(self, batch: Batch) -> int:
        """The number of windows."""
        return len(batch["start_positions"])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean of the cross-entropies of start and end, summed over windows; logits (batch, length, 2).

        Padding is left out of the softmax, so that the loss of a window does not depend on its neighbours.
        """
        output = model(**{key: batch[key] for key in MODEL_INPUTS if key in batch})
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1).float()
        start_logits, end_logits = logits.masked_fill(batch["attention_mask"][..., None] == 0, -torch.inf).unbind(-1)
        start = functional.cross_entropy(start_logits, batch["start_positions"], reduction="sum")
        end = functional.cross_entropy(end_logits, batch["end_positions"], reduction="sum")
        return (start + end) / 2, logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        """Per window the characters of its best span in the context, the span's score and that of [CLS]."""
        row = torch.arange(len(logits), device=logits.device)
        first, last, score = best_span(logits, batch["char_starts"] >= 0, self.config.max_answer_length)
        return {
            "first_character": batch["char_starts"][row, first],
            "end_character": batch["char_ends"][row, last],
            "score": score,
            "null_score": logits[row, batch["cls_positions"]].sum(-1),
        }

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        predictions = [found["answer"] for found in self.predicted(columns, rows, features)]
        references = [[text for text, _ in read_answers(cell)] for cell in rows[self.answers_column]]
        return {"predictions": predictions, "references": references}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """Of the windows of a question the best span; no answer when [CLS] beats it even in the worst window.

        `{answer, start, score, null_score}`: the text, its first character (null without an answer), and the scores
        (sums of two logits) of the best span and of no answer. The latter is the least over the windows, since most of
        them do not hold the answer.
        """
        example = np.asarray(features["example"])
        null_score = np.full(len(rows), np.inf)
        np.minimum.at(null_score, example, columns["null_score"])
        found: list[dict[str, Any]] = [{}] * len(rows)
        contexts = list(rows[self.context_column])
        for window in np.lexsort((columns["score"], example)):  # the best window of a question comes last
            row, score = int(example[window]), columns["score"][window]
            empty = self.may_be_empty and null_score[row] - score > self.config.null_score_diff_threshold
            first, end = int(columns["first_character"][window]), int(columns["end_character"][window])
            span = "" if empty or first < 0 else contexts[row][first:end]
            answer = span.strip()
            start = first + len(span) - len(span.lstrip()) if answer else None
            scores = {"score": shown(score), "null_score": shown(np.float32(null_score[row]))}
            found[row] = {"answer": answer, "start": start, **scores}
        return found

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The first visible character of the context: an answer that every setting allows."""
        places = [len(context) - len(context.lstrip()) for context in rows[self.context_column]]
        pairs = zip(rows[self.context_column], places, strict=True)
        answers = [[{"text": text[at], "answer_start": at}] if text[at:] else [] for text, at in pairs]
        return {self.answers_column: [json.dumps(cell) for cell in answers]}

    def metrics(self) -> list[str]:
        return ["squad_exact_match", "squad_f1"]

    def reported(self) -> list[str]:
        names = self.metrics()
        parts = [f"{name}_{part}" for name in names for part in ("has_answer", "no_answer")]
        return names + parts if self.may_be_empty else names

    def trained_positions(self, batch: Batch) -> Tensor:
        position = torch.arange(batch["input_ids"].shape[1])[None, :]
        return (batch["start_positions"][:, None] <= position) & (position <= batch["end_positions"][:, None])


def read_answers(cell: str) -> list[tuple[str, int]]:
    """Text and first character of every answer in a cell of the answers column; ValueError says what is wrong."""
    value = json.loads(cell)
    if isinstance(value, dict) and all(isinstance(value.get(key), list) for key in ("text", "answer_start")):
        texts, starts = value["text"], value["answer_start"]
    elif isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts, starts = [part.get("text") for part in value], [part.get("answer_start") for part in value]
    else:
        raise ValueError(f"is {cell:.60}, {EXPECTED}")
    if len(texts) != len(starts):
        raise ValueError(f"has {len(texts)} texts and {len(starts)} starts, {EXPECTED}")
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"has an answer without text ({text!r}), {EXPECTED}")
        if type(start) is not int or start < 0:
            raise ValueError(f"says that {text!r:.60} starts at {start!r}, expected the number of its first character")
    return list(zip(texts, starts, strict=True))


def check_places(context: str, answers: list[tuple[str, int]]) -> None:
    """ValueError with what stands in the context instead, unless every answer is where its number says."""
    for text, start in answers:
        if context.startswith(text, start):
            continue
        there = context[start : start + len(text)]
        found = [match.start() for match in re.finditer(re.escape(text), context)]
        instead = f"{there!r:.60} stands" if there else f"nothing stands (it has {len(context)} characters)"
        nearest = min(found, key=lambda place: abs(place - start), default=None)
        missing = "the context does not hold it at all; correct or drop the row"
        fix = missing if nearest is None else f"correct it to {nearest}"
        raise ValueError(f"says that {text!r:.60} starts at character {start} of the context, where {instead}; {fix}")


def learned_span(answers: list[tuple[str, int]]) -> tuple[int, int]:
    """First and end character of the answer that is learned, without white space around it; (0, 0) without one."""
    if not answers:
        return 0, 0
    text, start = answers[0]
    first = start + len(text) - len(text.lstrip())
    return first, first + len(text.strip())


def _overlap(token: tuple[int, int], span: tuple[int, int]) -> bool:
    return token[1] > span[0] and token[0] < span[1]


def windows(parts: Sequence[int | None], max_length: int, doc_stride: int) -> list[list[int]]:
    """The token positions of every window of a tokenized pair; `parts` says 1 at the tokens of the context.

    What is around the context is in every window. Tokenizers can do this themselves, but panic when a question leaves
    less room than the stride. A question that leaves no room gives one window, longer than `max_length`.
    """
    context = [at for at, part in enumerate(parts) if part == 1]
    first, end = (context[0], context[-1] + 1) if context else (len(parts), len(parts))
    room = max_length - len(parts) + len(context)
    if room < 1 or not context:
        return [list(range(len(parts)))]
    stride = min(doc_stride, room // 2)
    starts = range(first, max(end - stride, first + 1), room - stride)
    return [[*range(first), *range(start, min(start + room, end)), *range(end, len(parts))] for start in starts]


def best_span(logits: Tensor, context: Tensor, max_answer_length: int) -> tuple[Tensor, Tensor, Tensor]:
    """First and last token of the best span and its score, each (batch,), of logits (batch, length, 2).

    All spans of up to `max_answer_length` tokens inside `context` (batch, length; bool) are compared. Without any the
    score is minus infinity.
    """
    start, end = logits.masked_fill(~context[..., None], -torch.inf).unbind(-1)
    ends = functional.pad(end, (0, max_answer_length - 1), value=-torch.inf).unfold(1, max_answer_length, 1)
    score, best = (start[..., None] + ends).flatten(1).max(1)
    first = best // max_answer_length
    last = (first + best % max_answer_length).clamp(max=logits.shape[1] - 1)
    return first, last, score
