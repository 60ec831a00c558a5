"""The whole configuration of a run: one section per part, one per strategy, and what does not go together."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import SerializeAsAny, create_model, field_validator

from pipeline.aliases import NO_TASK, TASK_NAMES
from pipeline.checkpoint import CheckpointConfig
from pipeline.config import Section, check_section, resolve
from pipeline.data import DataConfig
from pipeline.errors import ConfigError
from pipeline.evaluation import EvalConfig
from pipeline.guard import GuardConfig
from pipeline.hub import HubConfig
from pipeline.models import INITS, ModelConfig
from pipeline.optim import OPTIMIZERS, SCHEDULES, OptimConfig
from pipeline.sharding import check_sharding
from pipeline.strategies import STRATEGIES, Strategy
from pipeline.tasks import TASKS, Task
from pipeline.tracking import TrackingConfig
from pipeline.training import TrainConfig


class _Settings(Section):
    """One run. Keys may be given in their section or, where the name is unique, alone."""

    task: SerializeAsAny[Section]
    """What is learned: a name, or `{name: ..., <setting>: ...}`; your own as `my_module:MyTask`."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    guard: GuardConfig = GuardConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    hub: HubConfig = HubConfig()
    extensions: dict[str, dict[str, Any]] = {}
    """Strategies of your own: `my_module:MyStrategy: {<setting>: ...}` at the top level lands here."""
    output_dir: str = "runs/graft"
    """Folder of the run."""

    @field_validator("output_dir")
    @classmethod
    def _home(cls, value: str) -> str:
        return os.path.expanduser(value)  # else a folder named ~ would be made

    @field_validator("task", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Section:
        if isinstance(value, Section):
            return value
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise ValueError(f"expected a task's name or {{name: ..., <setting>: ...}}; known: {', '.join(TASKS)}")
        foreign = given["name"].replace("-", "_").lower()
        if foreign not in TASKS and (ours := TASK_NAMES.get(foreign)):
            raise ValueError(f"unknown name {given['name']!r}; its name here is {ours!r}")
        if foreign not in TASKS and (said := NO_TASK.get(foreign)):
            raise ValueError(f"unknown name {given['name']!r}; {said}")
        return check_section(resolve(TASKS, given["name"], what="task").Config, given, name="task")


# one optional section per strategy: a strategy is on when its section is there
RunConfig: Any = create_model(
    "RunConfig",
    __base__=_Settings,
    __doc__=_Settings.__doc__,
    **{name: (strategy.Config | None, None) for name, strategy in STRATEGIES.items()},  # type: ignore[call-overload]
)

Start = Literal["checkpoint", "random"]


def start_of(config: Any) -> Start:
    """Whether the run starts from a checkpoint's weights or from random ones."""
    return "checkpoint" if config.model.model_name_or_path else "random"


def user_strategy(name: str) -> type[Section]:
    """The settings of a strategy named `my_module:MyStrategy`."""
    return resolve({}, name, what="strategy").Config


def make_task(config: Any) -> Task:
    """The task of the run; the only place that asks which one it is."""
    return resolve(TASKS, config.task.name, what="task")(config.task, config.data)


def strategies_of(config: Any) -> dict[str, Strategy]:
    """The strategies that are on, in the order of the registry, the user's own last."""
    found = {}
    for name, kind in STRATEGIES.items():
        section = getattr(config, name)
        if section is not None:
            found[name] = kind(section)
    for name, settings in config.extensions.items():
        kind = resolve({}, name, what="strategy")
        found[name] = kind(kind.Config.model_validate(settings))
    return found


def check(config: Any, *, has_validation: bool, has_test: bool = False) -> None:
    """Raise ConfigError with everything that does not go together; nothing is opened or loaded here."""
    model, evaluation, task = config.model, config.eval, make_task(config)
    found = [*task.problems(), *task.problems_within(config), *check_sharding(config)]
    if task.across_rows and config.train.train_batch_size == 1:
        found.append("train.train_batch_size: rows of a batch are compared with each other here; give more than 1")
    if model.model_name_or_path is None and model.config is None:
        found.append("model: give model_name_or_path (start from a checkpoint) or config (start from random weights)")
    if task.modality == "image":
        if model.tokenizer_name_or_path is not None:
            found.append("model.tokenizer_name_or_path: images need no tokenizer; leave it out")
        if config.train.train_sampling_strategy == "group_by_length":
            found.append("train.train_sampling_strategy: images have no length to group them by; leave it out")
    elif model.config is not None and model.tokenizer_name_or_path is None:
        found.append(
            "model.tokenizer_name_or_path: random weights come with no tokenizer; name one or a folder that has one"
        )
    if config.lora is not None and start_of(config) == "random":
        found.append("lora: adapters beside frozen random weights learn nothing useful; start from model_name_or_path")
    adapter = config.lora is not None and not config.lora.merge
    if config.hub.hub_push == "model" and adapter:
        found.append("hub.hub_push: this run makes an adapter; expected adapter, merged or both")
    elif config.hub.hub_push in ("adapter", "merged", "both") and not adapter and not config.extensions:
        found.append(f"hub.hub_push: this run makes a whole model, not an adapter; leave out {config.hub.hub_push}")
    if config.data.streaming and not config.train.max_steps:
        found.append("data.streaming: a stream has no known end; say how long to train with train.max_steps")
    for key in ("sources", "streaming"):
        if vars(config.data)[key] and (not task.packs or config.data.packing == "best_fit"):
            able = task.reads is not None and "packing" in task.reads
            fix = "set data.packing: blocks, with plain text" if able else "give data.train_file for this task"
            found.append(f"data.{key}: a corpus is plain text that is read in blocks; {fix}")
    if config.data.streaming and config.train.train_sampling_strategy != "sequential":
        found.append(
            "data.streaming: a stream is read in its order; set train.train_sampling_strategy: sequential "
            "(data.shuffle_buffer_size shuffles what is read)"
        )
    found += evaluation.problems()
    found += _without_rows(config, task, has_validation=has_validation, has_test=has_test)
    for what, registry, name in (
        ("model.init", INITS, model.init),
        ("optim.name", OPTIMIZERS, config.optim.name),
        ("optim.lr_scheduler_type", SCHEDULES, config.optim.lr_scheduler_type),
    ):
        try:
            resolve(registry, name, what=what)
        except ConfigError as error:
            found += error.problems
    if found:
        raise ConfigError(found)


def _without_rows(config: Any, task: Task, *, has_validation: bool, has_test: bool) -> list[str]:
    """Settings of evaluations that never come, for want of rows."""
    if has_validation:
        return []
    keys = ["metric_for_best_model", "early_stopping_patience"]
    if not task.has_samples:  # which are shown whenever there would be an evaluation
        keys = ["eval_steps", *keys]
    found = [
        f"eval.{key}: there are no validation rows; give data.validation_file, "
        "data.dataset_validation_split or data.validation_split_fraction"
        for key in keys
        if vars(config.eval)[key] is not None
    ]
    if has_test:
        return found
    fields, own = type(task.config).model_fields, vars(task.config)
    only_scores = [key for key in task.settings_of_scores if key not in task.settings_of_outputs]
    if task.has_samples:  # written by these settings too
        only_scores = [key for key in only_scores if key != "generate"]
    vain = [f"task.{key}" for key in only_scores if own[key] and own[key] != fields[key].default]
    vain += [f"eval.{key}" for key in ("metrics", "bootstrap") if vars(config.eval)[key]]
    return found + [
        f"{key}: there are no validation or test rows to score; give data.validation_file, data.test_file or "
        "data.validation_split_fraction, or leave it out"
        for key in vain
    ]
