"""Make a model config and a model fit the task and the tokenizer, or say why they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from pipeline.errors import ConfigError
from pipeline.models.tokenizer import token_rows

AUTO_CLASSES = [
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMultipleChoice",
    "AutoModelForImageClassification",
    "AutoModel",
]


def check_architecture(config: PreTrainedConfig, model_class: str, *, where: str) -> None:
    """ConfigError when this architecture cannot do the task that `model_class` stands for."""
    if not has_class(config, model_class):
        able = [name for name in AUTO_CLASSES if has_class(config, name)]
        raise ConfigError(
            f"{where}: {config.model_type} has no {model_class}, which the task needs; it has {', '.join(able)}; "
            "choose another checkpoint or another task"
        )
    decides_itself = config.is_encoder_decoder or config.to_dict().get("is_decoder")
    if (
        model_class == "AutoModelForCausalLM"
        and config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and not decides_itself
    ):
        raise ConfigError(
            f"{where}: {config.model_type} is an encoder: every token sees the ones after it, so predicting the next "
            "token would be learned by copying; use task: masked_lm, or a decoder (is_decoder: true with model.config)"
        )


def has_class(config: PreTrainedConfig, model_class: str) -> bool:
    """Whether transformers maps this config to a model of that auto class."""
    return type(config) in getattr(transformers, model_class)._model_mapping


def apply_task(config: PreTrainedConfig, model_kwargs: Mapping[str, Any]) -> None:
    """Write what the task says (labels, problem type) into the config."""
    # The number first: setting it replaces the names.
    for key in sorted(model_kwargs, key=lambda key: key != "num_labels"):
        setattr(config, key, model_kwargs[key])


def apply_dropout(config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout rate of the config, of its parts too; ConfigError when the architecture has none.

    Rates at which whole layers or paths are dropped (`layerdrop`, `drop_path_rate`) are something else and stay.
    """
    changed = 0
    for part in (config, *(getattr(config, name) for name in config.sub_configs)):
        fields = [name for name, value in part.to_dict().items() if _is_dropout(name, value)]
        for name in fields:
            setattr(part, name, rate)
        changed += len(fields)
    if not changed:
        raise ConfigError(f"model.dropout: {config.model_type} has no dropout to set; leave it out")


def _is_dropout(name: str, value: Any) -> bool:
    named = "dropout" in name or name.endswith("_pdrop")
    return named and not isinstance(value, (bool, str, dict, list))


def fit_vocabulary(model: PreTrainedModel, brought: Mapping[str, tuple[int, ...]], *, where: str) -> None:
    """Give the base of an adapter as many tokens as the embeddings have that the adapter brings; rows for new ones are
    NaN until it does. ConfigError when it does not bring all of them: nobody has the others."""
    ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
    if not isinstance(ends[0], nn.Embedding):
        return
    ours = {id(tensor) for end in ends if end is not None for tensor in end.parameters()}
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):  # tied ones have several
        if id(tensor) in ours:
            names.setdefault(id(tensor), []).append(name)
    found = [_brought_rows(known, brought) for known in names.values()]
    before, rows = ends[0].num_embeddings, next((count for count in found if count), None)
    if rows is None or rows == before:
        return
    absent = sorted(known[0] for known, count in zip(names.values(), found, strict=True) if not count)
    if absent and rows > before:
        raise ConfigError(
            f"{where}: the adapter was trained with {rows} tokens, this base has {before}, and it does "
            f"not bring {', '.join(absent)} for the others; {_SAVE_THEM}"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model.resize_token_embeddings(rows, mean_resizing=False)
        for end in (model.get_input_embeddings(), model.get_output_embeddings()):
            for tensor in [] if end is None else end.parameters():
                tensor[before:] = float("nan")


_SAVE_THEM = (
    "save it again with model.save_pretrained(folder, save_embedding_layers=True), or give, with --base_model, the "
    "base with the embeddings of these tokens"
)
WITHIN = ("", "base_layer.", "modules_to_save.", "token_adapter.base_layer.")
"""Where PEFT keeps a tensor of a module that it has wrapped."""


def _brought_rows(names: list[str], brought: Mapping[str, tuple[int, ...]]) -> int | None:
    for module, _, leaf in (name.rpartition(".") for name in names):
        for place in WITHIN:
            if shape := brought.get(f"{module}.{place}{leaf}"):
                return shape[0]
    return None


def fit_tokenizer(model: PreTrainedModel, tokenizer: Any, *, where: str, adapted: bool = False) -> None:
    """Check the vocabulary against the embedding and write the tokenizer's special ids into the model's config.

    When the pad token is another special token too (EOS), the embedding's padding index is lifted: it would keep
    that token's row from being learned. `adapted`: the model is the base of an adapter.
    """
    if tokenizer is None:
        return
    embedding: Any = model.get_input_embeddings()
    rows, needed = embedding.weight.shape[0], token_rows(tokenizer)
    if needed > rows:
        fix = (
            f"set vocab_size to {needed} or more, or leave it out"
            if where == "model.config"
            else f"the adapter was trained with more tokens and does not bring their embeddings: {_SAVE_THEM}"
            if adapted
            else "use the tokenizer that belongs to the checkpoint (model.tokenizer_name_or_path)"
        )
        raise ConfigError(
            f"{where}: the tokenizer gives ids up to {needed - 1}, the model has embeddings for {rows} tokens only; "
            f"{fix}"
        )
    set_token_ids(model.config, tokenizer)
    if model.can_generate():
        set_token_ids(model.generation_config, tokenizer)
    others = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id}
    if isinstance(embedding, nn.Embedding) and tokenizer.pad_token_id in others:
        embedding.padding_idx = None


def set_token_ids(config: Any, tokenizer: Any) -> None:
    """The pad id is the tokenizer's, since batches are padded with it; BOS and EOS are filled in where unset."""
    config.pad_token_id = tokenizer.pad_token_id
    for name, value in (("bos_token_id", tokenizer.bos_token_id), ("eos_token_id", tokenizer.eos_token_id)):
        if name in vars(config) and vars(config)[name] is None:
            setattr(config, name, value)


def position_limit(config: PreTrainedConfig) -> int | None:
    """The longest input (tokens) the model's position table or rotary range was made for; None without a limit."""
    settings = config.to_dict()
    limit = settings.get(config.attribute_map.get("max_position_embeddings", "max_position_embeddings"))
    if limit is None or limit < 1:
        return None
    # The RoBERTa family counts positions from pad_token_id + 1 on.
    return limit - config.pad_token_id - 1 if config.model_type in OFFSET_POSITIONS else limit


OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl", "longformer")
