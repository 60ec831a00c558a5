"""The tokenizer of a run, with a pad token by one documented rule."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.hub_names import locate
from pipeline.models.settings import ModelConfig

logger = logging.getLogger(__name__)


def load_tokenizer(config: ModelConfig) -> Any:
    """The tokenizer named by `tokenizer_name_or_path`, else the one beside the model (or beside `config`'s folder).

    Padding uses the tokenizer's own pad token, else its EOS token: masks and labels are made from lengths, never by
    comparing with the pad id, so EOS is still attended to and learned. A tokenizer with neither is a ConfigError.
    """
    from transformers import AutoTokenizer

    name, key = _name(config)
    place = locate(name, what=key)
    revision = config.tokenizer_revision if config.tokenizer_name_or_path else config.revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        said = _first_line(error)
        reason = "it has no tokenizer files" if "backend tokenizer" in said else said
        raise ConfigError(f"{key}: no tokenizer could be read from {name} ({reason}); {_HOW}") from error
    if tokenizer.init_kwargs.pop("auto_map", None):  # or the saved tokenizer would name code that it does not have
        logger.warning("%s names tokenizer code of its own (auto_map), which is never run here", name)
    if not tokenizer.is_fast:
        raise ConfigError(f"{key}: {name} has only a slow tokenizer, which cannot be told apart reliably; {_HOW}")
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        # transformers makes an empty tokenizer out of a folder that only has a config.json.
        raise ConfigError(f"{key}: {name} has a tokenizer without tokens, or no tokenizer file at all; {_HOW}")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(
                f"{key}: the tokenizer of {name} has no pad token and no EOS token to pad with; add a pad token to it "
                "(tokenizer.add_special_tokens) and save it again"
            )
        tokenizer.pad_token = tokenizer.eos_token
        logger.info("The tokenizer has no pad token; %s pads, and is still learned as EOS.", tokenizer.eos_token)
    return tokenizer


_HOW = "set model.tokenizer_name_or_path to a folder or hub id that has one"


def _name(config: ModelConfig) -> tuple[str, str]:
    if config.tokenizer_name_or_path:
        return config.tokenizer_name_or_path, "model.tokenizer_name_or_path"
    if config.model_name_or_path:
        return config.model_name_or_path, "model.model_name_or_path"
    if isinstance(config.config, str):
        return config.config.removesuffix("/config.json"), "model.config"
    raise ConfigError(f"model.tokenizer_name_or_path: random weights come without a tokenizer; {_HOW}")


def token_rows(tokenizer: Any) -> int:
    """Rows an embedding needs for every id the tokenizer can give."""
    return max(tokenizer.get_vocab().values()) + 1


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".: ")


def forget_last_call(tokenizer: Any) -> None:
    """Truncation and padding of the last call stay in a tokenizer; whether there was a call depends on the cache."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer; its files say nothing of where, and in which state of the network, it was loaded."""
    forget_last_call(tokenizer)
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(folder)
