"""Weights, gradients and optimizer state in shares over the processes: PyTorch's FSDP2, laid over a whole model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pipeline.errors import ConfigError
from pipeline.models.inspect import layer_prefixes
from pipeline.processes import Processes

SHARDED_OPTIMIZERS = ("adamw", "adam", "rmsprop")
"""Those that PyTorch can run on shares, and that are tested so; its fused sgd and adagrad cannot."""


def shard(model: nn.Module, processes: Processes) -> None:
    """Shard every layer, and what is left around the layers as one more unit, in place.

    Raises ConfigError for a run on one process, which has nobody to share with.
    """
    if processes.count == 1:
        raise ConfigError("train.fsdp: there is one process and nobody to share the weights with; leave it out")
    mesh = init_device_mesh(processes.accelerator.device.type, (processes.count,))
    for prefix in layer_prefixes(model):  # each unit moves to the device as it is sharded, so that none holds all
        fully_shard(model.get_submodule(prefix), mesh=mesh)
    fully_shard(model, mesh=mesh)  # mixed precision is autocast's, as without shards: sums of gradients stay exact


def check_sharding(config: Any) -> list[str]:
    """Settings that do not go with train.fsdp."""
    found = []
    if config.train.fsdp and config.optim.name not in SHARDED_OPTIMIZERS:
        found.append(
            f"train.fsdp: optim.name {config.optim.name} is not known to work on shares of the weights; "
            f"expected {', '.join(SHARDED_OPTIMIZERS)}"
        )
    if config.train.fsdp and config.train.mixed_precision == "fp16":
        found.append("train.fsdp: goes with mixed_precision auto, no or bf16; fp16's loss scaling does not know shares")
    if config.train.fsdp and config.lora is not None and config.lora.merge:
        found.append("lora.merge: adapters cannot be added into weights in shares; leave it out, and merge afterwards")
    return found


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors, gathered one by one to the processor. All processes call it."""
    weights = model.state_dict()
    return {name: value.full_tensor().cpu() if isinstance(value, DTensor) else value for name, value in weights.items()}
