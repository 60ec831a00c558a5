"""Models, tokenizers, initialization, and what can be read off a model."""

from __future__ import annotations

from pipeline.models.build import from_config
from pipeline.models.fit import position_limit
from pipeline.models.image_processor import load_image_processor
from pipeline.models.init import INITS, initialize
from pipeline.models.inspect import (
    Part,
    count_parameters,
    embedding_pattern,
    embedding_prefixes,
    layer_prefixes,
    lora_target_modules,
    parameter_table,
)
from pipeline.models.license import license_of
from pipeline.models.load import checkpoint_labels, from_checkpoint
from pipeline.models.memory import free_memory, memory_estimate
from pipeline.models.outline import check_start, outline
from pipeline.models.settings import ModelConfig
from pipeline.models.tokenizer import load_tokenizer, token_rows

__all__ = [
    "INITS",
    "ModelConfig",
    "Part",
    "check_start",
    "checkpoint_labels",
    "count_parameters",
    "embedding_pattern",
    "embedding_prefixes",
    "free_memory",
    "from_checkpoint",
    "from_config",
    "initialize",
    "layer_prefixes",
    "license_of",
    "load_image_processor",
    "load_tokenizer",
    "lora_target_modules",
    "memory_estimate",
    "outline",
    "parameter_table",
    "position_limit",
    "token_rows",
]
