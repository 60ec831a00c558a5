"""What can be read off a model: its blocks, its embeddings, its linear layers and its parameter counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn
from transformers.pytorch_utils import Conv1D

from pipeline.errors import ConfigError

LINEAR = (nn.Linear, Conv1D)


class Part(NamedTuple):
    """One line of `parameter_table`."""

    name: str
    total: int
    trainable: int


def layer_lists(model: nn.Module) -> list[list[str]]:
    """Names of the transformer blocks, in order, one list per stack (an encoder-decoder has two).

    A stack is an outermost ModuleList whose entries hold linear layers. Names are those of `model` as it is: under
    an adapter they carry the adapter's prefix.
    """
    stacks: list[list[str]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{block}.") for stack in stacks for block in stack)
        if isinstance(module, nn.ModuleList) and not inside and any(_has_linear(block) for block in module):
            stacks.append([f"{name}.{index}" for index in range(len(module))])
    return stacks


def layer_prefixes(model: nn.Module) -> list[str]:
    """Names of all transformer blocks from the input on: `model.layers.0`, `bert.encoder.layer.0`, `transformer.h.0`.

    Raises ConfigError for a model without such blocks.
    """
    prefixes = [prefix for stack in layer_lists(model) for prefix in stack]
    if not prefixes:
        raise ConfigError(f"{type(model).__name__} has no list of transformer blocks, so layers cannot be counted off")
    return prefixes


def embedding_prefixes(model: nn.Module) -> list[str]:
    """Names of the modules that turn the input into the first hidden states, with their norms where they hold them.

    `bert.embeddings`, `model.embed_tokens`, `transformer.wte` and `transformer.wpe`, `vit.embeddings`.
    """
    blocks = tuple(f"{prefix}." for prefix in layer_prefixes(model))
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    found: list[str] = []
    for name, module in model.named_modules():
        if not name or f"{name}.".startswith(blocks) or module is outputs:
            continue
        named = "embed" in name.rsplit(".", 1)[-1].lower() and any(True for _ in module.parameters())
        embeds = named or isinstance(module, nn.Embedding) or module is inputs
        if embeds and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
    return found


def embedding_pattern(model: nn.Module) -> str:
    """Regex that matches the names of the embeddings' parameters."""
    return rf"^(?:{'|'.join(re.escape(prefix) for prefix in embedding_prefixes(model))})\."


def lora_target_modules(model: nn.Module) -> list[str]:
    """Names (ends of names, as PEFT takes them) of all linear layers inside the blocks, and of none outside.

    Where a leaf name such as BERT's `dense` is also used by a pooler or a head, the name is longer: `output.dense`.
    """
    blocks = tuple(f"{prefix}." for prefix in layer_prefixes(model))
    linear = [name for name, module in model.named_modules() if isinstance(module, LINEAR)]
    outside = [name for name in linear if not name.startswith(blocks)]
    targets: list[str] = []
    for name in linear:
        if name.startswith(blocks) and not any(_ends_with(name, target) for target in targets):
            targets.append(_shortest_end(name, outside))
    return targets


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(all, trainable) parameters; a tied weight counts once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def parameter_table(model: nn.Module) -> list[Part]:
    """Parameters and how many of them train, for each block, the embeddings, and what else the model holds.

    Parts come in the order of the model; their sums are `count_parameters`.
    """
    prefixes = [*embedding_prefixes(model), *layer_prefixes(model)]
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = next((prefix for prefix in prefixes if name.startswith(f"{prefix}.")), None)
        row = counts.setdefault(part or _owner(name, prefixes), [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() if parameter.requires_grad else 0
    return [Part(name, total, trainable) for name, (total, trainable) in counts.items()]


def _owner(name: str, prefixes: Sequence[str]) -> str:
    """The outermost module around parameter `name` that holds no block and no embedding."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        module = ".".join(parts[:end])
        if not any(prefix.startswith(f"{module}.") for prefix in prefixes):
            return module
    return name


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(part, LINEAR) for part in module.modules())


def _ends_with(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _shortest_end(name: str, outside: Sequence[str]) -> str:
    parts = name.split(".")
    ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
    return next(end for end in ends if not any(_ends_with(other, end) for other in outside))
