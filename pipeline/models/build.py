"""A model with random weights, from a config."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pipeline.config import resolve
from pipeline.errors import ConfigError, nearest
from pipeline.hub_names import locate
from pipeline.models.attention import attention
from pipeline.models.fit import apply_dropout, apply_task, check_architecture, fit_tokenizer
from pipeline.models.init import INITS, initialize
from pipeline.models.settings import ModelConfig
from pipeline.models.tokenizer import token_rows

logger = logging.getLogger(__name__)

KEY = "model.config"


def from_config(
    config: ModelConfig,
    *,
    model_class: str,
    model_kwargs: Mapping[str, Any],
    tokenizer: Any,
    seed: int,
    outline: bool = False,
) -> PreTrainedModel:
    """A model of `model.config`'s architecture with random weights, in fp32 on the CPU.

    `model.config` is `{model_type: ..., <setting>: ...}`, a config.json, its folder, or a hub id. Unless a dict sets
    it, the vocabulary has as many rows as the tokenizer has ids. The same seed gives the same weights; the global
    random state is left as it was.

    An `outline` has names and shapes only, and takes no memory.
    Raises ConfigError for an unknown model type, setting or value, and when the architecture cannot do the task.
    """
    resolve(INITS, config.init, what="model.init")
    model_config = read_config(config, tokenizer)
    check_architecture(model_config, model_class, where=KEY)
    apply_task(model_config, model_kwargs)
    if config.dropout is not None:
        apply_dropout(model_config, config.dropout)
    kernel = attention(config, model_config._attn_implementation)
    device = torch.device("meta" if outline else "cpu")
    with torch.random.fork_rng(devices=[]), no_init_weights(), device:
        try:
            model = getattr(transformers, model_class).from_config(model_config, dtype=torch.float32, **kernel)
        except (ValueError, TypeError, RuntimeError, ImportError, ZeroDivisionError, AssertionError) as error:
            raise ConfigError(f"{KEY}: no {model_config.model_type} can be built from it: {error}") from error
    fit_tokenizer(model, tokenizer, where=KEY)
    if outline:
        return model
    initialize(model, config.init, depth_scaled=config.depth_scaled, seed=seed)
    return model


def read_config(config: ModelConfig, tokenizer: Any) -> PreTrainedConfig:
    source = config.config
    if source is None:
        raise ConfigError(f"{KEY}: is not set; give {{model_type: llama, ...}}, a config.json, its folder or a hub id")
    if isinstance(source, dict):
        return _from_settings(dict(source), tokenizer)
    is_file = Path(source).expanduser().is_file()
    if source.endswith(".json") and not is_file:
        raise ConfigError(f"{KEY}: there is no file {source}")
    place = source if is_file else locate(source, what=KEY)
    try:
        model_config = AutoConfig.from_pretrained(
            Path(place).expanduser() if Path(place).exists() else place, revision=config.revision
        )
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise ConfigError(f"{KEY}: {source} has no config of a known architecture ({str(error)[:200]})") from error
    if tokenizer is not None:
        # Weights are random, so rows for another tokenizer's ids would be dead weight.
        for name, value in _token_settings(tokenizer, known=vars(model_config)).items():
            setattr(model_config, name, value)
    return model_config


def _from_settings(settings: dict[str, Any], tokenizer: Any) -> PreTrainedConfig:
    model_type = settings.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        if model_type is None:
            raise ConfigError(f"{KEY}: has no model_type; say which architecture, such as model_type: llama")
        raise ConfigError(
            f"{KEY}: unknown model_type {model_type!r}; {nearest(str(model_type), CONFIG_MAPPING.keys())}"
        )
    config_class: Any = CONFIG_MAPPING[model_type]
    defaults = {field.name: field.default for field in dataclasses.fields(config_class)}
    known = set(defaults) | set(config_class.attribute_map)
    if defaults.get("is_encoder_decoder") is True:
        known.add("decoder_start_token_id")  # T5's config takes it without naming it
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError([f"{KEY}.{key}: unknown for {model_type}; {nearest(key, known)}" for key in unknown])
    if tokenizer is not None:
        settings = _token_settings(tokenizer, known=known) | settings
    try:
        return config_class(**settings)
    except (ValueError, TypeError, StrictDataclassError) as error:
        said = re.sub(r"^Class validation error for validator '\w+': \w+: ", "", " ".join(str(error).split()))
        raise ConfigError(f"{KEY}: {said}") from error


def _token_settings(tokenizer: Any, *, known: Collection[str]) -> dict[str, Any]:
    """Vocabulary size and special ids for a config: its defaults belong to the tokenizer it was published with."""
    settings: dict[str, Any] = {"vocab_size": token_rows(tokenizer)}
    for kind in ("pad", "bos", "eos", "cls", "sep", "mask"):
        if (name := f"{kind}_token_id") in known:
            token = tokenizer.special_tokens_map.get(f"{kind}_token")
            settings[name] = None if token is None else tokenizer.convert_tokens_to_ids(token)
    if "forced_eos_token_id" in known:  # the published one of BART and Marian belongs to another vocabulary
        settings["forced_eos_token_id"] = settings.get("eos_token_id")
    if "decoder_start_token_id" in known:
        start = settings.get("bos_token_id")
        settings["decoder_start_token_id"] = settings.get("pad_token_id") if start is None else start
    return settings
