"""How much memory a run will need, before it starts, and how much there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedConfig

from pipeline.accelerator import available_device
from pipeline.models.inspect import LINEAR, count_parameters, layer_lists, layer_prefixes

STATES = {"sgd": 1, "adafactor": 0, "rmsprop": 1, "adagrad": 1, "lion": 1, "muon": 1, "momentum": 1, "sgd_momentum": 1}
"""fp32 numbers an optimizer keeps per trainable parameter; 2 (Adam's two moments) for those not named."""
COMPOSED_GELUS = ("gelu_new", "gelu_fast", "gelu_python", "quick_gelu", "gelu_pytorch_tanh_python")
"""Activations written as several operations, each of which keeps its input."""


def memory_estimate(
    model: nn.Module,
    optimizer_name: str,
    micro_batch_size: int,
    sequence_length: int,
    mixed_precision: str = "no",
    *,
    recompute: bool = False,
) -> dict[str, int]:
    """Bytes that training `model` needs on one device: weights, gradients, optimizer, activations and their total.

    What requires a gradient now is what trains; a model under adapters is read as it is.
    With P parameters, T trainable ones, t = micro_batch_size * sequence_length tokens, hidden size h, feed-forward
    size f, a attention heads, s = sequence_length, V output tokens, c = 2 under bf16 or fp16 and 4 otherwise:

    - weights 4P, and 2P more for the low-precision copies that autocast keeps;
    - gradients 4T; optimizer 4T * states (Adam 2, momentum, RMSprop, Adagrad, Lion, Muon 1, plain SGD, Adafactor 0);
    - activations per block t * (40h + c*k*f + 12*a*s): norms, residuals, projections; the feed-forward's k tensors
      (2, gated 4, a GELU composed of several operations 5); the attention weights, only where they are written out
      (eager attention, or attention dropout on the CPU). Blocks below the first trainable parameter keep nothing.
      With `recompute` (gradient checkpointing) one block is whole at a time and the others keep their input, 4th;
    - for an output over the vocabulary 16tV: logits, their log-softmax and the gradients of both. A task that
      computes logits at labelled positions only needs less.

    Measured on the CPU against peak resident memory (h 256, 8 x 256 tokens, AdamW), estimate / peak: Llama with 4
    and 8 blocks 1.00 and 1.03, with V 8192 1.04, under bf16 1.05; BERT 0.98 and 1.01, under bf16 with V 8192 1.02;
    GPT-2 1.00, with V 8192 1.02. Activations are left out where there are no transformer blocks of one width.
    An estimate, not a promise: allocators round up and fragment.
    """
    total, trainable = count_parameters(model)
    mixed = mixed_precision in ("bf16", "fp16")
    weights = total * (6 if mixed else 4)
    gradients = 4 * trainable
    optimizer = 4 * trainable * STATES.get(optimizer_name, 2)
    parts = {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    if is_transformer(model):
        parts["activations"] = _activations(model, micro_batch_size, sequence_length, mixed, recompute)
    return parts | {"total": sum(parts.values())}


def is_transformer(model: nn.Module) -> bool:
    """Whether all blocks have one width, so that their activations can be counted; convolutional models have not."""
    config = _text_config(model)
    return bool(layer_lists(model)) and config.attribute_map.get("hidden_size", "hidden_size") in vars(config)


def _activations(model: nn.Module, micro_batch_size: int, sequence_length: int, mixed: bool, recompute: bool) -> int:
    config = _text_config(model)
    tokens = micro_batch_size * sequence_length
    hidden = int(config.hidden_size)
    blocks = _blocks_with_gradient(model)
    feed_forward = _feed_forward_elements(model) * (2 if mixed else 4)
    attention = 12 * _attention_heads(config) * sequence_length if _writes_attention(model) else 0
    block = tokens * (40 * hidden + feed_forward + attention)
    activations = block + blocks * 4 * tokens * hidden if recompute else blocks * block
    if model.get_output_embeddings() is not None:  # type: ignore[operator]
        activations += 16 * tokens * int(config.vocab_size)
    return activations


def free_memory() -> int:
    """Bytes this process may still take: of the current GPU if it trains there, of the machine otherwise.

    On Linux the limit of a container (control group, version 2) counts.
    """
    if available_device().type == "cuda":
        return torch.cuda.mem_get_info()[0]
    available = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        available = min(available, max(0, int(text) - int(used.read_text())))
    return available


def _text_config(model: Any) -> PreTrainedConfig:
    config: PreTrainedConfig = model.config
    return config.get_text_config()


def _attention_heads(config: PreTrainedConfig) -> int:
    name = config.attribute_map.get("num_attention_heads", "num_attention_heads")
    return int(vars(config).get(name) or 0)


def _blocks_with_gradient(model: nn.Module) -> int:
    """Blocks from the first that is reached by a gradient on: backward stops below it."""
    prefixes = layer_prefixes(model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    outside = [name for name in names if not name.startswith(tuple(f"{prefix}." for prefix in prefixes))]
    order = [name for name, _ in model.named_parameters()]
    first_block = next(index for index, name in enumerate(order) if name.startswith(f"{prefixes[0]}."))
    if any(order.index(name) < first_block for name in outside):
        return len(prefixes)
    reached = (index for index, prefix in enumerate(prefixes) if any(name.startswith(f"{prefix}.") for name in names))
    return len(prefixes) - next(reached, len(prefixes))


def _feed_forward_elements(model: nn.Module) -> int:
    """Numbers one token keeps in one block's feed-forward part: its widest linear layers, times what each keeps."""
    block = model.get_submodule(layer_prefixes(model)[0])
    hidden = int(_text_config(model).hidden_size)
    linear: list[Any] = [part for part in block.modules() if isinstance(part, LINEAR)]
    inward = [min(part.weight.shape) == hidden and max(part.weight.shape) for part in linear]
    widest = max((size for size in inward if size), default=hidden)
    # One matrix goes up and one comes down; a gated part has a second that goes up.
    kept = 2 * (sum(size == widest for size in inward) - 1) or 2
    composed = 3 if _text_config(model).to_dict().get("activation_function") in COMPOSED_GELUS else 0
    return widest * (kept + composed)


def _writes_attention(model: nn.Module) -> bool:
    settings = _text_config(model).to_dict()
    rates = [settings.get(name) or 0.0 for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop")]
    return _text_config(model)._attn_implementation == "eager" or (max(rates) > 0 and available_device().type == "cpu")
