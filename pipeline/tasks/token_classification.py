"""Label the words of a text: named entities by BIO or BIOES tags or by spans of characters, or one plain tag a word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind
from pipeline.errors import ConfigError
from pipeline.tasks.base import IGNORED, TOGETHER, Batch, Features, Task
from pipeline.tasks.entities import entities_of, in_text, in_words
from pipeline.tasks.labels import check_labels, choose_labels, named_labels, recall_labels
from pipeline.tasks.padding import attention_mask, pad
from pipeline.tasks.spans import OUTSIDE, Span, read_spans, tags_of, words_of
from pipeline.tasks.tagged_rows import check_rows, say_what_is_widened
from pipeline.tasks.tags import (
    check_tags,
    marks_entity,
    most_frequent,
    recall_span_tags,
    scorable,
    tags_of_spans,
    types_of,
    within,
)
from pipeline.tasks.windows import Window, needs_spaces, put_together, windows_of

STRIDE = 64


class TokenClassification(Task):
    """`data.text_column` (`tokens`) holds a list of words and `data.label_column` (`ner_tags`) one tag for each.

    With `label_format: spans` they hold a text (`text`) and a list of `{start, end, label}` in characters (`spans`),
    which become BIO tags of the text's words; a span that begins or ends within a word is widened to the whole word.

    The first token of a word is labelled and predicted, the others are left out (Devlin et al., 2019, section 5.3).
    A text longer than `data.max_length` becomes overlapping windows; every token counts once, in the window that
    sees most around it, and the predictions are put together again before anything is scored. A word that the
    tokenizer has no token for is scored as `O` (without `O` among the tags: as the most frequent one).
    """

    class Config(Section):
        name: str
        label_format: Literal["tags", "spans"] = "tags"
        """A tag for every word of a list of words, or spans over the characters of a text."""
        label_all_tokens: bool = False
        """Learn from every token of a word rather than the first: those after a B-x as I-x, if there is one."""
        stride: int | None = Field(None, ge=0)
        """Tokens that one window of a long text shares with the next; unset: 64, at most a quarter of `max_length`."""

    reads = ("text_column", "label_column", "label_names")
    model_class = "AutoModelForTokenClassification"
    pipeline_tag, purpose = "token-classification", "labels the words of a text"
    head_modules = ("classifier", "score")
    main_metric = "f1"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.label_names: list[str] = []
        self.label_ids: dict[str, int] = {}
        """Tag as the data writes it -> id; of spans, tag -> id."""
        self.type_names: dict[str, str] = {}
        """Label of a span as the data writes it -> its name."""
        self.validated: list[str] | None = None
        """The types of entities in the validation rows."""
        self.missing = 0
        """The tag of a word without a token."""
        self.spaced = False

    @property
    def spans(self) -> bool:
        """Rows are a text with spans rather than words with tags."""
        return self.config.label_format == "spans"

    @property
    def text_column(self) -> str:
        return str(self.data.text_column or ("text" if self.spans else "tokens"))

    @property
    def label_column(self) -> str:
        return self.data.label_column or ("spans" if self.spans else "ner_tags")

    @property
    def entities(self) -> bool:
        """The tags mark entities (B-x, I-x, ...) rather than give every word a class."""
        return any(map(marks_entity, self.label_names))

    def problems(self) -> list[str]:
        found = super().problems()
        if isinstance(self.data.text_column, list):
            found.append(f"data.text_column: expected one column, got {self.data.text_column}")
        stride, length = self.config.stride, self.data.max_length
        if stride is not None and length is not None and stride >= length:
            found.append(f"task.stride: {stride} is not below data.max_length {length}, so no window would be new")
        return found

    def columns(self) -> dict[str, Kind]:
        if self.spans:
            return {self.text_column: "text", self.label_column: "json"}
        return {self.text_column: "texts", self.label_column: "tags"}

    def inputs(self) -> list[str]:
        return [self.text_column]

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        check_rows(splits, self.text_column, self.label_column, self.data, spans=self.spans)
        if self.spans:
            spans = {split: list(map(read_spans, rows[self.label_column])) for split, rows in splits.items()}
            self.label_names, self.type_names = tags_of_spans(spans, self.label_column, self.data, checkpoint_labels)
            self.label_ids = {tag: index for index, tag in enumerate(self.label_names)}
            say_what_is_widened(splits, self.text_column, self.label_column, self.data)
        else:
            tags = splits["train"][self.label_column]
            self.label_names, self.label_ids = choose_labels(tags, self.data.label_names, checkpoint_labels)
            check_labels(splits, self.label_column, self.label_ids, self.data)
            check_tags(splits, self.label_column, self.label_ids, self.label_names, self.data)
        if OUTSIDE in self.label_names:
            self.missing = self.label_names.index(OUTSIDE)
        else:
            self.missing = most_frequent([tags for _, tags in self._sentences(splits["train"])])
        self._look_at_types(splits)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        check_rows(splits, self.text_column, self.label_column, self.data, spans=self.spans)
        if self.spans:
            self.label_names, self.type_names = recall_span_tags(settings, splits, self.label_column, self.data)
            self.label_ids = {tag: index for index, tag in enumerate(self.label_names)}
        else:
            self.label_names, self.label_ids = recall_labels(settings, splits, self.label_column, self.data)
            check_tags(splits, self.label_column, self.label_ids, self.label_names, self.data)
        missing = OUTSIDE if OUTSIDE in self.label_names else settings.get("missing_tag")
        self.missing = self.label_names.index(missing) if missing in self.label_names else 0
        self._look_at_types(splits)

    def _look_at_types(self, splits: Mapping[str, Any]) -> None:
        if not self.entities:
            self.main_metric = "accuracy"
        elif "validation" in splits:
            found = {tag for _, tags in self._sentences(splits["validation"]) for tag in tags}
            self.validated = types_of([self.label_names[tag] for tag in found])

    def exported(self, model: Any) -> nn.Module:
        """`missing_tag` in the config of the model is the tag of a word without a token, where there is no `O`."""
        if OUTSIDE not in self.label_names:
            vars(model.config)["missing_tag"] = self.label_names[self.missing]
        return model

    def _sentences(self, rows: Mapping[str, Sequence[Any]]) -> Iterable[tuple[list[str], list[int]]]:
        """Per row the words as the tokenizer takes them, and the ids of their tags."""
        for text, labels in zip(rows[self.text_column], rows[self.label_column], strict=True):
            if not self.spans:
                words = [text[0], *(f" {word}" for word in text[1:])] if self.spaced else list(text)
                yield words, [self.label_ids[tag] for tag in labels]
                continue
            places = words_of(text)
            spans = [Span(span.start, span.end, self.type_names[span.label]) for span in read_spans(labels)]
            tags = [self.label_ids[tag] for tag in tags_of(places, spans)]
            after_space = [self.spaced and text[start - 1 : start].isspace() for start, _ in places]
            yield [" " * after + text[start:end] for (start, end), after in zip(places, after_space, strict=True)], tags

    def model_kwargs(self) -> dict[str, Any]:
        return named_labels(self.label_names)

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        super().use_tokenizer(tokenizer, max_length)
        self.spaced = needs_spaces(tokenizer)
        room = max_length - tokenizer.num_special_tokens_to_add()
        if room < 1:
            raise ConfigError(f"data.max_length: {max_length} tokens leave no room beside the special tokens; raise it")
        if self.stride >= room:
            raise ConfigError(
                f"task.stride: windows of {room} tokens (data.max_length without special tokens) that share "
                f"{self.stride} with the next would not move on; give at most {room - 1}"
            )

    @property
    def stride(self) -> int:
        """Tokens that a window shares with the next one."""
        return int(min(STRIDE, self.max_length // 4) if self.config.stride is None else self.config.stride)

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        words, tags = map(list, zip(*self._sentences(rows), strict=True))
        features: Features = {"input_ids": [], "labels": [], "words": [], "example": []}
        typed = "token_type_ids" in self.tokenizer.model_input_names
        if typed:
            features["token_type_ids"] = []
        found = windows_of(self.tokenizer, words, max_length=self.max_length, stride=self.stride)
        for example, (windows, row) in enumerate(zip(found, tags, strict=True)):
            labelled = [(window, self._labels(window, row)) for window in windows]
            # a window all of whose words are answered for elsewhere is not needed
            for window, labels in [pair for pair in labelled if set(pair[1]) != {IGNORED}] or labelled[:1]:
                features["input_ids"].append(window.input_ids)
                features["labels"].append(labels)
                features["words"].append(window.answers)
                features["example"].append(example)
                if typed:
                    features["token_type_ids"].append(window.token_type_ids)
        return features

    def _labels(self, window: Window, tags: Sequence[int]) -> list[int]:
        """Per token the id to learn, or IGNORED."""
        labels = []
        for word, first, owned in zip(window.words, window.first, window.owned, strict=True):
            learned = owned and (first or self.config.label_all_tokens)
            labels.append((tags[word] if first else within(self.label_names, tags[word])) if learned else IGNORED)
        return labels

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        rows = [feature["input_ids"] for feature in features]
        batch = {
            "input_ids": pad(rows, self.tokenizer.pad_token_id),
            "attention_mask": attention_mask(rows),
            "labels": pad([feature["labels"] for feature in features], IGNORED),
        }
        if "token_type_ids" in features[0]:
            batch["token_type_ids"] = pad([feature["token_type_ids"] for feature in features], 0)
        return batch

    def terms(self, batch: Batch) -> int:
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**inputs).logits
        flattened = logits.flatten(0, 1).float(), batch["labels"].flatten()
        return functional.cross_entropy(*flattened, ignore_index=IGNORED, reduction="sum"), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        """The most likely tag of every token: (batch, longest), a byte each where the tags allow it."""
        return {"predictions": logits.argmax(-1).to(torch.int8 if len(self.label_names) <= 128 else torch.int32)}

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        """One list of tag names per row for entities; for plain tags their ids, one per word."""
        references = [tags for _, tags in self._sentences(rows)]
        predictions = put_together(columns["predictions"], features, references, self.missing)
        if not self.entities:
            sentences = np.repeat(np.arange(len(references)), [len(tags) for tags in references])
            words = {"predictions": np.concatenate(predictions), "references": np.concatenate(references)}
            return {**words, TOGETHER: sentences}
        names = [scorable(name) for name in self.label_names]
        return {
            "predictions": [[names[tag] for tag in row] for row in predictions],
            "references": [[names[tag] for tag in row] for row in references],
        }

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        tag = self.label_names[0]
        return {self.label_column: ["[]" if self.spans else [tag for _ in text] for text in rows[self.text_column]]}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{tags, entities}`, or `{entities}` of a text; see `entities_of`. Plain tags: `{tags}`."""
        words = [tags for _, tags in self._sentences(rows)]
        tags = put_together(columns["predictions"], features, words, self.missing)
        names = [[self.label_names[tag] for tag in row] for row in tags]
        if not self.entities:
            return [{"tags": row} for row in names]
        found = [entities_of(list(map(scorable, row)), self.label_names) for row in names]
        if self.spans:
            return [in_text(text, spans) for text, spans in zip(rows[self.text_column], found, strict=True)]
        cells = zip(rows[self.text_column], names, found, strict=True)
        return [in_words(words, row, spans) for words, row, spans in cells]

    def metrics(self) -> list[str]:
        return ["seqeval"] if self.entities else ["accuracy", "f1_macro"]

    def reported(self) -> list[str]:
        if not self.entities:
            return self.metrics()
        return ["precision", "recall", "f1", "accuracy", *(f"f1_{name}" for name in types_of(self.label_names))]

    def unscored(self) -> dict[str, str]:
        if self.validated is None:
            return {}
        there = ", ".join(map(repr, self.validated)) or "none at all"
        return {
            f"f1_{name}": f"no validation row has an entity {name!r} (those with one: {there})"
            for name in types_of(self.label_names)
            if name not in self.validated
        }

    def unlearnable(self, features: Any) -> np.ndarray:
        learned = [any(label != IGNORED for label in row) for row in features["labels"]]
        return np.flatnonzero(~np.array(learned))

    def trained_positions(self, batch: Batch) -> Tensor:
        return torch.ne(batch["labels"], IGNORED)
