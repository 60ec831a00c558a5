"""What a task is: one file that knows its columns, its head, its batches, its loss and its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Section
from pipeline.data import LABEL_KINDS, DataConfig, Kind
from pipeline.data.settings import unread_columns
from pipeline.models.tokenizer import forget_last_call, save_tokenizer
from pipeline.optim.rules import Rule
from pipeline.tasks.padding import IGNORED as IGNORED
from pipeline.tasks.padding import TOGETHER as TOGETHER
from pipeline.tasks.padding import Batch as Batch
from pipeline.tasks.padding import Features as Features


class Task:
    """The contract. A new task is one file that fills it in and one line in `TASKS`.

    The life of a task: made from its settings, `read_labels` with the rows, `use_tokenizer` (or
    `use_image_processor`), then `encode` for every row once, `accept` the model, `augment` for every row of a training
    batch, `collate`, `terms` and `loss` for every batch; at evaluation `postprocess` (and `generate`) for every batch,
    `tune` and `examples` for all of them together, then the `metrics`; at the end `exported` with the model.
    Of a saved model: `recall` in place of `read_labels`; for rows without labels first `to_predict`, then
    `placeholders`, `encode` and `collate`, `outputs` for every batch, and `predicted` for all of them together.
    """

    class Config(Section):
        """Settings of this task: `task: {name: ..., <setting>: ...}`."""

        name: str

    settings_of_scores: ClassVar[tuple[str, ...]] = ()
    settings_of_outputs: ClassVar[tuple[str, ...]] = ()
    """Settings that touch no training but scores, and what is shown or saved: a run may go on with others of these."""
    modality: ClassVar[Literal["text", "image"]] = "text"
    """What rows are made of; it decides whether the task is given a tokenizer or an image processor."""
    reads: ClassVar[tuple[str, ...] | None] = None
    """The keys of the data section that say what this task's rows are; the other ones of their kind are refused."""
    model_class: ClassVar[str]
    """Name of the transformers auto class, such as `AutoModelForCausalLM`."""
    pipeline_tag: ClassVar[str | None] = None
    """What the hub calls such models, `text-classification` say; None where it has no name for them."""
    purpose: str = ""
    """What the model does, in the words that end the sentence "A model that ..."."""
    head_modules: ClassVar[tuple[str, ...]] = ()
    """Modules a checkpoint may lack because the task brings them new; always trained and saved, whatever is frozen."""
    nothing_to_learn: ClassVar[str] = "hold nothing to learn from"
    """What is said of the rows in `unlearnable`."""
    main_metric: str = "loss"
    """The metric that picks the best checkpoint unless the user names another."""
    predicting: bool = False  # rows have no labels: see `to_predict`
    across_rows: bool = False
    """Whether the loss of a row depends on the other rows of the global batch, as with in-batch negatives.
    Such a task fills in `represent` and `loss_of`, so that how a batch is cut does not change its loss, and its
    `examples` give a column `loss`, one number per row, since the loss of a split must not depend on that either."""

    def __init__(self, config: Any, data: DataConfig):
        self.config = config
        self.data = data
        self.tokenizer: Any = None
        self.max_length = 0

    @property
    def new_parameters(self) -> str | None:
        """Regex of the parameters that may be missing from a checkpoint."""
        return rf"(^|\.)({'|'.join(self.head_modules)})\." if self.head_modules else None

    def problems(self) -> list[str]:
        """Settings that do not go together, one sentence each; asked before any file is opened."""
        return unread_columns(self.data, self.reads, self.config.name)

    def problems_within(self, config: Any) -> list[str]:
        """Settings of other sections that do not go with this task's; `config` is the whole configuration."""
        return []

    def columns(self) -> dict[str, Kind]:
        """The columns a row must have, by name, with the kind of each."""
        raise NotImplementedError

    def inputs(self) -> list[str]:
        """The columns in which rows are compared to see whether a split shares some with the training rows."""
        return [name for name, kind in self.columns().items() if kind not in LABEL_KINDS]

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        """Fix the label map from the training rows and check every split against it. Nothing to do without labels."""

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        """Know again what `read_labels` had found out, from the config.json of a saved model; called in its place.
        `splits`: labelled rows that are to be scored, checked as there; none, where rows are to be predicted."""

    def check(self, model: nn.Module, *, random: bool) -> None:
        """Raise ConfigError when the settings do not fit the model, whose tensors have no values yet.

        Called before `encode`; the place to read what rows and batches need of the model's config. `random`: its
        weights will be drawn, and are not those of a checkpoint."""

    def use_tokenizer(self, tokenizer: Any, max_length: int) -> None:
        """From here on rows can be encoded; no row gets longer than `max_length` tokens."""
        self.tokenizer = tokenizer
        self.max_length = max_length

    def use_image_processor(self, processor: Any) -> None:
        """From here on batches can be made of images. ConfigError when the processor cannot serve the task."""
        raise NotImplementedError

    @property
    def row_processing(self) -> Any:
        """What turns rows into inputs: the tokenizer, or the image processor."""
        return self.tokenizer

    def processing(self) -> str:
        """All that `encode` depends on beside rows and settings, as text: the key of the cache of encoded rows."""
        forget_last_call(self.tokenizer)
        special = {key: str(value) for key, value in self.tokenizer.special_tokens_map.items()}
        return f"{self.tokenizer.backend_tokenizer.to_str()}{special}"

    def save_processing(self, folder: Path) -> None:
        """Write what turns rows into inputs beside the saved model."""
        save_tokenizer(self.tokenizer, folder)

    def model_kwargs(self) -> dict[str, Any]:
        """What the model's config must say for this task: number of labels, their names, problem type."""
        return {}

    def rules(self, model: nn.Module) -> list[Rule]:
        """How parameters may move before any strategy has its say: multiplier 0 for those that the loss never reads."""
        return []

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        """Columns of rows to columns of features, with `full_length` (tokens before truncation, int). Raises BadRows.

        A task that makes several feature rows of one row, or none, gives `example`: the number of the row within
        `rows`, rising; the pipeline makes it the row's number in the split."""
        raise NotImplementedError

    def kept_columns(self) -> dict[str, str]:
        """Feature -> column of the rows that `collate` reads as it is (images): kept beside the encoded rows, not
        copied into their cache. Only for tasks that make one feature row of each row."""
        return {}

    @property
    def packs(self) -> bool:
        """Whether the rows are pieces of plain text that `encode` leaves whole, to be cut into blocks."""
        return False

    @property
    def block_size(self) -> int | None:
        """Tokens of the blocks that rows are packed into; None when they are not."""
        return None

    def accept(self, model: nn.Module) -> None:
        """Raise ConfigError for a model that cannot do what the settings ask; asked once, with the weights in place."""

    def pack(self, batches: Iterator[Features]) -> Iterator[Features]:
        """Rearrange encoded rows into other rows (blocks of a fixed length, say). The default leaves them alone."""
        return batches

    def augment(self, features: Mapping[str, Any], draw: np.random.Generator) -> Mapping[str, Any]:
        """One training row, changed at random by `draw` alone (see `collate`); rows to be scored never come here."""
        return features

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        """Features of one micro-batch to padded tensors (batch, longest).

        `draws` holds one random generator per row, made from (seed, epoch, row number), so that what a row looks
        like never depends on its neighbours, on the process, or on where a run was resumed."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> int:
        """How many loss terms (tokens, rows) the batch holds; known before the forward pass."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss as a sum over `terms` (never a mean), and the logits."""
        raise NotImplementedError

    def reference(self, model: nn.Module, batch: Batch) -> Batch:
        """What the start model says about the rows of a batch, each entry (batch,); a task may leave it out. Asked for
        every row once, before the first step and again when a run is resumed; from then on the entries are columns of
        the encoded rows, which `collate` finds in each feature. Before that, and in a dry run, they are not there."""
        raise NotImplementedError

    def represent(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Batch]:
        """What the loss needs of a batch when `across_rows`: (rows, ...) with gradients, and columns without them."""
        raise NotImplementedError

    def loss_of(self, representations: Tensor, columns: Batch) -> Tensor:
        """The loss of all rows of a global batch, a sum over its terms, from what `represent` gave for its parts."""
        raise NotImplementedError

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        """What the metrics need, one entry per row of the batch, reduced on the device (logits are never kept): numbers
        or rows of them, to which -1 is added up to the widest of the split. Small types: int8 or int32, never int16."""
        raise NotImplementedError

    def generate(self, model: nn.Module, batch: Batch) -> Batch:
        """What the model writes for a batch, as further columns like those of `postprocess`; by default nothing."""
        return {}

    @property
    def tunes(self) -> bool:
        """Whether `tune` chooses anything; then the validation rows are scored once more with the weights kept."""
        return False

    def tune(self, columns: dict[str, np.ndarray]) -> None:
        """Choose what is applied to the outputs (thresholds, say) from the columns of the validation rows."""

    @property
    def has_samples(self) -> bool:
        """Whether the settings hold prompts for `samples`."""
        return False

    def samples(self, model: nn.Module) -> list[tuple[str, str]]:
        """Prompts of the settings, each with what the model writes after it, to be shown at every evaluation."""
        raise NotImplementedError

    def examples(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> dict[str, Any]:
        """From the columns of `postprocess`, one entry per feature row in order, to what the metrics take: windows are
        put together, token ids become text. `rows` is the split in normal form, `features` the encoded split."""
        return columns

    def metrics(self) -> list[str]:
        """Names of the metrics reported by default; each takes the `postprocess` columns it is declared over."""
        raise NotImplementedError

    def reported(self) -> list[str]:
        """Names of the numbers that those metrics give, for a task whose metrics give several each."""
        return self.metrics()

    def unscored(self) -> dict[str, str]:
        """Those of the reported numbers that the validation rows cannot give, each with the reason."""
        return {}

    def references(self, rows: Any) -> list[Any] | None:
        """The column `references` of the metrics where it is known before anything is scored, one for each row."""
        return None

    def to_predict(self) -> None:
        """From here on rows have no labels: the place to change settings that do not go with that."""
        self.predicting = True

    def asked(self) -> list[str]:
        """The columns that a row to be predicted must have; the others are its label."""
        return self.inputs()

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """For rows of the `asked` columns the others, filled with anything that `encode` takes."""
        return {}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        """What `predicted` needs of a batch, one entry per feature row, shaped as those of `postprocess`."""
        _, logits = self.loss(model, batch)
        return {**self.postprocess(logits, batch), **self.generate(model, batch)}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """What is said of each row, as JSON takes it, from the columns of `outputs`; arguments as for `examples`."""
        raise NotImplementedError

    def unanswerable(self, rows: Any, features: Any) -> dict[int, str]:
        """Which rows of a split to be scored cannot be, by number, each with a sentence that begins with the column."""
        return {}

    def exported(self, model: nn.Module) -> nn.Module:
        """The model as it is to be saved for use (units put back, thresholds in its config, say)."""
        return model

    def notes(self) -> list[str]:
        """Sentences on how the numbers are to be read: for the plan, `results.json` and the card."""
        return []

    def facts(self) -> dict[str, Any]:
        """What the task has found out from the rows, for `results.json`."""
        return {}

    def unlearnable(self, features: Any) -> np.ndarray:
        """Numbers of the encoded rows that hold no loss term; they are refused by name before training."""
        return np.flatnonzero(np.asarray(features["length"]) == 0)

    def sequence_length(self, features: Any, model_config: Any) -> int:
        """Positions that the longest row takes in the model, for the estimate of memory."""
        return int(np.max(features["length"]))

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        """A row of a batch as the model sees it and what it is to answer, in pieces, and whether each is learned."""
        read = batch["attention_mask"][row].bool()
        tokens = self.tokenizer.convert_ids_to_tokens(batch["input_ids"][row][read].tolist())
        return list(zip(tokens, self.trained_positions(batch)[row][read].tolist(), strict=True))

    def trained_positions(self, batch: Batch) -> Tensor:
        """Which input tokens carry a loss term: (batch, length) of bool, for showing a sample as the model sees it."""
        return torch.zeros_like(batch["input_ids"], dtype=torch.bool)
