"""Tensors of a checkpoint in safetensors files: whole, or in shares of their rows that any number of processes reads.

A process that holds a share of a tensor (FSDP2: some of its rows) writes that share, with the full shape and the first
row in the file's header. Reading asks for rows, so what is in memory is what is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim
from torch.distributed.tensor import DTensor, Shard

from pipeline.errors import DataError

HEADER = "rows"
"""Key in a file's header: name -> [first row, full shape] of the tensors that are shares."""


def write(folder: Path, stem: str, tensors: Mapping[str, Tensor], rank: int, world_size: int) -> Path | None:
    """This process's part of `tensors`: its rows of sharded ones, and, on the main process, all others.

    One file `stem.safetensors`, or one per process when something is sharded. None when there is nothing to write.
    """
    sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    if not sharded and rank > 0:
        return None
    parts, header = {}, {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            first, rows = local_rows(tensor)
            header[name] = [first, list(tensor.shape)]
            parts[name] = tensor.to_local()[:rows]
        elif rank == 0:
            parts[name] = tensor
    path = folder / (f"{stem}-{rank + 1:05d}-of-{world_size:05d}.safetensors" if sharded else f"{stem}.safetensors")
    whole = {name: part.detach().contiguous().cpu() for name, part in parts.items()}
    save_file(whole, path, metadata={HEADER: json.dumps(header)} if header else None)
    return path


def local_rows(tensor: DTensor) -> tuple[int, int]:
    """First row and number of rows that this process holds of a tensor sharded over its rows (as torch.chunk does)."""
    (placement,) = tensor.placements
    assert placement == Shard(0), f"only rows are sharded, and this is {placement}"
    total, count, rank = tensor.shape[0], tensor.device_mesh.size(), tensor.device_mesh.get_local_rank()
    chunk = -(-total // count)
    first = min(rank * chunk, total)
    return first, min(chunk, total - first)


class Saved:
    """The tensors of a checkpoint, by kind (`model`, `optimizer`) and name; read from the files when asked for."""

    def __init__(self, files: Iterable[Path]):
        self.where: dict[str, dict[str, list[tuple[Path, int]]]] = {}
        self.shapes: dict[str, dict[str, list[int]]] = {}
        for path in sorted(files):
            kind = path.name.removesuffix(".safetensors").split("-")[0]
            where, shapes = self.where.setdefault(kind, {}), self.shapes.setdefault(kind, {})
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
                for name in file.keys():  # noqa: SIM118  it is no mapping
                    first, shape = header.get(name, [0, file.get_slice(name).get_shape()])
                    where.setdefault(name, []).append((path, first))
                    shapes[name] = shape

    def names(self, kind: str) -> list[str]:
        """What there is of a kind."""
        return list(self.where.get(kind, {}))

    def shape(self, kind: str, name: str) -> list[int]:
        """The full shape of a tensor."""
        return self.shapes[kind][name]

    def read(self, kind: str, name: str, first: int = 0, rows: int | None = None) -> Tensor:
        """A tensor, or some of its rows, put together from whatever shares it was saved in."""
        shape = self.shape(kind, name)
        if not shape:
            with safe_open(self.where[kind][name][0][0], framework="pt") as file:
                return file.get_tensor(name)
        last = shape[0] if rows is None else first + rows
        parts = []
        for path, begin in sorted(self.where[kind][name], key=lambda share: share[1]):
            with safe_open(path, framework="pt") as file:
                share = file.get_slice(name)
                end = begin + share.get_shape()[0]
                if begin < last and end > first:
                    parts.append(share[max(first, begin) - begin : min(last, end) - begin])
        if not parts:  # no rows, as a process may hold when there are more processes than rows
            with safe_open(self.where[kind][name][0][0], framework="pt") as file:
                return file.get_slice(name)[:0]
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        assert found.shape[0] == last - first, f"{name}: rows {first} to {last} are not all in the checkpoint"
        return found


def model_tensors(model: nn.Module, names: set[str] | None = None) -> dict[str, Tensor]:
    """Parameters (those in `names`, or all) and persistent buffers; tied weights once."""
    buffers = {key for key, _ in model.named_buffers()} & model.state_dict().keys()
    found: dict[str, Tensor] = {key: value for key, value in model.named_parameters() if names is None or key in names}
    return {**found, **{key: value for key, value in model.named_buffers() if key in buffers}}


def restore_model(model: nn.Module, saved: Saved, names: set[str] | None = None) -> None:
    """Copy saved tensors into a model. Raises DataError by name for one that is missing, unknown or of another shape.

    `names`: the parameters that the checkpoint must hold, as for `model_tensors`.
    """
    own = model_tensors(model)
    expected = model_tensors(model, names).keys()
    there = set(saved.names("model"))
    wrong = [key for key in there & own.keys() if list(own[key].shape) != saved.shape("model", key)]
    for what, found in {
        "has tensors that are not this model's": there - own.keys(),
        "has tensors of another shape": wrong,
        "lacks tensors of this model": expected - there,
    }.items():
        if found:
            raise DataError(f"the checkpoint {what}: {', '.join(sorted(found)[:8])}")
    with torch.no_grad():
        for key in there:
            own[key].copy_(_like(own[key], saved, "model", key))


def _like(target: Tensor, saved: Saved, kind: str, name: str) -> Tensor:
    """A saved tensor, sharded as `target` is."""
    if not isinstance(target, DTensor) or saved.shape(kind, name) != list(target.shape):
        return saved.read(kind, name)
    local = saved.read(kind, name, *local_rows(target)).to(target.device)
    return DTensor.from_local(
        local, target.device_mesh, target.placements, shape=target.shape, stride=target.stride(), run_check=False
    )


def optimizer_tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>|<key>` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{names[id(parameter)]}|{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }


def restore_optimizer(model: nn.Module, optimizer: optim.Optimizer, saved: Saved) -> None:
    """Put the state back, through the optimizer's own loader, which moves each value where it belongs."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    flat = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moving = {names[id(parameter)]: parameter for parameter in flat}
    by_name: dict[str, dict[str, Tensor]] = {}
    for entry in saved.names("optimizer"):
        name, _, key = entry.rpartition("|")
        if name not in moving:
            raise DataError(f"the checkpoint has optimizer state of a parameter that stands still here: {name}")
        by_name.setdefault(name, {})[key] = _like(moving[name], saved, "optimizer", entry)
    state = optimizer.state_dict()
    state["state"] = {
        index: by_name[names[id(parameter)]] for index, parameter in enumerate(flat) if names[id(parameter)] in by_name
    }
    optimizer.load_state_dict(state)
