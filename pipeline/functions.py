"""The recipes as functions, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.api import Source, run_recipe
from pipeline.callbacks import Callback, callbacks_of
from pipeline.given import given_start
from pipeline.run import Run

Model = PreTrainedModel | Mapping[str, Any] | None
Processing = PreTrainedTokenizerBase | BaseImageProcessor | None
Functions = Callback | Sequence[Callback] | None


def train(
    config: Source = None,
    /,
    *,
    model: Model = None,
    tokenizer: Processing = None,
    datasets: Mapping[str, Any] | None = None,
    on_step: Functions = None,
    on_evaluate: Functions = None,
    on_save: Functions = None,
    **settings: Any,
) -> Run:
    """Train whatever the configuration describes: any start with any strategies.

    `config` is a YAML file or a mapping. Keyword arguments are settings, by their name where it is unique
    (`learning_rate=3e-4`) or as sections (`lora={'r': 8}`).

    `model` may be a model in memory, to start from in place of the one that the configuration names. It is written
    to `output_dir/start-...` first and left as it was. `tokenizer` is what goes with it, or with random weights; for
    images the image processor. `datasets` maps train, validation and test to a `datasets.Dataset` in place of files.

    `on_step`, `on_evaluate` and `on_save` are functions, or lists of them, that get an `Event` after every step,
    evaluation and checkpoint; one that returns True ends the training after this step, and the run is finished as
    after its last. What one raises is raised here, once the step is saved. On several processes they are called on
    the main one.

    Returns the finished run. Raises ConfigError or DataError with every problem found before anything expensive,
    Stopped after saving when a signal asked for that, and RunFailed when a process was lost.
    """
    return _run("train", config, settings, model, tokenizer, datasets, [on_step, on_evaluate, on_save])


def pretrain(
    config: Source = None,
    /,
    *,
    model: Model = None,
    tokenizer: Processing = None,
    datasets: Mapping[str, Any] | None = None,
    on_step: Functions = None,
    on_evaluate: Functions = None,
    on_save: Functions = None,
    **settings: Any,
) -> Run:
    """Train a model from random weights. The arguments are those of `train`."""
    return _run("pretrain", config, settings, model, tokenizer, datasets, [on_step, on_evaluate, on_save])


def finetune(
    config: Source = None,
    /,
    *,
    model: Model = None,
    tokenizer: Processing = None,
    datasets: Mapping[str, Any] | None = None,
    on_step: Functions = None,
    on_evaluate: Functions = None,
    on_save: Functions = None,
    **settings: Any,
) -> Run:
    """Tune every weight of a checkpoint. The arguments are those of `train`."""
    return _run("finetune", config, settings, model, tokenizer, datasets, [on_step, on_evaluate, on_save])


def freeze(
    config: Source = None,
    /,
    *,
    model: Model = None,
    tokenizer: Processing = None,
    datasets: Mapping[str, Any] | None = None,
    on_step: Functions = None,
    on_evaluate: Functions = None,
    on_save: Functions = None,
    **settings: Any,
) -> Run:
    """Tune a checkpoint whose early layers keep their weights. The arguments are those of `train`."""
    return _run("freeze", config, settings, model, tokenizer, datasets, [on_step, on_evaluate, on_save])


def lora(
    config: Source = None,
    /,
    *,
    model: Model = None,
    tokenizer: Processing = None,
    datasets: Mapping[str, Any] | None = None,
    on_step: Functions = None,
    on_evaluate: Functions = None,
    on_save: Functions = None,
    **settings: Any,
) -> Run:
    """Train low-rank adapters beside the frozen weights of a checkpoint. The arguments are those of `train`."""
    return _run("lora", config, settings, model, tokenizer, datasets, [on_step, on_evaluate, on_save])


def _run(
    name: str,
    config: Source,
    settings: dict[str, Any],
    model: Model,
    tokenizer: Processing,
    datasets: Mapping[str, Any] | None,
    functions: list[Functions],
) -> Run:
    if isinstance(model, Mapping):
        model, settings = None, {**settings, "model": model}
    given = None if model is None and tokenizer is None else given_start(model, tokenizer)
    return run_recipe(name, config, settings, datasets=datasets, callbacks=callbacks_of(*functions), given=given)
