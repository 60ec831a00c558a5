"""One run at work in one folder: what training, saving, evaluating and exporting share."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from pipeline import checkpoint
from pipeline.config import dump
from pipeline.data.batching import steps_per_epoch
from pipeline.evaluation import collate, evaluate, load_metrics, to_device
from pipeline.export import check_reload, save_model
from pipeline.lock import StopRequest
from pipeline.loop import Training, TrainState, fit, total_steps
from pipeline.manifest import describe_run, folder_size, peak_memory_bytes, restart_peak_memory, write_json
from pipeline.models import count_parameters
from pipeline.optim import make_optimizer, multiplier
from pipeline.prepare import Prepared, start_model
from pipeline.resume import identity, refuse_other_run
from pipeline.settings import start_of
from pipeline.tracking import RunLog, start_trackers

logger = logging.getLogger("graft")
ROWS_TO_COMPARE = 4
"""Rows whose logits must be the same after the saved model is loaded again."""


class Session:
    """One run in one folder: the state that training, saving and evaluating share."""

    def __init__(self, prepared: Prepared, folder: Path, stop: StopRequest):
        self.prepared, self.folder, self.stop = prepared, folder, stop
        config, self.accelerator = prepared.config, prepared.accelerator
        self.parameters = count_parameters(prepared.model)
        optimizer = make_optimizer(prepared.model, prepared.movements, config.optim)
        self.model, self.optimizer = self.accelerator.prepare(prepared.model, optimizer)
        self.metrics = (
            load_metrics([*prepared.task.metrics(), *config.eval.metrics]) if len(prepared.splits) > 1 else {}
        )
        rows = len(prepared.splits["train"])
        self.total_steps = total_steps(config.train, rows)
        self.steps_per_epoch = steps_per_epoch(rows, config.train.train_batch_size)
        self.main_metric = config.eval.metric_for_best_model or prepared.task.main_metric
        self.log = RunLog(folder, self.accelerator, plain=config.tracking.disable_tqdm, total_steps=self.total_steps)
        self.training = self._training()
        self.manifest = {**describe_run(self.accelerator), **prepared.describe()}
        self.earlier_cost: dict[str, float] = {}
        self.evaluation_seconds = self.evaluating_seconds = 0.0
        self.began = time.monotonic()
        self.ended: float | None = None
        self.peak = 0

    def _training(self) -> Training:
        prepared, config = self.prepared, self.prepared.config
        return Training(
            accelerator=self.accelerator,
            model=self.model,
            task=prepared.task,
            strategies=list(prepared.strategies.values()),
            dataset=prepared.splits["train"],
            optimizer=self.optimizer,
            learning_rate_at=partial(multiplier, config.optim, total_steps=self.total_steps),
            config=config.train,
            eval_config=config.eval,
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            save_steps=config.checkpoint.save_steps,
            main_metric=self.main_metric,
            evaluate=partial(self.evaluate, "validation") if "validation" in prepared.splits else None,
            save=self.save,
            log=self.log.event,
            advance=self.log.advance,
            stop_asked=self.stop,
        )

    def do(self, start: Path | None) -> dict[str, Any]:
        """Train from the start or a checkpoint; returns the results."""
        config, training = self.prepared.config, self.training
        self._start_strategies()  # before a checkpoint moves the weights away from the start
        if start is not None:
            self._restore(start)
        if self.accelerator.is_main_process:
            (self.folder / "config.yaml").write_text(dump(config))
        self.write_manifest("running")
        start_trackers(self.accelerator, config.tracking, config.model_dump(mode="json"), self.folder.name)
        restart_peak_memory(self.accelerator.device)
        self.began = time.monotonic()
        self.log.begin(training.state.step)
        before = training.state.step
        state = fit(training)
        self.ended, self.peak = time.monotonic(), peak_memory_bytes(self.accelerator.device)
        if state.step > before:
            self.save(state)
        metrics = self._take_best(state)
        if "test" in self.prepared.splits:
            metrics["test"] = self.evaluate("test", state.step)
        return self._results(state, metrics)

    def _start_strategies(self) -> None:
        """Let each strategy look at the start weights, with the training batches in order."""
        task, dataset = self.prepared.task, self.prepared.splits["train"]
        size, seed = self.training.micro_batch_size, self.prepared.config.train.seed
        for strategy in self.prepared.strategies.values():
            chunks = (np.arange(first, min(first + size, len(dataset))) for first in range(0, len(dataset), size))
            batches = (
                to_device(collate(task, dataset, rows, seed=seed, epoch=0), self.accelerator.device) for rows in chunks
            )
            strategy.start(self.model, task, batches)

    def evaluate(self, split: str, step: int) -> dict[str, float]:
        """Score a split, write the event, return the numbers."""
        began = time.monotonic()
        dataset = self.prepared.splits[split]
        config = self.prepared.config
        found = evaluate(
            self.model,
            self.prepared.task,
            dataset,
            self.metrics,
            accelerator=self.accelerator,
            batch_size=config.eval.eval_batch_size or self.training.micro_batch_size,
            seed=config.train.seed,
        )
        self.evaluation_seconds += time.monotonic() - began
        if self.ended is None:
            self.evaluating_seconds = self.evaluation_seconds  # the part that lies within training
        epoch = round(step / self.steps_per_epoch, 4)
        self.log.event(
            {"event": "evaluate", "split": split, "step": step, "epoch": epoch, **found, "num_samples": len(dataset)}
        )
        return found

    def save(self, state: TrainState) -> None:
        """Publish a checkpoint, then let old ones go. The main process writes; the others wait."""
        if self.accelerator.is_main_process:
            plain = self.accelerator.unwrap_model(self.model)
            tensors = {
                "model": checkpoint.model_tensors(plain, self._saved_names()),
                "optimizer": checkpoint.optimizer_tensors(plain, self.optimizer.optimizer),
            }
            content = {
                "train": state.as_dict(),
                "identity": identity(self.prepared.config, self.prepared.fingerprints),
                "best_by": self._best_by(),
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            folder, settings = self.folder / "checkpoints", self.prepared.config.checkpoint
            checkpoint.save(folder, state.step, tensors, content)
            checkpoint.rotate(folder, keep=settings.save_total_limit, pinned=[state.best_step])
        self.write_manifest("running")
        self.accelerator.wait_for_everyone()

    def _saved_names(self) -> set[str] | None:
        """What a checkpoint must hold: all weights, or those that move when the others are in the start checkpoint."""
        if start_of(self.prepared.config) == "random":
            return None
        return {name for name, movement in self.prepared.movements.items() if movement.multiplier}

    def _restore(self, path: Path) -> None:
        tensors, content = checkpoint.load(path)
        refuse_other_run(path, content["identity"], identity(self.prepared.config, self.prepared.fingerprints))
        plain = self.accelerator.unwrap_model(self.model)
        checkpoint.restore_model(plain, tensors["model"])
        checkpoint.restore_optimizer(plain, self.optimizer.optimizer, tensors.get("optimizer", {}))
        self.training.state = state = TrainState(**content["train"])
        if self.accelerator.scaler and content["scaler"]:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        best = state.best_step is None or state.best_step == state.step or self._best_is_here(state.best_step)
        if content["best_by"] != self._best_by() or not best:
            logger.warning("%s: its best model was measured otherwise or is not here; looking for the best anew", path)
            state.forget_best()
        patience = self.prepared.config.eval.early_stopping_patience
        state.stopped_early = patience is not None and state.evaluations_without_improvement >= patience
        if self.accelerator.is_main_process:
            checkpoint.set_aside_later(self.folder / "checkpoints", state.step)
        if (self.folder / "manifest.json").exists():
            self.earlier_cost = json.loads((self.folder / "manifest.json").read_text()).get("cost", {})
        logger.warning("continuing from %s", path)

    def _best_by(self) -> list[Any]:
        """What "best" means in this run; a resumed run that means something else starts to look anew."""
        greater = self.prepared.config.eval.is_greater_better(self.main_metric)
        return [self.main_metric, greater, self.prepared.fingerprints.get("validation")]

    def _best_is_here(self, step: int) -> bool:
        return not checkpoint.problems(self.folder / "checkpoints" / f"step-{step:06d}")

    def _take_best(self, state: TrainState) -> dict[str, dict[str, float]]:
        """Put the best evaluated weights back when they are not the last ones; returns their validation metrics."""
        if state.best_step is None or not self.prepared.config.eval.load_best_model_at_end:
            return {"validation": state.last_results} if state.last_results else {}
        if state.best_step != state.step:
            tensors, _ = checkpoint.load(self.folder / "checkpoints" / f"step-{state.best_step:06d}")
            checkpoint.restore_model(self.accelerator.unwrap_model(self.model), tensors["model"])
        return {"validation": state.best_results}

    def _results(self, state: TrainState, metrics: Mapping[str, Any]) -> dict[str, Any]:
        config = self.prepared.config
        total, trainable = self.parameters
        return {
            "task": config.task.name,
            "start": start_of(config),
            "strategies": list(self.prepared.strategies),
            "steps": state.step,
            "epochs": round(state.step / self.steps_per_epoch, 4),
            "samples": state.samples,
            "tokens": state.tokens,
            "skipped_steps": state.skipped,
            "best_step": state.best_step,
            "stopped_early": state.stopped_early,
            "parameters": {
                "total": total,
                "trainable": trainable if self.total_steps else 0,
                "trainable_percent": round(100 * trainable / total, 4) if self.total_steps else 0.0,
            },
            "main_metric": self.main_metric,
            "greater_is_better": config.eval.is_greater_better(self.main_metric),
            "metrics": metrics,
            "num_samples": {split: len(rows) for split, rows in self.prepared.splits.items()},
            "label_names": list(self.prepared.task.model_kwargs().get("id2label", {}).values()),
        }

    def export(self) -> nn.Module:
        """Save the model for use and prove that it loads again as the same model."""
        plain = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # without its autocast
        for strategy in self.prepared.strategies.values():
            plain = strategy.exported(plain)
        save_model(plain, self.prepared.task.tokenizer, self.folder / "model", self.accelerator)
        if self.accelerator.is_main_process:
            split = self.prepared.splits.get("validation", self.prepared.splits["train"])
            rows = np.arange(min(ROWS_TO_COMPARE, len(split)))
            batch = to_device(collate(self.prepared.task, split, rows, seed=0, epoch=0), self.accelerator.device)
            check_reload(
                plain,
                self.folder / "model",
                self.prepared.task,
                batch,
                partial(start_model, self.prepared.config, self.prepared.task),
            )
        return plain

    def write_manifest(self, status: str) -> None:
        """What this run is and has cost so far, over all its sessions."""
        if not self.accelerator.is_main_process:
            return
        state, earlier = self.training.state, self.earlier_cost
        now, peak = self.ended or time.monotonic(), self.peak or peak_memory_bytes(self.accelerator.device)
        seconds = now - self.began - self.evaluating_seconds + earlier.get("train_seconds", 0.0)
        cost = {
            "train_seconds": round(seconds, 3),
            "evaluation_seconds": round(self.evaluation_seconds + earlier.get("evaluation_seconds", 0.0), 3),
            "samples_per_second": round(state.samples / seconds, 3),
            "tokens_per_second": round(state.tokens / seconds, 1),
            "peak_memory_bytes": max(peak, earlier.get("peak_memory_bytes", 0)),
            "model_size_bytes": folder_size(self.folder / "model"),
        }
        write_json(self.folder / "manifest.json", {**self.manifest, "cost": cost, "status": status})
