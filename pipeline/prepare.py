"""From a configuration to a run that is ready to start: checked, read, encoded and built, cheap things first."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from pipeline import models
from pipeline.accelerator import PACKAGE, asked_to_shard, make_accelerator
from pipeline.callbacks import Callback, Moment
from pipeline.config import saying_where
from pipeline.errors import ConfigError
from pipeline.given import Given, hash_of, settle, write
from pipeline.hub import check_push
from pipeline.models import license_of
from pipeline.optim import Movement, apply, movements
from pipeline.output import check_output
from pipeline.processes import Processes
from pipeline.reach import go_offline, noticing_lost_connections
from pipeline.reading import Data, read
from pipeline.safe_text import masked, without_paths
from pipeline.settings import check, start_of, strategies_of
from pipeline.stopping import StopRequest
from pipeline.strategies import Strategy
from pipeline.tasks import Task


@dataclass
class Prepared:
    """A run that is ready to start: everything checked, encoded and built."""

    config: Any
    accelerator: Accelerator
    processes: Processes
    data: Data
    model: nn.Module
    strategies: dict[str, Strategy]
    movements: dict[str, Movement]
    recipe: str = "train"
    script: str | None = None
    """The file of a `build_model` of the user's own."""
    start_weights: str | None = None
    """Hash of the start model, for a task that compares with it."""
    command: tuple[str, ...] = ()
    """What was typed to start the run; empty when it was started from Python."""
    in_memory: bool = False
    """Whether the rows were handed over from Python, so that no file tells where they are."""
    callbacks: Mapping[Moment, Sequence[Callback]] = field(default_factory=dict)
    """The user's functions by the moment at which they are called."""
    given: Given = Given()

    @property
    def task(self) -> Task:
        return self.data.task

    @property
    def rows(self) -> dict[str, Any]:
        """Split -> rows in normal form (datasets.Dataset)."""
        return self.data.rows

    @property
    def splits(self) -> dict[str, Any]:
        """Split -> encoded rows with `length` and `truncated`."""
        return self.data.splits

    @property
    def fingerprints(self) -> dict[str, str]:
        """Split -> hash of its rows."""
        return self.data.fingerprints

    def facts(self, step: int) -> dict[str, str]:
        """What every process must see alike before the first step."""
        described = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        rows = "".join(self.fingerprints.values())
        return {
            "configuration (its sha256)": sha256(described.encode()).hexdigest()[:12],
            "set of rows (their sha256)": sha256(rows.encode()).hexdigest()[:12],
            "step": str(step),
            "version of torch": torch.__version__,
            "set of functions to call": str({name: len(given) for name, given in self.callbacks.items()}),
        }

    def describe(self) -> dict[str, Any]:
        """Recipe, model, data, functions and hub commits for the manifest; a local folder by its last name alone."""
        name = self.config.model.model_name_or_path
        local = name is not None and Path(name).exists()
        revision = self.config.model.revision
        shown = self.given.described or (Path(name).name if local else name)
        model = {"name": shown, "local": local, "revision": revision}
        if name is not None and self.processes.is_main:
            model |= license_of(name, revision)
        data = {
            split: {"rows": self.data.sizes[split], "fingerprint": self.fingerprints[split]} for split in self.splits
        }
        start: dict[str, Any] = {"recipe": self.recipe, "script": self.script, "rows_in_memory": self.in_memory}
        start |= {"command": [without_paths(masked(word)) for word in self.command] or None}
        if any(self.callbacks.values()):
            start["functions"] = [moment for moment, functions in self.callbacks.items() if functions]
        pins = {what: asdict(pin) for what, pin in self.data.pins.items()}
        return {**start, "model": model, "dataset": self._dataset(), "data": data, "hub": pins}

    def _dataset(self) -> dict[str, Any] | None:
        """The hub dataset of the rows: its name, and which of its splits is which of ours; None for other rows."""
        data = self.config.data
        if data.dataset_name is None or self.in_memory:
            return None
        names = (data.dataset_train_split, data.dataset_validation_split, data.dataset_test_split)
        return {
            "name": data.dataset_name,
            "config": data.dataset_config,
            "revision": data.dataset_revision,
            "splits": dict(zip(("train", "validation", "test"), names, strict=True)),
            "max_eval_samples": data.max_eval_samples,
        }


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
    command: Sequence[str] = (),
    callbacks: Mapping[Moment, Sequence[Callback]] | None = None,
    given: Given | None = None,
) -> Prepared:
    """Check, read, encode and build, cheap things first. Raises ConfigError or DataError with all problems found.

    Raises Stopped when `stop` is asked for meanwhile; what fails on one process fails on all.
    """
    with saying_where(config):
        folder = settle(config, given) if given else None
        accelerator = _checked(config, datasets)
        processes, stop = Processes(accelerator), stop or StopRequest()
        try:
            if given and folder:
                processes.on_main(lambda: write(given, folder))
            with noticing_lost_connections():
                prepared = _prepare(config, accelerator, processes, build_model, datasets, stop)
        except Exception as error:
            processes.meet(error)
            raise
        processes.meet()
    return replace(
        prepared,
        recipe=recipe,
        script=script_of(build_model),
        command=tuple(command),
        in_memory=datasets is not None,
        callbacks=callbacks or {},
        given=given or Given(),
    )


def _checked(config: Any, datasets: Mapping[str, Any] | None) -> Accelerator:
    """What can be said before any other process is heard of."""
    config.train.fsdp = config.train.fsdp or asked_to_shard()
    check_settings(config, datasets)
    return make_accelerator(
        config.train.mixed_precision,
        log_with=config.tracking.report_to or None,
        project_dir=config.output_dir,
        timeout_seconds=config.train.ddp_timeout,
    )


def check_settings(config: Any, datasets: Mapping[str, Any] | None = None) -> None:
    """Raise ConfigError with everything that can be said of the settings alone; nothing is opened or loaded."""
    data = config.data
    sources = (data.validation_file, data.dataset_validation_split, data.validation_split_fraction)
    check(
        config,
        has_validation="validation" in (datasets or {}) or any(sources),
        has_test="test" in (datasets or {}) or any((data.test_file, data.dataset_test_split)),
    )
    check_output(config.output_dir, config.checkpoint.resume)


def _prepare(
    config: Any,
    accelerator: Accelerator,
    processes: Processes,
    build_model: BuildModel,
    datasets: Mapping[str, Any] | None,
    stop: StopRequest,
) -> Prepared:
    if config.hub.push_to_hub and processes.from_main(lambda: "" if check_push(config.hub) else "offline"):
        go_offline()
    data = read(config, datasets, stop, processes=processes)
    task = data.task
    model = build_model(config, task)
    task.accept(model)
    stop.poll()
    strategies = strategies_of(config)
    rules = [task.rules(model), *(strategy.rules(model, task) for strategy in strategies.values())]
    found = movements(model, rules, config.optim.weight_decay)
    apply(model, found)
    if config.train.gradient_checkpointing:
        checkpoint_activations(model)
    start_weights = None if type(task).reference is Task.reference else hash_of(model)
    return Prepared(config, accelerator, processes, data, model, strategies, found, start_weights=start_weights)


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in backward instead of keeping them."""
    with warnings.catch_warnings():  # transformers 5 renames the method; the old name works from 5.3 on
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        except ValueError as error:
            raise ConfigError(f"train.gradient_checkpointing: {error}") from error
