"""From a configuration to a run that is ready to start: checked, read, encoded and built, cheap things first."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from pipeline import models
from pipeline.accelerator import PACKAGE, asked_to_shard, make_accelerator
from pipeline.config import saying_where
from pipeline.data import fingerprint, load_splits
from pipeline.encoding import encoded, refuse_unlearnable
from pipeline.errors import ConfigError, DataError, nearest
from pipeline.evaluation import load_metrics, reported_names
from pipeline.models.limit import length_limit
from pipeline.optim import Movement, apply, movements
from pipeline.output import check_output
from pipeline.processes import Processes
from pipeline.settings import check, make_task, start_of, strategies_of
from pipeline.stopping import StopRequest
from pipeline.strategies import Strategy
from pipeline.tasks import Task

DEFAULT_MAX_LENGTH = 1024


@dataclass
class Prepared:
    """A run that is ready to start: everything checked, encoded and built."""

    config: Any
    accelerator: Accelerator
    processes: Processes
    task: Task
    rows: dict[str, Any]
    """Split -> rows in normal form (datasets.Dataset)."""
    splits: dict[str, Any]
    """Split -> encoded rows with `length` and `truncated`."""
    model: nn.Module
    strategies: dict[str, Strategy]
    movements: dict[str, Movement]
    fingerprints: dict[str, str]
    recipe: str = "train"
    script: str | None = None
    """The file of a `build_model` of the user's own."""
    in_memory: bool = False
    """Whether the rows were handed over from Python, so that no file tells where they are."""

    def describe(self) -> dict[str, Any]:
        """Recipe, model and data for the manifest; a local folder by its last name alone."""
        name = self.config.model.model_name_or_path
        local = name is not None and Path(name).exists()
        model = {"name": Path(name).name if local else name, "local": local, "revision": self.config.model.revision}
        data = {
            split: {"rows": len(rows), "fingerprint": self.fingerprints[split]} for split, rows in self.rows.items()
        }
        start = {"recipe": self.recipe, "script": self.script, "rows_in_memory": self.in_memory}
        return {**start, "model": model, "data": data}


BuildModel = Callable[[Any, Task], nn.Module]


def from_checkpoint(config: Any, task: Task) -> nn.Module:
    """The checkpoint of `model.model_name_or_path`, with a new head where the task needs one."""
    return models.from_checkpoint(
        config.model,
        model_class=task.model_class,
        model_kwargs=task.model_kwargs(),
        tokenizer=task.tokenizer,
        new_parameters=task.new_parameters,
        seed=config.train.seed,
    )


def from_config(config: Any, task: Task) -> nn.Module:
    """The architecture of `model.config`, with weights drawn by `model.init` from the run's seed."""
    return models.from_config(
        config.model,
        model_class=task.model_class,
        model_kwargs=task.model_kwargs(),
        tokenizer=task.tokenizer,
        seed=config.train.seed,
    )


def start_model(config: Any, task: Task) -> nn.Module:
    """The model a run starts from, before any strategy touches it."""
    return from_checkpoint(config, task) if start_of(config) == "checkpoint" else from_config(config, task)


def adapt(model: nn.Module, config: Any, task: Task) -> nn.Module:
    """What the strategies of the run add to the model (adapters), in the order of the registry, from the run's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        for strategy in strategies_of(config).values():
            model = strategy.wrap(model, task)
    return model


def whole_model(config: Any, task: Task) -> nn.Module:
    """The start model with what the strategies add: what a recipe builds unless it says otherwise."""
    return adapt(start_model(config, task), config, task)


def script_of(build_model: BuildModel) -> str | None:
    """The file that defines a `build_model` of the user's own; None for graft's and those of its recipes."""
    if not inspect.isfunction(build_model):
        return type(build_model).__name__
    file = Path(inspect.getfile(build_model)).resolve()
    return None if file.parent in (PACKAGE, PACKAGE.parent / "recipes") else file.name


def prepare(
    config: Any,
    *,
    build_model: BuildModel = whole_model,
    datasets: Mapping[str, Any] | None = None,
    stop: StopRequest | None = None,
    recipe: str = "train",
) -> Prepared:
    """Check, read, encode and build, cheap things first. Raises ConfigError or DataError with all problems found.

    Raises Stopped when `stop` is asked for meanwhile; what fails on one process fails on all.
    """
    with saying_where(config):
        accelerator = _checked(config, datasets)
        processes, stop = Processes(accelerator), stop or StopRequest()
        try:
            prepared = _prepare(config, accelerator, processes, build_model, datasets, stop)
        except Exception as error:
            processes.meet(error)
            raise
        processes.meet()
    return replace(prepared, recipe=recipe, script=script_of(build_model), in_memory=datasets is not None)


def _checked(config: Any, datasets: Mapping[str, Any] | None) -> Accelerator:
    """What can be said before any other process is heard of."""
    config.train.fsdp = config.train.fsdp or asked_to_shard()
    data = config.data
    sources = (data.validation_file, data.dataset_validation_split, data.validation_split_fraction)
    check(config, has_validation="validation" in (datasets or {}) or any(sources))
    check_output(config.output_dir, config.checkpoint.resume)
    return make_accelerator(
        config.train.mixed_precision,
        log_with=config.tracking.report_to or None,
        project_dir=config.output_dir,
        timeout_seconds=config.train.ddp_timeout,
    )


def _prepare(
    config: Any,
    accelerator: Accelerator,
    processes: Processes,
    build_model: BuildModel,
    datasets: Mapping[str, Any] | None,
    stop: StopRequest,
) -> Prepared:
    models.prepare_hub(
        {f"model.{key}": vars(config.model)[key] for key in ("model_name_or_path", "tokenizer_name_or_path")},
        revision=config.model.revision,
    )
    task = make_task(config)
    models.check_start(config.model, task.model_class)
    rows = load_splits(config.data, task.columns(), datasets=datasets)
    if "train" not in rows:
        raise DataError("data: there are no training rows; give data.train_file or data.dataset_name")
    stop.poll()
    task.read_labels(rows, models.checkpoint_labels(config.model, task.model_class))
    check_best_metric(config, task)
    tokenizer = models.load_tokenizer(config.model)
    task.use_tokenizer(tokenizer, _max_length(config, tokenizer))
    check_model(config, task)
    prints = {split: fingerprint(part, task.columns()) for split, part in rows.items()}
    stop.poll()
    splits = {split: encoded(config, task, part, prints[split], split, stop) for split, part in rows.items()}
    refuse_unlearnable(task, splits)
    model = build_model(config, task)
    stop.poll()
    strategies = strategies_of(config)
    found = movements(
        model, [strategy.rules(model, task) for strategy in strategies.values()], config.optim.weight_decay
    )
    apply(model, found)
    if config.train.gradient_checkpointing:
        checkpoint_activations(model)
    return Prepared(config, accelerator, processes, task, rows, splits, model, strategies, found, prints)


def check_model(config: Any, task: Task) -> None:
    """Refuse a start, or a strategy, that cannot work, from names and shapes alone: no weight is read or drawn."""
    model = models.outline(
        config.model,
        model_class=task.model_class,
        model_kwargs=task.model_kwargs(),
        tokenizer=task.tokenizer,
        new_parameters=task.new_parameters,
    )
    task.use_config(model.config)
    strategies = list(strategies_of(config).values())
    for strategy in strategies:
        strategy.check(model, task)
    if all(type(strategy).wrap is Strategy.wrap for strategy in strategies):
        movements(model, [strategy.rules(model, task) for strategy in strategies], config.optim.weight_decay)


def check_best_metric(config: Any, task: Task) -> None:
    """Refuse a metric that is not there, and a metric_for_best_model that nothing will report.

    Metrics of the user's own may report any name.
    """
    try:
        asked = load_metrics(config.eval.metrics)
    except ConfigError as error:
        raise ConfigError([f"eval.metrics: {text.removeprefix('metric: ')}" for text in error.problems]) from error
    wanted = config.eval.metric_for_best_model
    if wanted is None:
        return
    reported = [reported_names(metric) for metric in (*load_metrics(task.metrics()).values(), *asked.values())]
    known = ["loss", *(name for names in reported for name in names or ())]
    if wanted not in known and None not in reported:
        raise ConfigError(
            f"eval.metric_for_best_model: {wanted!r} is not reported by this task; {nearest(wanted, known)} "
            "(or add it to eval.metrics)"
        )


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in backward instead of keeping them."""
    with warnings.catch_warnings():  # transformers 5 renames the method; the old name works from 5.3 on
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise ConfigError(f"train.gradient_checkpointing: {error}") from error


def _max_length(config: Any, tokenizer: Any) -> int:
    limit = length_limit(config.model, tokenizer)
    asked = config.data.max_length
    if limit is not None and asked is not None and asked > limit:
        raise ConfigError(f"data.max_length: {asked} is more than this model's {limit} positions; give at most {limit}")
    return asked or min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)
