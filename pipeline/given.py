"""A start that is handed over from Python: written into the run folder first, to be a checkpoint like any other.

So the run can be stopped, resumed and repeated, its adapter finds its base, the reference of DPO is read from it, and
the object itself is left as it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import ConfigError
from pipeline.models import ModelConfig
from pipeline.models.load import quiet

Processing = PreTrainedTokenizerBase | BaseImageProcessor
NEITHER = ("transformers_version", "_name_or_path", "dtype", "architectures")
"""Of a model's config: what saving it changes."""


@dataclass(frozen=True)
class Given:
    """What was handed over in place of names in the configuration."""

    model: PreTrainedModel | None = None
    processing: Processing | None = None

    def __bool__(self) -> bool:
        return self.model is not None or self.processing is not None

    @property
    def described(self) -> str | None:
        """The start model in words, for manifest and card."""
        return None if self.model is None else f"a {type(self.model).__name__} handed over from Python"


def given_start(model: Any, tokenizer: Any) -> Given:
    """Raises ConfigError for objects that no run can start from."""
    from peft import PeftModel  # costs seconds to import

    problems = []
    if isinstance(model, PeftModel):
        problems.append("model: is a PEFT model; give what model.merge_and_unload() returns, or the model under it")
    elif not isinstance(model, PreTrainedModel | None):
        problems.append(
            "model: expected a PreTrainedModel of transformers, or the section as a mapping, "
            f"got {type(model).__name__}"
        )
    if not isinstance(tokenizer, Processing | None):
        problems.append(
            f"tokenizer: expected a tokenizer (or an image processor) of transformers, got {type(tokenizer).__name__}"
        )
    if problems:
        raise ConfigError(problems)
    return Given(model, tokenizer)


def settle(config: Any, given: Given) -> Path:
    """Let the configuration name the folder that `write` fills; returns it. Nothing is written yet.

    A model takes the place of `model.model_name_or_path` and `model.config`. A tokenizer that is not handed over is
    the one that the configuration names, or that of the checkpoint that it names.
    """
    folder = Path(config.output_dir) / f"start-{_hash(given)[:12]}"
    settings, beside = config.model.model_dump(), given.processing is not None
    if given.model is not None:
        tokenizer = None if beside else settings["tokenizer_name_or_path"] or settings["model_name_or_path"]
        if not beside and tokenizer is None and given.model.main_input_name == "input_ids":
            raise ConfigError("tokenizer: a model comes without one; hand it over too, as tokenizer=...")
        kept = {key: settings[key] for key in ("dropout", "attn_implementation")}
        config.model = ModelConfig(model_name_or_path=str(folder), tokenizer_name_or_path=tokenizer, **kept)
    elif isinstance(given.processing, BaseImageProcessor):
        raise ConfigError("tokenizer: an image processor is taken with a model only; hand it over too, as model=...")
    else:
        config.model = ModelConfig(**{**settings, "tokenizer_name_or_path": str(folder)})
    return folder


def write(given: Given, folder: Path) -> None:
    """Write what was handed over; a folder that is there holds the same, since its name is a hash of it."""
    if folder.exists():
        return
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        if given.model is not None:
            given.model.save_pretrained(temporary)
        if given.processing is not None:
            given.processing.save_pretrained(temporary)
    temporary.rename(folder)


def hash_of(model: nn.Module) -> str:
    """sha256 over all weights, by name."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _hash(given: Given) -> str:
    facts: list[Any] = []
    if given.model is not None:
        config = given.model.config.to_dict()
        facts += [hash_of(given.model), {key: config[key] for key in sorted(config) if key not in NEITHER}]
    if isinstance(given.processing, PreTrainedTokenizerBase):
        facts += [_tokenizer_facts(given.processing)]
    elif given.processing is not None:
        facts += [given.processing.to_dict()]
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _tokenizer_facts(tokenizer: Any) -> Mapping[str, Any]:
    """Without truncation and padding, which the last call leaves behind."""
    facts = {"special": tokenizer.special_tokens_map, "template": tokenizer.chat_template}
    if not tokenizer.is_fast:
        return {**facts, "vocabulary": tokenizer.get_vocab()}
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    return {**facts, **{key: value for key, value in backend.items() if key not in ("truncation", "padding")}}
