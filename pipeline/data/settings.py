"""The `data` section: where the rows come from and which columns mean what."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config import Section
from pipeline.errors import ConfigError

Files = str | list[str] | None
Count = Annotated[int, Field(ge=1)]


class Source(Section):
    """One part of a corpus."""

    train_file: str | list[str]
    """A file, a glob, a folder, or a list of them."""
    weight: float | None = Field(None, gt=0)
    """Its share of the tokens, beside the other weights; unset for all: as many as it has."""


class DataConfig(Section):
    """Rows: files (csv, tsv, jsonl, json, txt, conll, conllu, parquet, arrow, folders or zips of images) or a dataset
    of the Hugging Face hub."""

    sources: list[Source] | None = Field(None, min_length=1)
    """A corpus in place of `train_file`: tokenized once into memory-mapped files and read in blocks, for text that is
    too much for memory, and for mixtures: `[{train_file: wiki/*.jsonl, weight: 0.7}, {train_file: code/*.jsonl, ...}]`.
    """
    preprocessing_num_workers: int = Field(1, ge=1)
    """Processes that tokenize the sources."""
    streaming: bool = False
    """Read `dataset_name` while training, for what does not fit on the disk; in blocks, for `max_steps` steps. To go
    on after a stop it is read again from the start up to where the run was, at the commit where the run began."""
    shuffle_buffer_size: int = Field(10_000, ge=0)
    """Rows of a stream among which the next one is drawn; 0: in the order of the dataset."""
    train_file: Files = None
    """Training rows: a file, a glob, a folder, or a list of them. All files must have the same suffix. A folder (or a
    zip file) of images holds one folder per class."""
    validation_file: Files = None
    """Rows to validate on while training."""
    test_file: Files = None
    """Rows to test on at the end."""

    dataset_name: str | None = None
    """Name of a hub dataset, instead of `train_file`."""
    dataset_config: str | None = None
    """Configuration (subset) of the hub dataset."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the hub dataset; the default is the newest. As with `model.revision`, a run looks up the
    commit once and keeps it."""
    dataset_train_split: str = "train"
    """Split of the hub dataset to train on."""
    dataset_validation_split: str | None = None
    """Split of the hub dataset to validate on."""
    dataset_test_split: str | None = None
    """Split of the hub dataset to test on."""

    validation_split_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training rows to set aside for validation when there are no validation rows."""
    validation_split_seed: int = Field(default=0, ge=0)
    """Seed of that draw; on its own, so that runs with other training seeds validate on the same rows."""

    text_column: str | list[str] | None = None
    """Column that holds the text, or a list of two for pairs."""
    label_column: str | None = None
    """Column that holds the label (or the labels, or the score)."""
    prompt_column: str | list[str] | None = None
    """Column that holds the prompt of a prompt-and-response pair; a list of columns is joined, without empty parts."""
    response_column: str | None = None
    """Column that holds the response of a prompt-and-response pair."""
    target_column: str | None = None
    """Column that holds the text to produce: the translation, the summary."""
    question_column: str | None = None
    """Column that holds the question."""
    context_column: str | None = None
    """Column that holds the text in which the answer stands."""
    answers_column: str | None = None
    """Column that holds the answers: `{text: [...], answer_start: [...]}`, as in SQuAD."""
    choices_column: str | list[str] | None = None
    """Column that holds the list of choices, or a list of columns with one choice each."""
    image_column: str | None = None
    """Column that holds the image: its path, or its bytes."""
    messages_column: str | None = None
    """Column that holds a conversation: a list of `{role, content}` (or `{from, value}`)."""
    tools_column: str | None = None
    """Column that holds the tools a conversation may use, as JSON; it may be empty."""
    system_column: str | None = None
    """Column that holds the system prompt; it may be empty."""
    chosen_column: str | None = None
    """Column that holds the better answer of a pair."""
    rejected_column: str | None = None
    """Column that holds the worse answer of a pair."""
    label_names: list[str] | None = None
    """Names of the labels in id order; without it they are read from the training rows."""
    column_names: list[str] | None = None
    """Names of the columns of csv and tsv files without a header line; their first line is then a row."""

    max_length: int | None = Field(default=None, ge=2)
    """Tokens a row is cut to, or length of a packed block."""
    packing: Literal["blocks", "best_fit", "none"] | None = None
    """`blocks`: join documents and cut blocks of `max_length` tokens; `best_fit`: put whole documents into blocks, kept
    apart from each other; `none`: one row per document."""
    sample_by: Literal["line", "paragraph", "document"] = "document"
    """What one row of a txt file is."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Separator of csv and tsv files; by default a comma in .csv and a tab in .tsv."""
    encoding: str = "utf-8"
    """Encoding of text files."""

    on_bad_row: Literal["error", "skip"] = "error"
    """`error`: list every row with a cell or an image that cannot be read, and end; `skip`: leave such rows out and say
    how many. What a task finds in rows that can be read (an unknown label, say) is an error in any case."""
    max_train_samples: Count | None = None
    """Train on the first so many rows only."""
    max_eval_samples: Count | None = None
    """Validate and test on the first so many rows only."""

    allow_overlap: bool = False
    """Train although more than 1 % of the validation or test rows are also training rows."""

    cache_dir: str | None = None
    """Folder for encoded rows; by default `graft` inside `HF_HOME`."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)  # lookup alone would accept codecs that are not for text, such as base64
        except LookupError:
            raise ValueError(f"unknown text encoding {value!r}; expected utf-8, latin-1, cp1252, utf-16, ...") from None
        return value

    @property
    def codec(self) -> str:
        """UTF-8 may start with a byte order mark (Excel writes one), which is not part of the first column's name."""
        name = codecs.lookup(self.encoding).name
        return "utf-8-sig" if name == "utf-8" else name

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        problems = []
        weighted = [source.weight is not None for source in self.sources or []]
        if any(weighted) and not all(weighted):
            problems.append("data.sources: some have a weight and some have none; give one to each, or to none")
        others = {"train_file": self.train_file, "dataset_name": self.dataset_name}
        others |= {key: vars(self)[key] for key in ("validation_split_fraction", "max_train_samples")}
        problems += [
            f"data.{key}: does not go with data.sources; leave it out"
            for key, given in others.items()
            if self.sources and given is not None
        ]
        if self.preprocessing_num_workers > 1 and not self.sources:
            problems.append("data.preprocessing_num_workers: is for data.sources; leave it out")
        if self.streaming:
            if self.dataset_name is None:
                problems.append("data.streaming: is for a hub dataset (data.dataset_name); files are read in any case")
            if self.validation_split_fraction is not None or self.max_train_samples is not None:
                problems.append(
                    "data.streaming: rows cannot be counted or drawn from a stream; leave "
                    "validation_split_fraction and max_train_samples out"
                )
        if self.sources and self.on_bad_row == "skip":
            problems.append("data.on_bad_row: skip does not go with data.sources; leave it out")
        if self.train_file is not None and self.dataset_name is not None:
            problems.append("data.dataset_name: train_file is set too; keep the one to train on")
        if self.validation_split_fraction is not None:
            if self.validation_file is not None:
                problems.append("data.validation_split_fraction: validation_file is set too; keep one of them")
            if self.dataset_validation_split is not None:
                problems.append("data.validation_split_fraction: dataset_validation_split is set too; keep one of them")
        if problems:
            raise ConfigError(problems)
        return self


COLUMN_KEYS = tuple(key for key in DataConfig.model_fields if key.endswith("_column")) + ("label_names", "packing")
"""Settings that say what a row is; every task reads some of them and refuses the others."""


def unread_columns(data: DataConfig, reads: tuple[str, ...] | None, task: str) -> list[str]:
    """A sentence for every key that says what a row is and that the task, which reads some of them, has no use for."""
    if reads is None:
        return []
    given = [key for key in COLUMN_KEYS if key not in reads and vars(data)[key] is not None]
    known = f"{', '.join(reads[:-1])} and {reads[-1]}" if reads[1:] else reads[0]
    return [f"data.{key}: {task} reads {known}; leave it out" for key in given]


def listed(columns: str | list[str]) -> list[str]:
    """The columns that a setting names which takes one or several."""
    return [columns] if isinstance(columns, str) else list(columns)
