"""The trained model on disk, as other libraries load it, and the proof that it loads as the model it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.checkpoint import umask
from pipeline.evaluation import to_device, without_gradients
from pipeline.models.load import quiet
from pipeline.processes import Processes
from pipeline.tasks import Task

TOLERANCE = 1e-4


def save_model(plain: nn.Module, weights: dict[str, Tensor], task: Task, folder: Path, processes: Processes) -> None:
    """Write weights (safetensors), config and what the task adds; a folder is replaced only by a whole new one.

    All processes call it; the main process writes.
    """
    processes.on_main(lambda: _write(plain, weights, task, folder))


def _write(plain: Any, weights: dict[str, Tensor], task: Task, folder: Path) -> None:
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    with quiet():
        if is_adapter(plain):
            # "auto" would ask the hub whether the vocabulary was resized; embeddings are never resized here
            plain.save_pretrained(temporary, state_dict=weights, save_embedding_layers=False)
            plain.get_base_model().config.save_pretrained(temporary)
        else:
            plain.save_pretrained(temporary, state_dict=weights)
        task.save_processing(temporary)
    (temporary / "README.md").unlink(missing_ok=True)  # PEFT's form, with the local path of the start
    readable(temporary)
    before = folder.with_name(f".old-{folder.name}")
    shutil.rmtree(before, ignore_errors=True)
    if folder.exists():
        folder.rename(before)
    temporary.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def readable(folder: Path) -> None:
    """Give files the mode of the umask, as folders have it: safetensors writes files that only their owner can read."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask())


def is_adapter(model: nn.Module) -> bool:
    """Whether the model is a base with PEFT adapters."""
    from peft import PeftModel  # costs seconds to import, and only finished runs get here

    return isinstance(model, PeftModel)


def check_reload(
    model: nn.Module,
    ours: Tensor,
    folder: Path,
    task: Task,
    batch: dict[str, Tensor],
    start_model: Callable[[], nn.Module],
) -> None:
    """Load the saved model again and compare its logits on one batch with `ours`, those of the model in memory.

    An adapter is put on a fresh `start_model`. Raises RuntimeError when the two differ: better no model than a model
    whose head or adapters were silently lost.
    """
    if is_adapter(model):
        from peft import PeftModel

        with quiet():
            again: Any = PeftModel.from_pretrained(start_model(), str(folder))
    else:
        import transformers

        with quiet():
            again = getattr(transformers, task.model_class).from_pretrained(folder, dtype=torch.float32)
    theirs = logits_of(again.to(ours.device), task, to_device(batch, ours.device))
    worst = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else float("inf")
    if not worst <= TOLERANCE * max(1.0, float(ours.abs().max())):
        raise RuntimeError(
            f"the model saved in {folder} does not give the logits of the model that was trained (largest difference "
            f"{worst:.3g}); the last checkpoint of this run is intact, please report this with the run's config.yaml"
        )


def logits_of(model: nn.Module, task: Task, batch: dict[str, Tensor]) -> Tensor:
    """What the model says about a batch. All processes call it when the weights are sharded."""
    was_training = model.training
    model.eval()
    with without_gradients(model):
        _, logits = task.loss(model, batch)
    model.train(was_training)
    return logits.float()
