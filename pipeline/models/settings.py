"""Which model a run starts from: a checkpoint, or a config with random weights."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.config import Section
from pipeline.errors import ConfigError

Attention = Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]


class ModelConfig(Section):
    """The start of a run. Weights come from `model_name_or_path`, or are drawn at random for `config`."""

    model_name_or_path: str | None = None
    """Checkpoint to start from: a hub id or a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the hub id; the default is the newest. A run begins by looking up the commit, loads
    everything from it, and writes it into its config.yaml."""
    config: dict[str, Any] | str | None = None
    """Start from random weights instead: `{model_type: llama, hidden_size: 128, ...}`, a config.json, its folder, or
    the hub id whose architecture is taken."""
    tokenizer_name_or_path: str | None = None
    """Where the tokenizer comes from when it is not with the model."""
    tokenizer_revision: str | None = None
    """Branch, tag or commit of the hub id in `tokenizer_name_or_path`."""
    init: str = "default"
    """How random weights are drawn; the names of `INITS`. `default` is the scheme the architecture's authors chose."""
    depth_scaled: bool = False
    """Multiply the projections that write into the residual stream by 1/sqrt(2 * layers) (GPT-2, section 2.3)."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Set every dropout rate the architecture has; unset keeps the checkpoint's own."""
    attn_implementation: Attention | None = None
    """Attention kernel; unset lets transformers choose. A kernel fetched from the hub is foreign code and refused."""

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        problems = []
        if self.model_name_or_path is not None:
            if self.config is not None:
                problems.append(
                    "model.config: is for random weights, and model_name_or_path is set too; set one of them"
                )
            if self.init != "default":
                problems.append("model.init: is for random weights (config), not for a checkpoint; leave it out")
            if self.depth_scaled:
                problems.append(
                    "model.depth_scaled: is for random weights (config), not for a checkpoint; leave it out"
                )
        elif self.revision is not None and not isinstance(self.config, str):
            problems.append("model.revision: belongs to a hub id in model_name_or_path, which is not set")
        if self.tokenizer_revision is not None and self.tokenizer_name_or_path is None:
            problems.append("model.tokenizer_revision: belongs to tokenizer_name_or_path, which is not set")
        if problems:
            raise ConfigError(problems)
        return self
