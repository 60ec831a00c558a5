"""Choose the right one of several answers to a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, listed, places_of
from pipeline.errors import DataError
from pipeline.tasks.base import Batch, Features, Task
from pipeline.tasks.saying import shown

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SHOWN = 20


def by_number(label: str, choices: Sequence[str]) -> int | None:
    """`0` is the first choice."""
    return int(label) if label.isdecimal() and int(label) < len(choices) else None


def by_letter(label: str, choices: Sequence[str]) -> int | None:
    """`A` is the first choice."""
    return LETTERS.index(label) if label in [*LETTERS[: len(choices)]] else None


def by_text(label: str, choices: Sequence[str]) -> int | None:
    """The choice that is written the same."""
    return list(choices).index(label) if list(choices).count(label) == 1 else None


FORMS: dict[str, Callable[[str, Sequence[str]], int | None]] = {
    "number": by_number,
    "letter": by_letter,
    "text": by_text,
}
MEANT = {
    "number": "expected the number of the right choice, counted from 0",
    "letter": "expected the letter of the right choice, counted from A",
    "text": "expected the right choice as it is written among the choices, where it stands once",
}


class MultipleChoice(Task):
    """`data.text_column` names the context (or a list of two: context and question), `data.choices_column` the column
    with the list of choices (or a list of columns with one choice each), `data.label_column` the right one.

    The model reads context, then question and choice, once for each choice; the scores of the choices of a row go
    through one softmax (as in SWAG, Zellers et al. 2018). Rows may have different numbers of choices.
    """

    class Config(Section):
        name: str
        label_form: Literal["auto", "number", "letter", "text"] = "auto"
        """What a label is: the number of the right choice (from 0), its letter (from A), or its text; `auto`: the one
        that fits all training rows."""

    reads = ("text_column", "choices_column", "label_column")
    model_class = "AutoModelForMultipleChoice"
    pipeline_tag, purpose = "multiple-choice", "chooses among several answers or endings"
    head_modules = ("classifier", "pre_classifier", "sequence_summary", "logits_proj", "pooler")
    main_metric = "accuracy"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.form = config.label_form

    @property
    def text_columns(self) -> list[str]:
        return listed(self.data.text_column or "text")

    @property
    def choices_column(self) -> str | list[str]:
        return self.data.choices_column or "choices"

    @property
    def label_column(self) -> str:
        return self.data.label_column or "label"

    def problems(self) -> list[str]:
        found = super().problems()
        if not 1 <= len(self.text_columns) <= 2:
            found.append(
                "data.text_column: expected the column of the context, or a list of two (context and question), got "
                f"{self.text_columns}"
            )
        if isinstance(self.choices_column, list) and not 2 <= len(self.choices_column) <= len(LETTERS):
            found.append(
                f"data.choices_column: expected one column with lists of choices, or 2 to {len(LETTERS)} columns with "
                f"one choice each, got {self.choices_column}"
            )
        return found

    def columns(self) -> dict[str, Kind]:
        one = isinstance(self.choices_column, str)
        choices = dict.fromkeys([self.choices_column] if one else self.choices_column, "texts" if one else "text")
        return {**dict.fromkeys(self.text_columns, "text"), **choices, self.label_column: "label"}  # type: ignore[dict-item]

    def choices_of(self, rows: Mapping[str, Sequence[Any]]) -> list[list[str]]:
        """The choices of every row."""
        if isinstance(self.choices_column, str):
            return [list(choices) for choices in rows[self.choices_column]]
        return [list(choices) for choices in zip(*(rows[name] for name in self.choices_column), strict=True)]

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        if self.form == "auto":
            self.form = form_of(list(splits["train"][self.label_column]), self.choices_of(splits["train"]))
        problems = []
        for split, rows in splits.items():
            choices, labels = self.choices_of(rows), list(rows[self.label_column])
            few = [number for number, texts in enumerate(choices) if not 2 <= len(texts) <= len(LETTERS)]
            wrong = [number for number, pair in enumerate(zip(labels, choices, strict=True)) if self._id(*pair) is None]
            column = self.label_column
            places = places_of(self.data, split, column, [*few[:SHOWN], *wrong[:SHOWN]])
            problems += [
                f"{places[number]}: the row's number of choices is {len(choices[number])}, expected 2 to {len(LETTERS)}"
                for number in few[:SHOWN]
            ]
            problems += [
                f"{places[number]}: the {split} label {labels[number]!r} in {column!r} is none of the row's "
                f"{len(choices[number])} choices; {MEANT[self.form]} (or set task.label_form)"
                for number in wrong[:SHOWN]
            ]
            hidden = len(few[SHOWN:]) + len(wrong[SHOWN:])
            problems += [f"... and {hidden} more {split} rows"] if hidden else []
        if problems:
            raise DataError(problems)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        if self.form == "auto":
            self.form = settings.get("label_form", "number")
        self.read_labels(splits, None)

    def exported(self, model: Any) -> nn.Module:
        """`label_form` in the config of the model says what a label is."""
        vars(model.config)["label_form"] = self.form
        return model

    def _id(self, label: str, choices: Sequence[str]) -> int | None:
        return FORMS[self.form](label, choices)

    def processing(self) -> str:
        return f"{super().processing()}{self.form}"

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        contexts, *questions = [list(rows[column]) for column in self.text_columns]
        choices = self.choices_of(rows)
        asked = [f"{question} " for question in questions[0]] if questions else [""] * len(choices)
        first = [context for context, texts in zip(contexts, choices, strict=True) for _ in texts]
        second = [question + text for question, texts in zip(asked, choices, strict=True) for text in texts]
        full = self.tokenizer(first, second, verbose=False)["input_ids"]
        # the longer of the two is cut at its end, which leaves the choice whole as long as it is the shorter one
        inputs = self.tokenizer(first, second, truncation="longest_first", max_length=self.max_length)
        ends = np.cumsum([0, *map(len, choices)]).tolist()
        spans = list(zip(ends[:-1], ends[1:], strict=True))
        keys = [key for key in ("input_ids", "token_type_ids") if key in inputs]
        labels = zip(rows[self.label_column], choices, strict=True)
        return {
            **{key: [inputs[key][start:end] for start, end in spans] for key in keys},
            "length": positions(inputs["input_ids"], spans),
            "full_length": positions(full, spans),
            "label": [self._id(label, texts) for label, texts in labels],
        }

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        shape = (len(rows), max(map(len, rows)), max(len(tokens) for row in rows for tokens in row))
        mask = spread([[[1] * len(tokens) for tokens in row] for row in rows], shape, 0)
        mask[:, :, 0] = 1  # a choice that is only padding reads one token: attention to nothing gives NaN
        batch = {
            "input_ids": spread(rows, shape, self.tokenizer.pad_token_id),
            "attention_mask": mask,
            "num_choices": torch.tensor([len(row) for row in rows]),
            "labels": torch.tensor([feature["label"] for feature in features]),
        }
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = spread([feature["token_type_ids"] for feature in features], shape, 0)
        return batch

    def terms(self, batch: Batch) -> int:
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the choices of a row, summed over rows; logits (batch, choices)."""
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "num_choices")}
        logits = model(**inputs).logits.float()
        return functional.cross_entropy(among_choices(logits, batch), batch["labels"], reduction="sum"), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return {"predictions": among_choices(logits, batch).argmax(-1), "references": batch["labels"]}

    def to_predict(self) -> None:
        super().to_predict()
        self.form = "number"  # of the placeholders

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        return {self.label_column: ["0" for _ in rows[self.text_columns[0]]]}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        _, logits = self.loss(model, batch)
        sure = among_choices(logits, batch).softmax(-1).amax(-1)
        return {**self.postprocess(logits, batch), "score": sure}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{choice, number, score}`: the text of the choice, its number from 0, its probability among the choices."""
        cells = zip(self.choices_of(rows[:]), columns["predictions"], columns["score"], strict=True)
        return [
            {"choice": choices[chosen], "number": int(chosen), "score": shown(score)}
            for choices, chosen, score in cells
        ]

    def metrics(self) -> list[str]:
        return ["accuracy"]

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        return [*super().show(batch, row), (" -> ", False), (f"choice {batch['labels'][row]}", True)]


def form_of(labels: Sequence[str], choices: Sequence[Sequence[str]]) -> str:
    """What the labels are: the form that fits every row, or the likeliest when none does.

    Raises DataError when two forms fit every row and choose differently.
    """
    fitting: dict[str, list[int | None]] = {}
    for form, read in FORMS.items():
        found = [read(label, texts) for label, texts in zip(labels, choices, strict=True)]
        if None not in found:
            fitting[form] = found
    if len({tuple(found) for found in fitting.values()}) > 1:
        raise DataError(
            f"data.label_column: the labels can be read as {' and as '.join(fitting)} of the right choice, and these "
            "differ; say which is meant with task: {name: multiple_choice, label_form: " + next(iter(fitting)) + "}"
        )
    if fitting:
        return next(iter(fitting))
    if all(label.lstrip("-").isdecimal() for label in labels):
        return "number"
    return "letter" if all(label in [*LETTERS] for label in labels) else "text"


def among_choices(logits: Tensor, batch: Batch) -> Tensor:
    """Logits with those of padding choices at minus infinity."""
    padding = torch.arange(logits.shape[1], device=logits.device)[None, :] >= batch["num_choices"][:, None]
    return logits.masked_fill(padding, -torch.inf)


def positions(rows: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Tokens that a row of choices takes: each choice is padded to the row's longest."""
    return [(end - start) * max(map(len, rows[start:end])) for start, end in spans]


def spread(rows: Sequence[Sequence[Sequence[int]]], shape: tuple[int, int, int], value: int) -> Tensor:
    """Integers padded to (rows, choices, length)."""
    out = np.full(shape, value, dtype=np.int64)
    for index, row in enumerate(rows):
        for number, tokens in enumerate(row):
            out[index, number, : len(tokens)] = tokens
    return torch.from_numpy(out)
