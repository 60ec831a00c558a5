"""Score a saved model on the rows of a configuration: the numbers of its run again, or those on other rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.accelerator import make_accelerator
from pipeline.bootstrap import Intervals
from pipeline.config import saying_where
from pipeline.data import fingerprint, load_splits
from pipeline.encoding import encoded, refuse_unlearnable
from pipeline.errors import ConfigError
from pipeline.evaluation import evaluate as score
from pipeline.evaluation import metric_settings
from pipeline.failure import written
from pipeline.files import check_place
from pipeline.hub_names import HUB_METRIC
from pipeline.manifest import describe_machine, write_json
from pipeline.pinning import pin_metrics
from pipeline.processes import Processes
from pipeline.reading import check_metrics, refuse_unscorable
from pipeline.run import strict
from pipeline.saved import Overrides, Saved, as_start, find, load_model, model_at_work, recall_task, settings_of
from pipeline.settings import make_task
from pipeline.stopping import StopRequest
from pipeline.tasks import Task
from pipeline.untouched import untouched

FILE = "evaluation.json"


@dataclass
class Evaluation:
    """How a saved model scores."""

    metrics: dict[str, dict[str, float]]
    """Split -> its numbers."""
    num_samples: dict[str, int]
    """Split -> how many examples they are over."""
    intervals: dict[str, dict[str, list[float] | None]]
    """Split -> 95 % intervals of its metrics, with eval.bootstrap."""
    facts: dict[str, Any]
    """The rest of `evaluation.json`: the model with the commit that was read, the rows, versions and machine."""

    def _repr_html_(self) -> str:
        """For a notebook: the table."""
        return f"<pre>{escape(chr(10).join(self.lines()))}</pre>"

    def lines(self) -> list[str]:
        """A small table."""
        found = []
        for split, numbers in self.metrics.items():
            found.append(f"{split} ({self.num_samples[split]} examples)")
            width = max(map(len, numbers))
            for name, value in numbers.items():
                ends = self.intervals.get(split, {}).get(name)
                between = f"   95 %: {ends[0]:.4g} to {ends[1]:.4g}" if ends else ""
                found.append(f"  {name:<{width}}  {value:.4g}{between}")
        return found


@untouched()
def evaluate(
    model: str | os.PathLike[str],
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    revision: str | None = None,
    base_model: str | None = None,
    output_dir: str | Path | None = None,
    datasets: Mapping[str, Any] | None = None,
    overrides: Overrides = (),
    stop: StopRequest | None = None,
    **settings: Any,
) -> Evaluation:
    """Score a saved model on the validation and test rows of a configuration, by default that of its own run.

    `model` is a run folder, a model folder, an adapter, or the id of a model on the hub, whose `revision` is resolved
    to a commit that is recorded. `datasets` maps validation and test to a `datasets.Dataset` in place of files.
    `settings` are single settings (`eval_batch_size=64`, `bootstrap=1000`); `base_model` is where the base of an
    adapter is. On the machine and with as many processes as in the run its own numbers come out, to the last bit;
    with adapters that were merged, or labels that were scaled for the loss, to rounding.

    Nothing is chosen anew: labels and thresholds are the model's. With `output_dir` everything is written to
    `evaluation.json` there. Raises ConfigError when the labels of model and rows are not the same, and with all other
    problems, before a weight is read.
    """
    stop = stop or StopRequest()
    saved = find(model, revision)
    given = settings_of(saved, config, overrides or settings)
    target = None if output_dir is None else _target(output_dir)
    with saying_where(given):
        job = prepare(saved, given, base_model, datasets, stop)
        processes = Processes(make_accelerator(job.config.train.mixed_precision))
        at_work = model_at_work(saved, job.config, given, job.task, job.splits, processes, base_model, stop)
    if target is not None:
        with written(target, "nothing was scored"):
            target.parent.mkdir(parents=True, exist_ok=True)
    found, intervals = _scores(job, at_work, processes, stop)
    counts = {split: int(numbers.pop("num_samples")) for split, numbers in found.items()}
    facts = {
        "model": saved.describe(),
        "task": given.task.name,
        "metric_settings": metric_settings(job.metrics),
        "metrics_of_the_hub": [name for name in job.config.eval.metrics if name.startswith(HUB_METRIC)],
        "label_names": list(job.task.model_kwargs().get("id2label", {}).values()),
        "notes": job.task.notes(),
        "data": {split: {"rows": len(part), "fingerprint": job.prints[split]} for split, part in job.rows.items()},
        **describe_machine(processes.accelerator.device),
        "mixed_precision": processes.accelerator.mixed_precision,
    }
    evaluation = Evaluation(found, counts, intervals, facts)
    if target is not None:
        with written(target, "\n".join(["its numbers are these:", *evaluation.lines()])):
            write_json(target, {**facts, "metrics": strict(found), "num_samples": counts, "intervals": intervals})
    return evaluation


def evaluate_plan(
    model: str | os.PathLike[str],
    config: str | Path | Mapping[str, Any] | None = None,
    *,
    revision: str | None = None,
    base_model: str | None = None,
    output_dir: str | Path | None = None,
    overrides: Overrides = (),
    stop: StopRequest | None = None,
) -> list[str]:
    """What `evaluate` would do, in lines for people: everything is checked as there, and no row is scored."""
    stop = stop or StopRequest()
    saved = find(model, revision)
    given = settings_of(saved, config, overrides)
    target = None if output_dir is None else _target(output_dir)
    with saying_where(given):
        job = prepare(saved, given, base_model, None, stop)
        load_model(saved, job.config, job.task)
    splits = ", ".join(f"{len(part):,} {split}" for split, part in job.rows.items())
    draws = f", intervals from {given.eval.bootstrap} draws" if given.eval.bootstrap else ""
    return [
        f"model        {saved.shown(job.config)}",
        f"task         {given.task.name}",
        f"rows         {splits}",
        f"metrics      {', '.join(['loss', *job.metrics])}{draws}",
        f"would write  {target or 'nothing; the numbers are printed (--output_dir writes evaluation.json)'}",
    ]


@dataclass
class Work:
    """What is scored, checked and encoded."""

    config: Any
    """That of `as_start`."""
    task: Task
    rows: dict[str, Any]
    prints: dict[str, str]
    splits: dict[str, Any]
    metrics: dict[str, Any]


def prepare(
    saved: Saved, given: Any, base_model: str | None, datasets: Mapping[str, Any] | None, stop: StopRequest
) -> Work:
    """Rows and features of a saved model's evaluation. Raises ConfigError or DataError; no weight is read."""
    config = as_start(saved, given, base_model)
    if problems := config.eval.problems():
        raise ConfigError(problems)
    pin_metrics(config)
    rows = _rows(config, datasets, stop)
    task = recall_task(saved, config, rows)
    metrics = check_metrics(config, task, scored=True)
    prints = {split: fingerprint(part, task.columns()) for split, part in rows.items()}
    splits = {split: encoded(config, task, part, prints[split], split, stop) for split, part in rows.items()}
    refuse_unlearnable(config.data, task, splits)
    refuse_unscorable(config.data, task, rows, splits, metrics)
    return Work(config, task, rows, prints, splits, metrics)


def _scores(
    job: Work, model: nn.Module, processes: Processes, stop: StopRequest
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """The numbers of every split, with `num_samples`, and their intervals."""
    config = job.config
    intervals = Intervals(job.metrics, config.eval.bootstrap, config.train.seed, processes, stop)
    found = {}
    for split in job.rows:
        found[split] = score(
            model,
            job.task,
            job.splits[split],
            job.metrics,
            rows=job.rows[split],
            processes=processes,
            batch_size=config.eval.eval_batch_size or config.train.micro_batch_size or config.train.train_batch_size,
            seed=config.train.seed,
            stop=stop,
            look=partial(intervals.draw, split),
        )
    return found, intervals.found


def _target(output_dir: str | Path) -> Path:
    """The file in a folder, which can be made."""
    folder = Path(output_dir).expanduser()
    if os.path.exists(folder) and not folder.is_dir():
        raise ConfigError(f"output_dir: {output_dir} is a file; expected a folder, or a name that is still free")
    check_place(folder / FILE, "output_dir")
    return folder / FILE


def _rows(config: Any, datasets: Mapping[str, Any] | None, stop: StopRequest) -> dict[str, Any]:
    """The validation and test rows. Training rows are read only where validation rows are drawn from them."""
    data = config.data
    if data.validation_split_fraction is None:
        nothing = ("train_file", "sources", "max_train_samples")
        data = data.model_copy(update={**dict.fromkeys(nothing), "dataset_train_split": None, "streaming": False})
    named = (data.validation_file, data.test_file, data.dataset_validation_split, data.dataset_test_split)
    if datasets is not None:
        datasets = {split: rows for split, rows in datasets.items() if split != "train"}
    if not (datasets or data.validation_split_fraction or any(named)):
        raise ConfigError(
            "data: there are no validation or test rows to score on; give data.validation_file, data.test_file, or "
            "splits of data.dataset_name"
        )
    rows = load_splits(data, make_task(config).columns(), datasets=datasets, poll=stop.poll)
    rows.pop("train", None)
    return rows
