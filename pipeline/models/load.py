"""A model from a checkpoint: safetensors only, never foreign code, and every tensor accounted for."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from pipeline.errors import ConfigError, nearest
from pipeline.hub_names import locate
from pipeline.models.attention import attention
from pipeline.models.fit import apply_dropout, apply_task, check_architecture, fit_tokenizer, fit_vocabulary
from pipeline.models.settings import ModelConfig

logger = logging.getLogger(__name__)

KEY = "model.model_name_or_path"
SHOWN = 6
"""How many tensor names a message lists."""


def from_checkpoint(
    config: ModelConfig,
    *,
    model_class: str,
    model_kwargs: Mapping[str, Any],
    tokenizer: Any,
    new_parameters: str | None,
    seed: int = 0,
    outline: bool = False,
    brought: Mapping[str, tuple[int, ...]] | None = None,
) -> PreTrainedModel:
    """The checkpoint's model for a task, in fp32 on the CPU.

    An `outline` reads names and shapes only: its tensors have no values, and everything below is refused all the same.

    `model_class` is the name of a transformers auto class, `model_kwargs` what the task sets in the model's config
    (labels), `new_parameters` a regex (re.search) of the parameters the checkpoint may lack because the task brings
    them new; those are drawn from `seed` without touching the global random state. `tokenizer` is None for a model
    without text. Tensors the task has no use for are logged. `brought`: of the base of an adapter, the shapes of the
    tensors that the adapter brings whole; where they are embeddings of more or fewer tokens, the model gets as many.

    Raises ConfigError when the folder is missing or is an adapter, has no safetensors, wants to run code, is
    quantized, is for another kind of task, lacks tensors or has them in other shapes, or has too small a vocabulary.
    """
    place, model_config = check_settings(config, model_class)
    apply_task(model_config, model_kwargs)
    if config.dropout is not None:
        apply_dropout(model_config, config.dropout)
    model, report = _load(place, config, model_config, model_class, seed, outline)
    _account_for(report, config, model_class, model_kwargs, new_parameters)
    if not outline and (unused := sorted(report["unexpected_keys"])):
        tensors = _listed(unused)
        logger.warning("%s has %d tensors this task does not use: %s", config.model_name_or_path, len(unused), tensors)
    new = [] if outline else report["missing_keys"]
    strange = [name for name in new if not model.state_dict()[name].isfinite().all()]
    if strange:
        raise RuntimeError(f"transformers left these new tensors without values: {', '.join(sorted(strange))}")
    fit_vocabulary(model, brought or {}, where=KEY)
    fit_tokenizer(model, tokenizer, where=KEY, adapted=brought is not None)
    return model


def check_settings(config: ModelConfig, model_class: str) -> tuple[str, PreTrainedConfig]:
    """Where the checkpoint is, and its config, when that alone does not speak against the task."""
    place, settings = read_settings(config)
    _refuse_foreign_code(settings, config)
    kind = settings.get("model_type")
    if kind is not None and kind not in CONFIG_MAPPING and "auto_map" not in settings:
        hint = f"{nearest(str(kind), CONFIG_MAPPING)} (or this transformers is too old for it)"
        raise ConfigError(f"{KEY}: {config.model_name_or_path} is of an unknown architecture {kind!r}; {hint}")
    model_config = read_config(place, config)
    check_architecture(model_config, model_class, where=KEY)
    return place, model_config


def checkpoint_labels(config: ModelConfig, model_class: str) -> list[str] | None:
    """The label names a checkpoint fine-tuned with `model_class` says it has, in the order of their ids; or None.

    Reads config.json only. `LABEL_0`, `LABEL_1` are what transformers writes when nobody gave names.
    """
    if config.model_name_or_path is None:
        return None
    settings, head = read_settings(config)[1], model_class.removeprefix("AutoModel")
    names, made_for = settings.get("id2label"), settings.get("architectures") or [head]
    if not names or not any(name.endswith(head) for name in made_for):
        return None
    labels = {int(index): str(name) for index, name in names.items()}
    if sorted(labels) != list(range(len(labels))):
        raise ConfigError(
            f"{KEY}: id2label of {config.model_name_or_path} has gaps: ids {sorted(labels)}; "
            "number the labels of its config.json from 0 on"
        )
    ordered = [labels[index] for index in range(len(labels))]
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in ordered) else ordered


def read_settings(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Where the checkpoint is, and its config.json as it is written."""
    if config.model_name_or_path is None:
        raise ConfigError(f"{KEY}: is not set; give a hub id or a local folder (or model.config for random weights)")
    name = config.model_name_or_path
    place = locate(name, what=KEY)
    local = Path(place).is_dir()
    if local and config.revision is not None:
        raise ConfigError(f"model.revision: {name} is a local folder, which has no revisions; leave it out")
    if _is_adapter(place, config.revision):
        raise ConfigError(
            f"{KEY}: {name} is an adapter, not a model; merge it first "
            "(AutoPeftModel....from_pretrained(...).merge_and_unload().save_pretrained(...), or lora.merge: true)"
        )
    if local:
        _check_folder(Path(place))
    try:
        settings, _ = PreTrainedConfig.get_config_dict(place, revision=config.revision)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{KEY}: {name} has no readable config.json ({_brief(error)})") from error
    return place, settings


def _is_adapter(place: str, revision: str | None) -> bool:
    try:
        return find_adapter_config_file(place, revision=revision) is not None
    except OSError:  # nothing is there; reading config.json says so
        return False


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        inside = [
            path.parent for pattern in ("*/config.json", "*/*/config.json") for path in sorted(folder.glob(pattern))
        ]
        hint = f"did you mean {inside[0]}?" if inside else "a model folder is what save_pretrained writes"
        raise ConfigError(f"{KEY}: {folder} has no config.json; {hint}")
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")) or any(folder.glob("*.ckpt")):
        raise ConfigError(
            f"{KEY}: {folder} has only pickled weights, which can run code when they are read; in a place you trust, "
            "convert them once with AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise ConfigError(
        f"{KEY}: {folder} has a config.json but no *.safetensors file with weights; "
        "copy them beside it, or give the folder they are in"
    )


def _refuse_foreign_code(settings: Mapping[str, Any], config: ModelConfig) -> None:
    """Config fields that would make transformers fetch or run code, whatever `trust_remote_code` says."""
    name = config.model_name_or_path
    problems = []
    if settings.get("auto_map"):
        logger.warning("%s names code of its own (auto_map in its config.json), which is never run here", name)
    for path, value in _walk(settings):
        key = path.rsplit(".", 1)[-1]
        if key == "trust_remote_code" and value:
            problems.append(
                f"{KEY}: {name} sets {path} in its config.json, which asks to run code from elsewhere; {_EDIT}"
            )
        if "attn_implementation" in key and isinstance(value, str) and "/" in value:
            problems.append(
                f"{KEY}: {name} sets {path}: {value} in its config.json, a kernel fetched from elsewhere; {_EDIT}"
            )
        if key == "quantization_config" and value:
            problems.append(f"{KEY}: {name} is quantized; training needs the unquantized checkpoint it was made from")
    if problems:
        raise ConfigError(problems)


_EDIT = "take that line out, or choose another checkpoint"


def _walk(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{key}.")


def read_config(place: str, config: ModelConfig) -> PreTrainedConfig:
    try:
        found = transformers.AutoConfig.from_pretrained(place, revision=config.revision, trust_remote_code=False)
        vars(found).pop("auto_map", None)  # or the saved model would name code that it does not have
        return found
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        if "custom code" in str(error):
            raise ConfigError(
                f"{KEY}: {config.model_name_or_path} brings its own model code, which is never run here; "
                "use a checkpoint of an architecture that transformers has"
            ) from error
        raise ConfigError(f"{KEY}: {config.model_name_or_path}: {_brief(error)}") from error


def _load(
    place: str, config: ModelConfig, model_config: PreTrainedConfig, model_class: str, seed: int, outline: bool
) -> tuple[PreTrainedModel, dict[str, Any]]:
    # Without this, transformers asks a service on the hub to convert pickled weights.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    kernel = attention(config, model_config._attn_implementation)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return getattr(transformers, model_class).from_pretrained(
                place,
                config=model_config,
                revision=config.revision,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are reported below, all at once
                output_loading_info=True,
                **kernel,
                **({"device_map": "meta"} if outline else {}),
            )
        except SafetensorError as error:
            raise ConfigError(
                f"{KEY}: a weights file of {config.model_name_or_path} is damaged or not whole ({_brief(error)}); "
                "fetch it again"
            ) from error
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(f"{KEY}: {config.model_name_or_path} cannot be loaded: {_brief(error)}") from error


def _account_for(
    report: Mapping[str, Any],
    config: ModelConfig,
    model_class: str,
    model_kwargs: Mapping[str, Any],
    new_parameters: str | None,
) -> None:
    name, problems = config.model_name_or_path, []
    for tensor, stored, wanted in sorted(report["mismatched_keys"]):
        line = f"{KEY}: {tensor} is {_shape(stored)} in {name} and {_shape(wanted)} in the model"
        if "num_labels" in model_kwargs:
            line += (
                f"; the task has {model_kwargs['num_labels']} labels: give it the checkpoint's labels "
                "(data.label_names), or start from the checkpoint before it was fine-tuned"
            )
        problems.append(line)
    missing = sorted(
        tensor for tensor in report["missing_keys"] if not (new_parameters and re.search(new_parameters, tensor))
    )
    if missing:
        problems.append(
            f"{KEY}: {name} lacks {_tensors(missing)} that {model_class} needs and the task does not bring: "
            f"{_listed(missing)}; it was trained for another kind of task, or is incomplete"
        )
    if problems:
        raise ConfigError(problems)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own loading report and progress bar off the screen: ours says the same in a sentence."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # names that will change in the next major version are no news for users
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _tensors(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _shape(sizes: Any) -> str:
    return " x ".join(str(size) for size in sizes)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
