"""One run at work in one folder: what training, saving, evaluating and exporting share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.bootstrap import Intervals
from pipeline.callbacks import Callbacks
from pipeline.checkpoint import path_of
from pipeline.config import dump
from pipeline.data import Stream
from pipeline.evaluation import collate, evaluate, load_metrics, metric_settings, to_device
from pipeline.export import check_reload, logits_of, save_model
from pipeline.files import write_text
from pipeline.heartbeat import Heartbeat
from pipeline.keeper import Keeper, sum_of_weights
from pipeline.loop import fit
from pipeline.manifest import cost_of, describe_run, earlier_cost, peak_memory_bytes, restart_peak_memory, write_json
from pipeline.models import count_parameters
from pipeline.optim import make_optimizer, multiplier
from pipeline.prepare import Prepared, start_model
from pipeline.reference import add_reference
from pipeline.results import results_of
from pipeline.samples import log_samples
from pipeline.sharding import full_weights, shard
from pipeline.stopping import StopRequest
from pipeline.tracking import RunLog, start_trackers
from pipeline.training import Training, TrainState

logger = logging.getLogger("graft")
REFERENCE_ROWS = 8
"""Rows whose reference is computed at once, whatever fits in training: rounding must not depend on that."""
ROWS_TO_COMPARE = 4
"""Rows whose logits must be the same after the saved model is loaded again."""


class Session:
    """One run in one folder: the state that training, saving and evaluating share."""

    def __init__(self, prepared: Prepared, folder: Path, stop: StopRequest, heartbeat: Heartbeat):
        self.prepared, self.folder, self.stop, self.heartbeat = prepared, folder, stop, heartbeat
        config, self.accelerator, self.processes = prepared.config, prepared.accelerator, prepared.processes
        self.parameters = count_parameters(prepared.model)
        # looked at before the wrapper gives all processes the main one's
        self.start_weights = sum_of_weights(prepared.model) if self.processes.count > 1 else {}
        self.model, self.optimizer = self._prepared_model()
        self.plain = self.accelerator.unwrap_model(self.model)
        self.metrics = (
            load_metrics([*prepared.task.metrics(), *config.eval.metrics]) if len(prepared.splits) > 1 else {}
        )
        self.main_metric = config.eval.metric_for_best_model or prepared.task.main_metric
        self.keeper = Keeper(prepared, folder, self.plain, self.optimizer.optimizer, self.main_metric)
        self.training = self._training()
        self.log = RunLog(
            folder, self.accelerator, plain=config.tracking.disable_tqdm, total_steps=self.training.total_steps
        )
        heartbeat.tell = self.log.doing
        self.manifest = {**describe_run(self.accelerator), **prepared.describe()}
        self.intervals = Intervals(self.metrics, config.eval.bootstrap, config.train.seed, self.processes, stop)
        self.earlier_cost: dict[str, float] = {}
        self.evaluation_seconds = self.evaluating_seconds = 0.0
        self.began = time.monotonic()
        self.ended: float | None = None
        self.peak = 0

    def _prepared_model(self) -> tuple[nn.Module, Any]:
        """Model and optimizer as they are trained: sharded, or wrapped so that gradients are averaged."""
        prepared, config = self.prepared, self.prepared.config
        if not config.train.fsdp:
            optimizer = make_optimizer(prepared.model, prepared.movements, config.optim)
            return self.accelerator.prepare(prepared.model, optimizer)
        shard(prepared.model, self.processes)
        optimizer = make_optimizer(prepared.model, prepared.movements, config.optim)  # over the shares
        return prepared.model, self.accelerator.prepare(optimizer)

    def _training(self) -> Training:
        prepared, config = self.prepared, self.prepared.config
        return Training(
            accelerator=self.accelerator,
            processes=self.processes,
            model=self.model,
            task=prepared.task,
            strategies=list(prepared.strategies.values()),
            dataset=prepared.splits["train"],
            optimizer=self.optimizer,
            learning_rate_at=lambda step: multiplier(config.optim, step, total_steps=self.training.total_steps),
            config=config.train,
            eval_config=config.eval,
            guard=config.guard,
            save_steps=config.checkpoint.save_steps,
            main_metric=self.main_metric,
            evaluate=partial(self.evaluate, "validation") if "validation" in prepared.splits else self.show,
            save=self.save,
            rollback=self.keeper.rollback,
            log=lambda event: self.log.event(event),
            advance=self.advance,
            stop=self.stop,
            callbacks=Callbacks(prepared.callbacks, self.processes),
            folder=self.folder,
        )

    def do(self, start: Path | None) -> dict[str, Any]:
        """Train from the start or a checkpoint; returns the results."""
        config, training = self.prepared.config, self.training
        if start is not None:
            self.earlier_cost = earlier_cost(self.folder)
        self._start_reference()  # before a checkpoint moves the weights away from the start
        self._start_strategies()
        if start is not None:
            self._restore(start)
        if self.processes.count > 1:
            facts = {**self.prepared.facts(training.state.step), **self.start_weights}
            self.processes.must_agree(facts, "all processes must read the same files with the same settings")
        self.processes.on_main(lambda: write_text(self.folder / "config.yaml", dump(config)))
        self.write_manifest("running")
        start_trackers(self.accelerator, config.tracking, config.model_dump(mode="json"), self.folder.name)
        restart_peak_memory(self.accelerator.device)
        self.began = time.monotonic()
        step, evaluated = training.state.step, training.state.last_evaluated_step
        self.log.begin(step, evaluated=step == evaluated, done=training.done, metric=self.main_metric)
        self.advance(training.state.step)
        state = fit(training)
        self.ended, self.peak = time.monotonic(), peak_memory_bytes(self.accelerator.device)
        if state.step > step:
            self.save(state)
        scores = self._final(state)
        settings = metric_settings(self.metrics)
        return results_of(self.prepared, self.training, self.parameters, scores, self.intervals.found, settings)

    def _final(self, state: TrainState) -> dict[str, dict[str, float]]:
        """The scores of the weights that are kept."""
        again = self.prepared.task.tunes or self.prepared.config.eval.bootstrap
        found = self.keeper.take_best(state)
        if found and again:  # what is chosen on validation rows, and their intervals, must be of these weights
            found = self.evaluate("validation", state.step, final=True)
        scores = {"validation": found} if found else {}
        if "test" in self.prepared.splits:
            scores["test"] = self.evaluate("test", state.step, final=True)
            self.training.tell("on_evaluate", loss=scores["test"]["loss"], metrics=scores["test"], split="test")
        return scores

    def advance(self, step: int) -> None:
        """A step is done."""
        self.heartbeat.at("training", step + 1)
        self.log.advance(step)

    def _start_reference(self) -> None:
        """Keep what the start model says about the rows, for a task that compares with it."""
        config, splits = self.prepared.config, self.prepared.splits
        add_reference(
            splits,
            self.plain,
            self.prepared.task,
            processes=self.processes,
            batch_size=config.eval.eval_batch_size or REFERENCE_ROWS,
            seed=config.train.seed,
            stop=self.stop,
        )
        self.training.dataset = splits["train"]

    def _start_strategies(self) -> None:
        """Let each strategy look at the start weights, with the training batches in order."""
        for strategy in self.prepared.strategies.values():
            strategy.start(self.model, self.prepared.task, self._in_order())

    def _in_order(self) -> Iterator[dict[str, Tensor]]:
        task, dataset = self.prepared.task, self.prepared.splits["train"]
        size, seed = self.training.micro_batch_size, self.prepared.config.train.seed
        for first in range(0, len(dataset), size):
            if self.processes.total(self.stop())[0]:  # all stop together, since the strategy may use all
                raise self.stop.stopped()
            rows = np.arange(first, min(first + size, len(dataset)))
            yield to_device(collate(task, dataset, rows, seed=seed, epoch=0), self.accelerator.device)

    def evaluate(self, split: str, step: int, *, final: bool = False) -> dict[str, float]:
        """Score a split, write the event, return the numbers. Raises Stopped when asked to stop meanwhile.

        A final one makes the intervals; of validation it is in the log already.
        """
        began = time.monotonic()
        dataset = self.prepared.splits[split]
        config = self.prepared.config
        self.heartbeat.at("evaluation", step)
        found = evaluate(
            self.plain,
            self.prepared.task,
            dataset,
            self.metrics,
            rows=self.prepared.rows[split],
            processes=self.processes,
            batch_size=config.eval.eval_batch_size or self.training.micro_batch_size,
            seed=config.train.seed,
            stop=self.stop,
            tune=split == "validation",
            look=partial(self.intervals.draw, split) if final else None,
        )
        is_logged = final and split == "validation"
        if not is_logged:
            log_samples(self.plain, self.prepared.task, self.processes, self.log.event, step=step, split=split)
        self.evaluation_seconds += time.monotonic() - began
        if self.ended is None:
            self.evaluating_seconds = self.evaluation_seconds  # the part that lies within training
        if not is_logged:
            about = {"event": "evaluate", "split": split, "step": step, "epoch": self.training.epoch}
            self.log.event({**about, **found})
        self.heartbeat.at("training", step + 1)
        return found

    def show(self, step: int) -> dict[str, float]:
        """In place of an evaluation where there are no validation rows: what the model writes, and no scores."""
        log_samples(self.plain, self.prepared.task, self.processes, self.log.event, step=step)
        return {}

    def save(self, state: TrainState) -> int | None:
        """Save, or say why not and go on; returns the step of the newest good checkpoint."""
        self.heartbeat.at("saving", state.step)
        before, problem = self.keeper.saved_step, self.keeper.save(state)
        if problem is None:
            self.write_manifest("running")
        else:
            kept = self.keeper.saved_step
            newest = "none yet" if kept is None else f"step {kept}"
            self.log.event(
                {"event": "not saved", "step": state.step, "reason": problem, "the newest checkpoint": newest}
            )
        self.heartbeat.at("training", state.step + 1)
        if self.keeper.saved_step != before:
            self.training.tell("on_save", folder=path_of(self.folder / "checkpoints", state.step))
        return self.keeper.saved_step

    def _restore(self, path: Path) -> None:
        self.training.state = self.keeper.restore(path)
        if isinstance(rows := self.training.dataset, Stream):  # read again up to where the run was
            size = self.prepared.config.train.train_batch_size
            step = min(self.training.state.step, self.training.total_steps)
            self.processes.each(lambda: rows.read_until(step * size, self.stop.poll))

    def close(self) -> None:
        """Stop what runs beside the training."""
        self.training.feed.close()
        self.log.close()

    def export(self) -> nn.Module:
        """Save the model for use and prove that it loads again as the same model."""
        plain = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # without its autocast
        for strategy in self.prepared.strategies.values():
            plain = strategy.exported(plain)
        task, config, folder = self.prepared.task, self.prepared.config, self.folder / "model"
        plain = task.exported(plain)
        split = self.prepared.splits.get("validation", self.prepared.splits["train"])
        rows = np.arange(min(ROWS_TO_COMPARE, len(split)))
        batch = to_device(collate(task, split, rows, seed=0, epoch=0), self.accelerator.device)
        logits = logits_of(plain, task, batch)
        if config.train.fsdp:
            logits = logits.cpu()  # a second model, whole, need not fit beside the shares
        self.heartbeat.at("export", self.training.state.step)
        save_model(plain, full_weights(plain), task, folder, self.processes)
        self.processes.on_main(
            lambda: check_reload(plain, logits, folder, task, batch, partial(start_model, config, task))
        )
        return plain.eval()

    def write_manifest(self, status: str) -> None:
        """What this run is and has cost so far, over all its sessions."""
        if not self.processes.is_main:
            return
        state, now = self.training.state, self.ended or time.monotonic()
        cost = cost_of(
            self.earlier_cost,
            seconds=now - self.began - self.evaluating_seconds,
            evaluation_seconds=self.evaluation_seconds,
            saving_seconds=self.keeper.seconds,
            samples=state.samples,
            tokens=state.tokens,
            peak_memory=self.peak or peak_memory_bytes(self.accelerator.device),
            model_folder=self.folder / "model",
        )
        if self.earlier_cost and not state.step:  # stopped before it was known how far the run had come
            cost = self.earlier_cost
        try:
            write_json(self.folder / "manifest.json", {**self.manifest, "cost": cost, "status": status})
        except OSError as error:
            if status == "finished":
                raise
            logger.warning("manifest.json was not written: %s", error)
