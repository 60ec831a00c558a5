"""A saved model of any kind (a run, its model folder, an adapter, a repository of the hub) and what it was made for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import nn

from pipeline.adapters import ADAPTER, adapter_settings, brought, put_on, read_json, whole_tensors
from pipeline.config import load, saying_where
from pipeline.errors import ConfigError
from pipeline.hub_names import locate
from pipeline.models import ModelConfig, from_checkpoint
from pipeline.prepare import start_model
from pipeline.processes import Processes
from pipeline.reach import resolve
from pipeline.reading import check_model, use_processing
from pipeline.reference import add_reference
from pipeline.session import REFERENCE_ROWS
from pipeline.settings import RunConfig, make_task, user_strategy
from pipeline.stopping import StopRequest
from pipeline.strategies import STRATEGIES
from pipeline.tasks import Task
from pipeline.yaml_file import Keys

FETCHED = ["*.json", "*.safetensors", "*.yaml", "*.txt", "*.jinja", "*.model"]
"""What is fetched of a repository: no pickled weights, no code."""
READ = ("task", "model", "data", "eval")
READ_OF_TRAIN = [("train", key) for key in ("mixed_precision", "micro_batch_size", "train_batch_size", "seed")]
"""Sections and settings that count where a saved model is used; others are refused when they are given for that."""
Overrides = Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Saved:
    """Where a saved model is."""

    name: str
    """As it was asked for."""
    folder: Path
    """Weights, config and tokenizer or image processor."""
    run: Path | None
    """Folder of the config.yaml that it was trained with; None when there is none."""
    commit: str | None = None
    """Of a repository of the hub: the commit that was read."""

    @property
    def is_adapter(self) -> bool:
        """Whether it is an adapter, to be put on its base."""
        return (self.folder / ADAPTER).is_file()

    @property
    def settings(self) -> dict[str, Any]:
        """Its config.json; empty, when it has none."""
        path = self.folder / "config.json"
        return read_json(path) if path.is_file() else {}

    def shown(self, config: Any) -> str:
        """For people: where it is and what it is; `config` is that of `as_start`, with the commits found out."""
        base = config.model
        on = f", an adapter on {_at(base.model_name_or_path, base.revision)}" if self.is_adapter else ""
        return f"{_at(self.name, self.commit)}{on}"

    def describe(self) -> dict[str, Any]:
        """For files that are handed on: a local folder by its last name alone."""
        name = self.name if self.commit else self.folder.resolve().name
        if self.run and not self.commit and self.run != self.folder:
            name = self.run.resolve().name
        return {"name": name, "local": self.commit is None, "revision": self.commit}


def find(name: str | os.PathLike[str], revision: str | None = None) -> Saved:
    """The saved model that a folder is, or that a repository of the hub holds at a revision.

    Raises ConfigError when there is none, or when the run there is not finished.
    """
    given = os.fspath(name)
    if Path(locate(given, what="model")).is_dir():
        if revision is not None:
            raise ConfigError(f"revision: {given} is a local folder, which has no revisions; leave it out")
        return _in_folder(given, Path(given).expanduser())
    return _on_hub(given, revision)


def _in_folder(name: str, folder: Path) -> Saved:
    has_config = (folder / "config.yaml").is_file()
    if (folder / "model").is_dir():
        return Saved(name, folder / "model", folder if has_config else None)
    if (folder / "config.json").is_file() or (folder / ADAPTER).is_file():
        above = folder.resolve().parent
        inside = folder.resolve().name == "model" and (above / "config.yaml").is_file()
        return Saved(name, folder, folder if has_config else above if inside else None)
    if has_config:
        raise ConfigError(f"model: the run in {name} has no model/ yet; finish it with the command that began it")
    raise ConfigError(
        f"model: {name} holds no model (a config.json or an {ADAPTER} with weights beside it) and is no run folder"
    )


def _on_hub(name: str, revision: str | None) -> Saved:
    commit = resolve(name, revision, what="model", revision_key="revision")
    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=commit, allow_patterns=FETCHED))
    except LocalEntryNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise ConfigError(f"model: {name}{at} is not in the local cache, and the hub is not reached") from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ConfigError(f"model: {name} cannot be read from the hub: {str(error).splitlines()[0]}") from error
    found = _in_folder(name, folder)
    return Saved(name, found.folder, found.run, commit=folder.name)


def settings_of(saved: Saved, config: str | Path | Mapping[str, Any] | None = None, overrides: Overrides = ()) -> Any:
    """The configuration of a saved model: that of its run, or another one, with the overrides."""
    if config is None and saved.run is None:
        raise ConfigError(
            f"model: beside {saved.name} stands no config.yaml that says what it was trained for; name one with "
            "--config my.yaml (its task and data sections are what counts)"
        )
    source = config if config is not None else saved.run / "config.yaml"  # type: ignore[operator]
    found = load(RunConfig, source, overrides, extra_section=user_strategy)
    with saying_where(found):
        if unread := [path for path in found._places.overridden() if not _is_read(path, found)]:
            raise ConfigError([f"{'.'.join(path)}: has no use without training; leave it out" for path in unread])
    return found.model_copy(deep=True)


def _is_read(path: Keys, config: Any) -> bool:
    """Whether a setting counts where a saved model is used. What it started from does for a task that compares."""
    if path[0] == "model" and path[1:] != ("attn_implementation",):
        return type(make_task(config)).reference is not Task.reference
    return path[0] in READ or path[:2] in READ_OF_TRAIN


def as_start(saved: Saved, config: Any, base_model: str | None = None) -> Any:
    """The configuration with this model as its start, or the base of this adapter, and without strategies.

    The tokenizer, or the image processor, is that beside the saved model.
    """
    known: dict[str, Any] = {"attn_implementation": config.model.attn_implementation}
    if not saved.is_adapter:
        if base_model is not None and type(make_task(config)).reference is Task.reference:
            raise ConfigError(f"base_model: {saved.name} is a whole model, not an adapter; leave it out")
        known["model_name_or_path"] = str(saved.folder)
    else:
        base = base_of(saved, config, base_model)
        known |= {"model_name_or_path": base.model_name_or_path, "revision": base.revision}
    if (saved.folder / "tokenizer_config.json").is_file():
        known["tokenizer_name_or_path"] = str(saved.folder)
    off = dict.fromkeys(STRATEGIES)
    return config.model_copy(update={"model": ModelConfig(**known), "extensions": {}, **off})


def base_of(saved: Saved, config: Any, base_model: str | None) -> ModelConfig:
    """Which base an adapter is put on: the one asked for, else that of the run, else that the adapter names."""
    if base_model is not None:
        return ModelConfig(model_name_or_path=base_model)
    if config is not None and config.model.model_name_or_path is not None and saved.run is not None:
        return ModelConfig(model_name_or_path=config.model.model_name_or_path, revision=config.model.revision)
    named = adapter_settings(saved.folder)
    if not named.get("base_model_name_or_path"):
        raise ConfigError(f"base_model: {saved.name} is an adapter and does not say on what; name its base")
    return ModelConfig(model_name_or_path=named["base_model_name_or_path"], revision=named.get("revision"))


def recall_task(saved: Saved, config: Any, splits: Mapping[str, Any]) -> Task:
    """The task of a saved model, knowing what training found out; `config` is that of `as_start`.

    `splits` are labelled rows to be scored. No weight is read.
    """
    task = make_task(config)
    task.recall(saved.settings, splits)
    ready(saved, config, task)
    return task


def ready(saved: Saved, config: Any, task: Task) -> None:
    """Give a task that knows its labels its tokenizer, and let it look at the outline of the model."""
    try:
        base = config.model
        commit = resolve(base.model_name_or_path, base.revision, what="model.model_name_or_path")
        base.revision = commit or base.revision  # of a folder there is none
        use_processing(config, task)
        check_model(config, task, whole_tensors(saved.folder, saved.name) if saved.is_adapter else None)
    except ConfigError as error:
        raise about_base(saved, error) from error


def load_model(saved: Saved, config: Any, task: Task) -> nn.Module:
    """The model with its weights, an adapter on its base, in fp32 on the processor and ready for evaluation.

    Raises ConfigError when weights are missing, damaged, or do not belong together.
    """
    if not saved.is_adapter:
        model: nn.Module = from_checkpoint(
            config.model,
            model_class=task.model_class,
            model_kwargs=task.model_kwargs(),
            tokenizer=task.tokenizer,
            new_parameters=None if task.head_modules else task.new_parameters,
        )
    else:
        model = put_on(_base_model(saved, config, task), saved.folder, saved.name)
    task.accept(model)
    return model.eval()


def _base_model(saved: Saved, config: Any, task: Task) -> nn.Module:
    """The base of an adapter. What it lacks, the adapter brings: a head drawn at random would be nobody's model."""
    whole = whole_tensors(saved.folder, saved.name)
    try:
        return from_checkpoint(
            config.model,
            model_class=task.model_class,
            model_kwargs=task.model_kwargs(),
            tokenizer=task.tokenizer,
            new_parameters=brought(sorted(whole)) if task.head_modules else task.new_parameters,
            seed=config.train.seed,
            brought=whole,
        )
    except ConfigError as error:
        raise about_base(saved, error) from error


def model_at_work(
    saved: Saved,
    config: Any,
    given: Any,
    task: Task,
    splits: dict[str, Any],
    processes: Processes,
    base_model: str | None,
    stop: StopRequest,
) -> nn.Module:
    """The model on its device, as a run evaluates it.

    `config` is that of `as_start`, made from `given`. Where a task compares with the start it was trained from, what
    that says about the rows is added to `splits`, in place: an adapter is switched off for it, else the start of
    `given` (or `base_model`) is loaded first.
    """

    def at_work(model: nn.Module) -> nn.Module:
        accelerator = processes.accelerator
        return accelerator.unwrap_model(accelerator.prepare_model(model, evaluation_mode=True))

    def compare(model: nn.Module) -> None:
        rows, seed = config.eval.eval_batch_size or REFERENCE_ROWS, config.train.seed
        add_reference(splits, model, task, processes=processes, batch_size=rows, seed=seed, stop=stop)

    compares = type(task).reference is not Task.reference
    if compares and not saved.is_adapter:
        if base_model is not None:
            given = given.model_copy(update={"model": ModelConfig(model_name_or_path=base_model)})
        compare(at_work(start_model(given, task)))
    model = at_work(load_model(saved, config, task))
    if compares and saved.is_adapter:
        compare(model)
    return model.eval()


def about_base(saved: Saved, error: ConfigError) -> ConfigError:
    """The same problems, where the start is the base of an adapter."""
    if not saved.is_adapter:
        return error
    key, bringer = "model.model_name_or_path:", ("the task does not bring", "the adapter does not bring")
    of_base = [problem.replace(key, "base_model:").replace(*bringer) for problem in error.problems]
    if of_base == error.problems:
        return error
    return ConfigError(
        [*of_base, f"{saved.name} is an adapter; where its base is elsewhere, name it with --base_model"]
    )


def _at(name: str, commit: str | None) -> str:
    return f"{name} at {commit[:12]}" if commit else name
