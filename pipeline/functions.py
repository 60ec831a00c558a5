"""The recipes as functions, for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.api import Source, run_recipe
from pipeline.run import Run


def train(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """Train whatever the configuration describes: any start with any strategies.

    `config` is a YAML file or a mapping. Keyword arguments are settings, by their name where it is unique
    (`learning_rate=3e-4`) or as sections (`lora={'r': 8}`). `datasets` maps train, validation and test to a
    `datasets.Dataset` in place of files.

    Returns the finished run. Raises ConfigError or DataError with every problem found before anything expensive,
    Stopped after saving when a signal asked for that, and RunFailed when a process was lost.
    """
    return run_recipe("train", config, settings, datasets=datasets)


def pretrain(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """Train a model from random weights. The arguments are those of `train`."""
    return run_recipe("pretrain", config, settings, datasets=datasets)


def finetune(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """Tune every weight of a checkpoint. The arguments are those of `train`."""
    return run_recipe("finetune", config, settings, datasets=datasets)


def freeze(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """Tune a checkpoint whose early layers keep their weights. The arguments are those of `train`."""
    return run_recipe("freeze", config, settings, datasets=datasets)


def lora(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **settings: Any) -> Run:
    """Train low-rank adapters beside the frozen weights of a checkpoint. The arguments are those of `train`."""
    return run_recipe("lora", config, settings, datasets=datasets)
