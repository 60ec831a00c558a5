"""A model without its weights: names and shapes, from which every misfit shows before anything large is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from pipeline.models import build, load
from pipeline.models.settings import ModelConfig


def check_start(config: ModelConfig, model_class: str) -> None:
    """ConfigError when a checkpoint's config.json alone says that it cannot do the task."""
    if config.model_name_or_path is not None:
        load.check_settings(config, model_class)


def outline(
    config: ModelConfig,
    *,
    model_class: str,
    model_kwargs: dict[str, Any],
    tokenizer: Any,
    new_parameters: str | None,
    brought: Mapping[str, tuple[int, ...]] | None = None,
) -> PreTrainedModel:
    """What `from_checkpoint` or `from_config` would give, refused for the same reasons, with tensors on `meta`."""
    if config.model_name_or_path is None:
        return build.from_config(
            config, model_class=model_class, model_kwargs=model_kwargs, tokenizer=tokenizer, seed=0, outline=True
        )
    return load.from_checkpoint(
        config,
        model_class=model_class,
        model_kwargs=model_kwargs,
        tokenizer=tokenizer,
        new_parameters=new_parameters,
        outline=True,
        brought=brought,
    )
