"""Weights, gradients and optimizer state in shares over the processes: PyTorch's FSDP2, laid over a whole model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pipeline.errors import ConfigError
from pipeline.models.inspect import layer_prefixes
from pipeline.processes import Processes

SHARDED_OPTIMIZERS = ("adamw", "adam", "rmsprop")
"""Those that PyTorch can run on shares, and that are tested so; its fused sgd and adagrad cannot."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": None}


def shard(model: nn.Module, processes: Processes) -> None:
    """Shard every layer, and what is left around the layers as one more unit, in place.

    Raises ConfigError for a run on one process, which has nobody to share with.
    """
    if processes.count == 1:
        raise ConfigError("train.fsdp: there is one process and nobody to share the weights with; leave it out")
    accelerator = processes.accelerator
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (processes.count,))
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[accelerator.mixed_precision])
    for prefix in layer_prefixes(model):
        fully_shard(model.get_submodule(prefix), mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


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
    return found


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors. All processes call it."""
    weights = model.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in weights.items()}
