"""Tiny random models and tokenizers built on the spot, so that no test downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, PreTrainedTokenizerFast, ViTImageProcessorPil

SENTENCES = [
    "the cat sat on the mat and looked at the moon",
    "a small dog ran over the green hill in the rain",
    "good movies make people happy, bad movies make them sad",
    "she sells sea shells by the sea shore every summer",
    "def add(first, second): return first + second  # 0123456789",
]
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
    "bos_token": "[BOS]",
    "eos_token": "[EOS]",
}
ENCODERS = ("bert", "roberta", "distilbert")
DECODERS = ("llama", "gpt2", "qwen2")
ENCODER_DECODERS = ("t5", "bart", "marian", "mbart")
MODEL_TYPES = ENCODERS + DECODERS
VISION = ("vit",)
_STACK = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}
_BART = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in _STACK.items()}
_BART |= {"d_model": 32, "max_position_embeddings": 64}
_FAMILY: dict[str, dict[str, Any]] = {
    "bert": {"type_vocab_size": 2},
    "roberta": {"type_vocab_size": 1, "max_position_embeddings": 66},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    "llama": {"num_key_value_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "vit": {"image_size": 16, "patch_size": 4},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    **dict.fromkeys(("bart", "marian", "mbart"), _BART),
}
_COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def tiny_tokenizer(
    folder: str | Path, *, pad: bool = True, vocab_size: int = 320, style: str = "encoder", max_length: int = 64
) -> Path:
    """A byte-level BPE tokenizer (at most `vocab_size` tokens) saved in `folder`.

    `style="encoder"` wraps a text as [CLS] text [SEP], as BERT does; `"decoder"` adds nothing.
    `pad=False` leaves out the pad token, as GPT-2 and Llama do.
    """
    special = {kind: token for kind, token in SPECIAL.items() if pad or kind != "pad_token"}
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    if style == "encoder":
        first, last = SPECIAL["cls_token"], SPECIAL["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)],
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **special)
    fast.save_pretrained(folder)
    return Path(folder)


def tiny_config(model_type: str) -> dict[str, Any]:
    """What `model.config` may hold for a model of some ten thousand parameters; without a vocabulary size."""
    family = _FAMILY[model_type]
    common = {} if model_type in ("gpt2", "distilbert", *ENCODER_DECODERS) else _COMMON
    if model_type in VISION:
        common = {key: value for key, value in _COMMON.items() if key != "max_position_embeddings"}
    return {"model_type": model_type, **common, **family}


def tiny_checkpoint(
    folder: str | Path, model_type: str, model_class: str, *, pad: bool = True, seed: int = 0, **overrides: Any
) -> Path:
    """A random checkpoint of `model_class` (an auto class by name) with its tokenizer or image processor, in `folder`.

    `overrides` go into the config (`num_labels=3`, `num_hidden_layers=4`, `id2label=...`).
    """
    if model_type in VISION:
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
        return _saved(folder, {**tiny_config(model_type), **overrides}, model_class, seed)
    style = "encoder" if model_type in ENCODERS else "decoder"
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(folder, pad=pad, style=style))
    # Rows to spare, as real checkpoints have: Qwen's tokenizer class adds a token of its own when it is read back.
    rows = -(-(len(tokenizer) + 1) // 8) * 8
    settings = {**tiny_config(model_type), "vocab_size": rows, "pad_token_id": tokenizer.pad_token_id}
    settings |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if model_type in ENCODER_DECODERS:
        settings |= {"decoder_start_token_id": tokenizer.pad_token_id}
    if "forced_eos_token_id" in vars(CONFIG_MAPPING[model_type]()):
        settings |= {"forced_eos_token_id": tokenizer.eos_token_id}
    settings |= overrides
    return _saved(folder, settings, model_class, seed)


def _saved(folder: str | Path, settings: dict[str, Any], model_class: str, seed: int) -> Path:
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = getattr(transformers, model_class).from_config(config)
    model.save_pretrained(folder)
    return Path(folder)
