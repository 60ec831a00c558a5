"""The numbers of a run as results.json holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.prepare import Prepared
from pipeline.settings import start_of
from pipeline.training import Training


def results_of(
    prepared: Prepared,
    training: Training,
    parameters: tuple[int, int],
    scores: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Any],
    settings: Mapping[str, str],
) -> dict[str, Any]:
    """What was trained, how far, and how it scores.

    `parameters`: all and those that move; `scores`: split -> numbers of its last evaluation, with `num_samples`;
    `settings`: metric -> how it counts, for those that can count in several ways.
    """
    config, state, task = prepared.config, training.state, prepared.task
    counts = {split: len(rows) for split, rows in prepared.splits.items()}
    counts |= {split: int(found["num_samples"]) for split, found in scores.items() if "num_samples" in found}
    metrics = {
        split: {name: value for name, value in found.items() if name != "num_samples"}
        for split, found in scores.items()
    }
    total, trainable = parameters[0], parameters[1] if training.total_steps else 0
    return {
        "task": config.task.name,
        "purpose": task.purpose,
        "model_class": task.model_class,
        "pipeline_tag": task.pipeline_tag,
        "start": start_of(config),
        "strategies": list(prepared.strategies),
        "steps": state.step,
        "epochs": round(state.step / training.steps_per_epoch, 4),
        "samples": state.samples,
        "tokens": state.tokens,
        "skipped_steps": state.skipped,
        "best_step": state.best_step,
        "stopped_early": state.stopped_early,
        "parameters": {
            "total": total,
            "trainable": trainable,
            "trainable_percent": round(100 * trainable / total, 4),
        },
        "main_metric": training.main_metric,
        "greater_is_better": config.eval.is_greater_better(training.main_metric),
        "metrics": metrics,
        "metric_settings": settings,
        "intervals": intervals,
        "num_samples": counts,
        "label_names": list(task.model_kwargs().get("id2label", {}).values()),
        "notes": task.notes(),
        **task.facts(),
    }
