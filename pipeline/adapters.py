"""An adapter and its base: put together with every tensor accounted for, and what one that no run made belongs to."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import NoneType
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig

from pipeline.config import Section
from pipeline.errors import ConfigError
from pipeline.models import ModelConfig
from pipeline.models.fit import AUTO_CLASSES, has_class
from pipeline.models.load import quiet, read_config, read_settings
from pipeline.strategies.lora import TASK_TYPES
from pipeline.tasks import Task

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OF_PEFT = "base_model.model."
"""What stands before a tensor's name in the base."""
READ = {"base_model_name_or_path": str, "revision": str, "task_type": str, "auto_mapping": dict}
"""What is read of an adapter's configuration, and the type of each where it is not null."""
POOLER = r"(^|\.)pooler\."
"""What AutoModel has and many checkpoints lack; what is made of the last hidden state does not read it."""


class WholeModel(Task):
    """A task for nothing but loading and saving: the model that an adapter without a configuration was made for."""

    class Config(Section):
        name: str
        model_class: str
        labels: dict[str, Any] = {}
        """Settings of the model's config."""
        brought: list[str] = []
        """Names of the base's tensors that the adapter brings whole."""

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        # what the other tasks know as classes, this one is told
        self.model_class = config.model_class  # type: ignore[misc]
        self.modality = "image" if "Image" in config.model_class else "text"  # type: ignore[misc]
        self.processor: Any = None

    @property
    def new_parameters(self) -> str | None:
        return brought(self.config.brought) or (POOLER if self.model_class == "AutoModel" else None)

    def model_kwargs(self) -> dict[str, Any]:
        return dict(self.config.labels)

    def use_image_processor(self, processor: Any) -> None:
        self.processor = processor

    def save_processing(self, folder: Path) -> None:
        if self.processor is None:
            super().save_processing(folder)
        else:
            self.processor.save_pretrained(folder)


def brought(names: list[str]) -> str | None:
    """Regex of these parameters and no others."""
    return rf"^({'|'.join(map(re.escape, names))})$" if names else None


def whole_tensors(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the base's tensors that the adapter in a folder brings whole (a head, say), by their names there."""
    found = {}
    with _opened(folder, name) as file:
        for key in file.keys():  # noqa: SIM118 - safetensors' file is no mapping
            inner = key.removeprefix(OF_PEFT)
            if "lora_" not in inner:
                found[inner] = tuple(file.get_slice(key).get_shape())
    return found


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The configuration of the adapter in a folder. Raises ConfigError for types that PEFT does not write."""
    found = read_json(folder / ADAPTER)
    wrong = [key for key, kind in READ.items() if not isinstance(found.get(key), (kind, NoneType))]
    if wrong:
        kinds = {str: "a text", dict: "a mapping"}
        raise ConfigError(
            [f"{folder / ADAPTER}: {key}: expected {kinds[READ[key]]}, got {found[key]!r}" for key in wrong]
        )
    return found


def settings_for(folder: Path, name: str, base: ModelConfig, beside: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an adapter that no run made, from its own files and the config of its base.

    `beside` is the config.json of the adapter's folder. Raises ConfigError when nothing says what the model is.
    """
    adapter, of_base = adapter_settings(folder), read_config(read_settings(base)[0], base)
    kind = _model_class(adapter, beside, of_base)
    if kind is None:
        raise ConfigError(
            f"model: {name} does not say what kind of model it is for (task_type in its {ADAPTER}), and its base is "
            "none that graft knows; name a configuration with --config my.yaml, whose task says it"
        )
    tensors = whole_tensors(folder, name)
    labels: dict[str, Any] = {}
    for tensor, axis in _counts_labels(of_base, kind).items():
        if tensor in tensors:
            count = tensors[tensor][axis]
            labels = {} if count == of_base.num_labels else {"num_labels": count}
            names = beside.get("id2label")
            if isinstance(names, dict) and names.keys() == {str(number) for number in range(count)}:
                known = {int(number): str(text) for number, text in names.items()}
                labels = {"num_labels": count, "id2label": known, "label2id": {text: n for n, text in known.items()}}
    task = {"name": f"{__name__}:WholeModel", "model_class": kind, "labels": labels, "brought": sorted(tensors)}
    return {"task": task, "model": base.model_dump(exclude_none=True)}


def _model_class(adapter: Mapping[str, Any], beside: Mapping[str, Any], base: PreTrainedConfig) -> str | None:
    """The auto class of the adapted model: by PEFT's word for it, else by the class that it or its base had."""
    if known := {kind: name for name, kind in TASK_TYPES.items()}.get(str(adapter.get("task_type"))):
        return known
    mapped = (adapter.get("auto_mapping") or {}).get("base_model_class")
    classes = [mapped, *(beside.get("architectures") or []), *(base.architectures or [])]
    # Bart's model for text to text is transformers' model of Bart for masks, too
    autos = sorted(AUTO_CLASSES, key=lambda name: name != "AutoModelForSeq2SeqLM")
    able = [name for name in autos if has_class(base, name)]
    made = {name: getattr(transformers, name)._model_mapping[type(base)] for name in able}
    for wanted in filter(None, classes):
        for auto, kinds in made.items():
            if wanted in {kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,))}:
                return auto
    return None


def _counts_labels(base: PreTrainedConfig, kind: str) -> dict[str, int]:
    """The tensors of such a model that have an entry per label, and along which axis; found out by trying two sizes."""
    if not has_class(base, kind):
        return {}  # whoever loads it says so
    shapes = []
    for count in (3, 5):
        config = deepcopy(base)
        config.num_labels = count
        with torch.device("meta"), quiet():
            model = getattr(transformers, kind).from_config(config)
        shapes.append({name: tuple(tensor.shape) for name, tensor in model.named_parameters()})
    few, more = shapes
    return {
        name: next(axis for axis, (one, other) in enumerate(zip(shape, more[name], strict=True)) if one != other)
        for name, shape in few.items()
        if shape != more[name]
    }


def put_on(base: nn.Module, folder: Path, name: str) -> nn.Module:
    """The adapter on its base. Raises ConfigError unless every tensor of the adapter has its place there."""
    from peft import PeftModel, get_peft_model_state_dict  # costs seconds to import, and only adapters need it

    with _opened(folder, name) as file:
        stored = set(file.keys())
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing is said below
            model = PeftModel.from_pretrained(base, str(folder))
            wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
            # PEFT may have saved them as well
            embeddings = set(get_peft_model_state_dict(model, save_embedding_layers=True))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        raise _misfit(name, error) from error
    if strange := sorted((wanted - stored) | (stored - wanted - embeddings)):
        raise ConfigError(
            f"model: the adapter {name} was made for another base: {len(strange)} tensors have no counterpart, "
            f"such as {strange[0]}; name its base with --base_model"
        )
    return model


def _opened(folder: Path, name: str) -> Any:
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ConfigError(f"model: {name} has an {ADAPTER} and no {ADAPTER_WEIGHTS} beside it")
    try:
        return safe_open(weights, framework="pt")
    except (SafetensorError, OSError) as error:
        raise _misfit(name, error) from error


def _misfit(name: str, error: Exception) -> ConfigError:
    said = " ".join(str(error).split())[:300]
    return ConfigError(f"model: the adapter {name} does not go on its base: {said}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises ConfigError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds no JSON object")
    return found
