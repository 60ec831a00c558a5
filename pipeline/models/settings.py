"""Which model a run starts from: a checkpoint, or a config with random weights."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.config import Section


class ModelConfig(Section):
    """The start of a run. Weights come from `model_name_or_path`, or are drawn at random for `config`."""

    model_name_or_path: str | None = None
    """Checkpoint to start from: a hub id or a local folder."""
    revision: str | None = None
    """Branch, tag or commit of the hub id; the default is the newest."""
    config: dict[str, Any] | str | None = None
    """Start from random weights instead: `{model_type: llama, hidden_size: 128, ...}`, a config.json, its folder, or
    the hub id whose architecture is taken."""
    tokenizer_name_or_path: str | None = None
    """Where the tokenizer comes from when it is not with the model."""
    init: str = "default"
    """How random weights are drawn; the names of `INITS`. `default` is the scheme the architecture's authors chose."""
    depth_scaled: bool = False
    """Multiply the projections that write into the residual stream by 1/sqrt(2 * layers) (GPT-2, section 2.3)."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Set every dropout rate the architecture has; unset keeps the checkpoint's own."""
    attn_implementation: str | None = None
    """Attention kernel: `sdpa`, `eager`, `flash_attention_2`; unset lets transformers choose."""
