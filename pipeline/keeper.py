"""What keeps a run: saving it, going on from what was saved, going back, and putting the best weights back."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline import checkpoint
from pipeline.prepare import Prepared
from pipeline.processes import OtherProcessFailed
from pipeline.resume import identity, refuse_other_run
from pipeline.settings import start_of
from pipeline.shards import model_tensors, optimizer_tensors, restore_model, restore_optimizer
from pipeline.training import TrainState

logger = logging.getLogger("graft")
SLOW_SAVE_SECONDS = 20.0
"""Launchers kill 30 seconds after they asked to stop."""


class Keeper:
    """The checkpoints of one run."""

    def __init__(self, prepared: Prepared, folder: Path, model: nn.Module, optimizer: Any, main_metric: str):
        """`model` without its data-parallel wrapper, `optimizer` without accelerate's."""
        self.prepared, self.folder, self.processes = prepared, folder / "checkpoints", prepared.processes
        self.model, self.optimizer, self.main_metric = model, optimizer, main_metric
        self.saved_step: int | None = None
        self.seconds = 0.0

    def save(self, state: TrainState) -> str | None:
        """Publish a checkpoint, then let old ones go. Returns why not when the disk does not take it: then training
        can go on, and the earlier checkpoints are as they were."""
        if self.saved_step == state.step:
            return None
        began = time.monotonic()
        scaler, names = self.prepared.accelerator.scaler, self._names()
        tensors = {
            "model": model_tensors(self.model, names),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
        }
        content = {
            "train": state.as_dict(),
            "identity": self._identity(),
            "best_by": self._best_by(),
            "scaler": scaler.state_dict() if scaler else None,
        }
        self.processes.must_agree(self._copies(), "the copies of the model have drifted apart; go on from a checkpoint")
        try:
            checkpoint.save(self.folder, state.step, tensors, content, self.processes)
        except checkpoint.SaveFailed as error:
            return str(error)
        self.saved_step = state.step
        self._rotate(state)
        seconds = time.monotonic() - began
        self.seconds += seconds
        if seconds > SLOW_SAVE_SECONDS:
            logger.warning("saving took %.0f s; launchers kill 30 s after SIGTERM", seconds)
        return None

    def _rotate(self, state: TrainState) -> None:
        limit = self.prepared.config.checkpoint.save_total_limit
        try:
            self.processes.on_main(lambda: checkpoint.rotate(self.folder, keep=limit, pinned=[state.best_step]))
        except (OSError, OtherProcessFailed) as error:
            logger.warning("earlier checkpoints could not be deleted: %s", error)

    def restore(self, path: Path) -> TrainState:
        """Weights, optimizer and state of a checkpoint. Raises ConfigError when it belongs to another run."""
        saved, content = checkpoint.load(path)
        config = self.prepared.config
        refuse_other_run(path, content["identity"], self._identity())
        self._put(saved)
        state = TrainState(**content["train"])
        if self.prepared.accelerator.scaler and content["scaler"]:
            self.prepared.accelerator.scaler.load_state_dict(content["scaler"])
        best, lost = state.best_step, False
        if best is not None and best != state.step and config.eval.load_best_model_at_end:
            lost = not self._is_good(best)
        if content["best_by"] != self._best_by() or lost:
            logger.warning("%s: its best model was measured otherwise or is not here; looking for the best anew", path)
            state.forget_best()
        patience = config.eval.early_stopping_patience
        state.stopped_early = patience is not None and state.evaluations_without_improvement >= patience
        self.processes.on_main(lambda: checkpoint.set_aside_later(self.folder, state.step))
        if path.resolve() == checkpoint.path_of(self.folder, state.step).resolve():
            self.saved_step = state.step
            self._rotate(state)  # a kill may have come between saving and this
        logger.warning("continuing from %s", path)
        return state

    def rollback(self) -> int | None:
        """Weights and optimizer as in the newest good checkpoint; returns its step, None when there is none."""
        name = self.processes.from_main(lambda: str(checkpoint.newest_good(self.folder)[0] or ""))
        if not name:
            return None
        self._put(checkpoint.load(Path(name))[0])
        return checkpoint.step_of(Path(name))

    def take_best(self, state: TrainState) -> dict[str, float]:
        """Put the best evaluated weights back when they are not the last ones; returns their validation metrics."""
        if state.best_step is None or not self.prepared.config.eval.load_best_model_at_end:
            return state.last_results
        if state.best_step != state.step:
            if not self._is_good(state.best_step):
                logger.warning("the best model, of step %d, could not be saved; keeping the last one", state.best_step)
                state.best_step = None
                return state.last_results
            best, _ = checkpoint.load(checkpoint.path_of(self.folder, state.best_step))
            restore_model(self.model, best, self._names())
        return state.best_results

    def _put(self, saved: Any) -> None:
        restore_model(self.model, saved, self._names())
        restore_optimizer(self.model, self.optimizer, saved)

    def _names(self) -> set[str] | None:
        """What a checkpoint must hold: all weights, or those that move when the others are in the start checkpoint."""
        if start_of(self.prepared.config) == "random":
            return None
        return {name for name, movement in self.prepared.movements.items() if movement.multiplier}

    def _copies(self) -> dict[str, str]:
        """A number that tells one process's copy of the weights from another's; sharded weights have no copies."""
        if self.processes.count == 1 or self.prepared.config.train.fsdp:
            return {}
        return sum_of_weights(self.model)

    def _identity(self) -> dict[str, Any]:
        """What makes this run this run."""
        prepared = self.prepared
        return identity(
            prepared.config, prepared.fingerprints, prepared.accelerator.mixed_precision, prepared.start_weights
        )

    def _best_by(self) -> list[Any]:
        """What "best" means in this run; a resumed run that means something else starts to look anew."""
        greater = self.prepared.config.eval.is_greater_better(self.main_metric)
        task = self.prepared.config.task.model_dump(mode="json")
        scores = {key: task[key] for key in self.prepared.task.settings_of_scores}
        return [self.main_metric, greater, self.prepared.fingerprints.get("validation"), scores]

    def _is_good(self, step: int) -> bool:
        """As the main process sees it, so that all go on alike."""
        path = checkpoint.path_of(self.folder, step)
        return self.processes.from_main(lambda: "" if checkpoint.problems(path) else "good") == "good"


def sum_of_weights(model: nn.Module) -> dict[str, str]:
    """A number that tells one copy of a model from another, by its name."""
    total = sum(float(value.detach().sum(dtype=torch.float64)) for value in model_tensors(model).values())
    return {"model (the sum of its weights)": f"{total:.9g}"}
