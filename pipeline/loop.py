"""The loop: steps, and what happens between them. It names no task and no strategy."""

from __future__ import annotations

import time

from pipeline.errors import ConfigError, UserError
from pipeline.step import Outcome, take_step
from pipeline.stopping import Stopped
from pipeline.training import Training, TrainState


def fit(training: Training) -> TrainState:
    """Train until the last step, the last patience, or the first request to stop (then raises Stopped)."""
    state, config = training.state, training.config
    began = time.monotonic()
    training.model.train()
    if state.step and _is_due(training):  # a run that was stopped during its evaluation does it now
        _evaluate(training)
    while state.step < training.total_steps and not state.stopped_early:
        outcome = take_step(training)
        state.step += 1
        state.samples += len(outcome.portion.rows)
        state.tokens += outcome.portion.tokens
        _account(training, outcome)
        training.advance(state.step)
        last = state.step == training.total_steps
        if state.step % config.logging_steps == 0 or last:
            _log(training, outcome.norm, time.monotonic() - began)
        training.tell("on_step", loss=outcome.loss / max(1, outcome.terms))
        stop, improved = outcome.stop, False
        if _is_due(training) and not stop:
            try:
                improved = _evaluate(training)
            except Stopped:
                stop = True
        if stop:
            raise training.stop.stopped(training.save(state))
        if not last and (improved or state.step % training.save_steps == 0):
            training.save(state)
        state.stopped_early |= training.callbacks.asked_to_stop
    try:
        _evaluate(training)
    except Stopped:
        raise training.stop.stopped(training.save(state)) from None
    return state


def _is_due(training: Training) -> bool:
    return training.state.step % (training.eval_config.eval_steps or training.steps_per_epoch) == 0


def _account(training: Training, outcome: Outcome) -> None:
    """Count a step that was taken; say which rows one held that was not."""
    state, guard = training.state, training.guard
    if outcome.verdict in ("not finite", "spike"):
        _leave_out(training, outcome)
    elif outcome.verdict in ("taken", "empty"):
        state.window_loss += outcome.loss
        state.window_terms += outcome.terms
    if outcome.verdict == "taken" and guard.spike_sigma is not None:
        state.recent = [*state.recent, [outcome.loss / outcome.terms, outcome.norm]][-guard.spike_window :]


def _leave_out(training: Training, outcome: Outcome) -> None:
    """A step that was kept from the weights; too many in a row end the run."""
    state, guard, rows = training.state, training.guard, outcome.portion.rows
    state.skipped.append(state.step)
    loss = outcome.loss / max(1, outcome.terms)
    found = {"event": "skipped", "step": state.step, "reason": outcome.verdict, "loss": loss, "grad_norm": outcome.norm}
    training.log({**found, "rows": [int(row) + 1 for row in rows]})
    ids = ", ".join(str(int(row) + 1) for row in rows[:8])
    most = guard.max_skipped_steps
    if state.skipped[-most:] == list(range(state.step - most + 1, state.step + 1)):
        raise UserError(
            f"step {state.step}: the loss was {loss:.4g} and the gradient norm {outcome.norm:.4g} ({outcome.verdict}), "
            f"{most} steps in a row (last training rows: {ids}, ...); none of them reached the weights. A lower "
            "optim.learning_rate, longer optim.warmup_steps or mixed_precision: no usually helps"
        )
    if outcome.verdict == "spike" and guard.spike_action == "rollback":
        _roll_back(training)


def _roll_back(training: Training) -> None:
    state, window = training.state, training.guard.spike_window
    if state.rolled_back_at is not None and state.step - state.rolled_back_at < window:
        raise UserError(
            f"step {state.step}: a second spike within guard.spike_window {window} steps after going back at step "
            f"{state.rolled_back_at}; the rows are in metrics.jsonl. A lower optim.learning_rate usually helps"
        )
    step = training.rollback()
    if step is not None:
        state.rolled_back_at, state.recent = state.step, []
        training.log({"event": "rolled_back", "step": state.step, "to_step": step})


def _log(training: Training, norm: float, seconds: float) -> None:
    state = training.state
    if state.window_terms:
        training.log(
            {
                "event": "train",
                "step": state.step,
                "epoch": training.epoch,
                "loss": state.window_loss / state.window_terms,
                "learning_rate": training.optimizer.param_groups[0]["lr"],
                "grad_norm": norm,
                "tokens": state.tokens,
                "seconds": round(seconds, 3),
            }
        )
    state.window_loss, state.window_terms = 0.0, 0


def _evaluate(training: Training) -> bool:
    """Evaluate once per step at most and keep count of the best; True when this model is to be kept as the best."""
    state = training.state
    if state.last_evaluated_step == state.step:
        return False
    results = training.evaluate(state.step)
    if not results:  # nothing is scored
        state.last_evaluated_step = state.step
        return False
    if training.main_metric not in results:
        raise ConfigError(
            f"eval.metric_for_best_model: {training.main_metric!r} was not reported; {', '.join(results)} were"
        )
    value = results[training.main_metric]
    state.last_evaluated_step, state.last_results = state.step, results
    improved = training.eval_config.better(training.main_metric, value, state.best_metric)
    if improved:
        state.best_metric, state.best_step, state.best_results = value, state.step, results
        state.evaluations_without_improvement = 0
    else:
        state.evaluations_without_improvement += 1
        patience = training.eval_config.early_stopping_patience
        state.stopped_early = patience is not None and state.evaluations_without_improvement >= patience
    training.tell("on_evaluate", loss=results["loss"], metrics=results, split="validation")
    return improved and training.eval_config.load_best_model_at_end
