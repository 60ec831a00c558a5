"""How long an input may be, read from the config before any weight is loaded."""

from __future__ import annotations

from typing import Any

from pipeline.models import build, load
from pipeline.models.fit import position_limit
from pipeline.models.settings import ModelConfig


def length_limit(config: ModelConfig, tokenizer: Any) -> int | None:
    """Tokens the model of a run takes at most; None when its architecture sets no limit."""
    if config.model_name_or_path is None:
        return position_limit(build.read_config(config, tokenizer))
    place, _ = load.read_settings(config)
    return position_limit(load.read_config(place, config))
