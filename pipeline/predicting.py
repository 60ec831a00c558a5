"""What a saved model says about rows without labels: one line of JSON for each, in their order."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import nn

from pipeline.accelerator import make_accelerator
from pipeline.config import saying_where
from pipeline.data import fingerprint, load_splits
from pipeline.encoding import encoded, refuse_unlearnable
from pipeline.errors import ConfigError, UserError
from pipeline.evaluation import Part, collate, over_rows, to_device
from pipeline.prediction_file import begun_file, new_file, write_lines
from pipeline.processes import Processes
from pipeline.reading import refuse_unscorable
from pipeline.saved import Overrides, Saved, as_start, find, load_model, model_at_work, ready, settings_of
from pipeline.settings import make_task
from pipeline.stopping import StopRequest
from pipeline.tasks import Task
from pipeline.untouched import untouched

CHUNK = 1024
"""Rows that are written together. Which rows meet in a batch depends on their chunk alone, so that a stopped prediction
that goes on gives the same bytes."""
SPLIT = "test"
"""What the rows are called where a split has to have a name."""
Rows = str | Path | list[str] | Any


@overload
def predict(model: str | os.PathLike[str], file: Rows, out: None = None, **more: Any) -> list[dict[str, Any]]: ...
@overload
def predict(model: str | os.PathLike[str], file: Rows, out: str | Path, **more: Any) -> Path: ...
@untouched()
def predict(
    model: str | os.PathLike[str],
    file: Rows,
    out: str | Path | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    revision: str | None = None,
    base_model: str | None = None,
    overrides: Overrides = (),
    stop: StopRequest | None = None,
    **settings: Any,
) -> list[dict[str, Any]] | Path:
    """What a saved model says about every row: a list in the order of the rows, or the file `out` with a line for each.

    `model` is a run folder, its model folder, or the id of a model on the hub (with `revision`) that graft has pushed.
    `file` is whatever `data.train_file` takes, or a `datasets.Dataset`; columns with labels may be there and are not
    read. `config` is a configuration in place of the run's, `settings` are single settings
    (`eval_batch_size=64`), `base_model` is where the base of an adapter is. What a row of the result holds is the
    task's to say: see `Task.predicted`.

    `out` is written beside its place and appears when it is whole; after a stop the same call goes on where it was.
    Raises ConfigError or DataError before a weight is read, and Stopped when `stop` was asked for.
    """
    place = None if out is None else new_file(out)
    job = _job(model, file, config, revision, base_model, overrides or settings, stop)
    if place is None:
        return [line for chunk in job.chunks(0) for line in chunk]
    return write_lines(place, job.identity, len(job.rows), CHUNK, job.chunks)


def predict_plan(
    model: str | os.PathLike[str],
    file: Rows,
    out: str | Path,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    revision: str | None = None,
    base_model: str | None = None,
    overrides: Overrides = (),
    stop: StopRequest | None = None,
) -> list[str]:
    """What `predict` would do, in lines for people: everything is checked as there, and nothing is predicted."""
    place = new_file(out)
    job = _job(model, file, config, revision, base_model, overrides, stop)
    job.features()
    load_model(job.saved, job.config, job.task)
    begun = begun_file(place, job.identity)
    goes_on = f", going on with {begun.name}" if begun.is_file() else ""
    return [
        f"model        {job.saved.shown(job.config)}",
        f"task         {job.given.task.name}",
        f"rows         {len(job.rows):,}, of which it reads {', '.join(job.task.asked())}",
        f"at a time    {job.batch_size} rows",
        f"would write  {place}{goes_on}",
    ]


def _job(
    model: str | os.PathLike[str],
    file: Rows,
    config: str | Path | Mapping[str, Any] | None,
    revision: str | None,
    base_model: str | None,
    settings: Overrides,
    stop: StopRequest | None,
) -> Job:
    """The prediction, when model, rows and settings go together."""
    stop = stop or StopRequest()
    saved = find(model, revision)
    given = settings_of(saved, config, settings)
    with saying_where(given):
        prepared, task, rows = _read(saved, given, file, base_model, stop)
    return Job(saved, prepared, given, task, rows, base_model, stop)


def _read(saved: Saved, given: Any, file: Rows, base_model: str | None, stop: StopRequest) -> tuple[Any, Task, Any]:
    """The configuration with the model as its start, the task that knows its labels, and the rows, completed."""
    task = make_task(given)
    if type(task).predicted is Task.predicted:
        raise ConfigError(f"task: {given.task.name} does not say what a prediction is (it has no method `predicted`)")
    task.to_predict()
    config = as_start(saved, given, base_model).model_copy(update={"task": task.config})
    task.data = config.data = _data_of(task.data, file)
    if problems := task.problems():
        raise ConfigError(problems)
    asked = {name: kind for name, kind in task.columns().items() if name in task.asked()}
    datasets = None if config.data.test_file is not None else {SPLIT: file}
    try:
        rows = load_splits(config.data, asked, datasets=datasets, poll=stop.poll)[SPLIT]
    except UserError as error:
        raise type(error)([problem.replace("data.test_file", "file") for problem in error.problems]) from error
    task.recall(saved.settings, {})
    for name, cells in task.placeholders(rows[:]).items():
        if name in rows.column_names:
            rows = rows.remove_columns(name)
        rows = rows.add_column(name=name, column=cells, new_fingerprint=f"{SPLIT}-{name}")
    task.recall(saved.settings, {SPLIT: rows})
    ready(saved, config, task)
    return config, task, rows


def _data_of(data: Any, file: Rows) -> Any:
    """The data section with these rows and no others."""
    is_file = isinstance(file, str | Path | list)
    files = [str(name) for name in file] if isinstance(file, list) else str(file)
    nothing = ["train_file", "validation_file", "dataset_name", "dataset_validation_split", "dataset_test_split"]
    nothing += ["sources", "validation_split_fraction", "max_eval_samples"]
    update = {**dict.fromkeys(nothing), "test_file": files if is_file else None}
    return data.model_copy(update={**update, "streaming": False, "on_bad_row": "error"})


class Job:
    """A prediction: the rows in chunks, and the lines of each."""

    def __init__(
        self, saved: Saved, config: Any, given: Any, task: Task, rows: Any, base_model: str | None, stop: StopRequest
    ):
        self.saved, self.config, self.given, self.task, self.rows = saved, config, given, task, rows
        self.base_model, self.stop = base_model, stop
        self.print = fingerprint(rows, task.columns())
        self.processes = Processes(make_accelerator(config.train.mixed_precision))
        if self.processes.count > 1:
            raise ConfigError("predict: works in one process; cut the file and start one command for each part")

    @property
    def identity(self) -> str:
        """What the lines depend on: the model, the rows and the settings."""
        files = sorted(path for path in self.saved.folder.rglob("*") if path.is_file())
        weights = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        known = self.config.model_dump(mode="json")
        data = {key: value for key, value in known["data"].items() if key not in ("test_file", "cache_dir")}
        training = [known["train"][key] for key in ("seed", "mixed_precision")]
        facts = [known["task"], known["model"], known["eval"], data, training]
        described = json.dumps([facts, self.saved.commit or weights, self.print, CHUNK], sort_keys=True, default=str)
        return hashlib.sha256(described.encode()).hexdigest()[:12]

    @property
    def batch_size(self) -> int:
        """Rows in one forward pass."""
        train = self.config.train
        return int(self.config.eval.eval_batch_size or train.micro_batch_size or train.train_batch_size)

    def features(self) -> dict[str, Any]:
        """The encoded rows, as the one split there is. Raises DataError for rows that nothing can be said of."""
        config, task = self.config, self.task
        splits = {SPLIT: encoded(config, task, self.rows, self.print, SPLIT, self.stop)}
        refuse_unlearnable(config.data, task, splits)
        refuse_unscorable(config.data, task, {SPLIT: self.rows}, splits, {})
        return splits

    def chunks(self, first: int) -> Iterator[list[dict[str, Any]]]:
        """The lines of each chunk of rows, from chunk number `first` on. Raises Stopped between two batches."""
        task, processes, splits = self.task, self.processes, self.features()
        model = model_at_work(self.saved, self.config, self.given, task, splits, processes, self.base_model, self.stop)
        features, size = splits[SPLIT], self.batch_size
        examples = np.asarray(features["example"]) if "example" in features.column_names else np.arange(len(features))
        for start in range(first * CHUNK, len(self.rows), CHUNK):
            end = min(start + CHUNK, len(self.rows))
            low, high = (int(place) for place in np.searchsorted(examples, [start, end]))
            part = _counted_from(features.select(range(low, high)), start)
            forward = partial(self._outputs, model, features, low)
            columns, _ = over_rows(model, part, forward, processes=processes, batch_size=size, stop=self.stop)
            yield task.predicted(columns, self.rows.select(range(start, end)), part)

    def _outputs(self, model: nn.Module, features: Any, first: int, rows: np.ndarray) -> tuple[Part, float, int]:
        """What the task needs of some rows of a chunk, which begins with feature row `first`."""
        accelerator, seed = self.processes.accelerator, self.config.train.seed
        # what is drawn for a row depends on its number among all
        batch = to_device(collate(self.task, features, rows + first, seed=seed, epoch=0), accelerator.device)
        with accelerator.autocast():
            found = self.task.outputs(model, batch)
        found = {key: value.clone() for key, value in found.items()}
        return {**found, "row": torch.as_tensor(rows.copy())}, 0.0, 0


def _counted_from(features: Any, start: int) -> Any:
    """Features whose `example`, where they have one, is a row of their chunk."""
    if "example" not in features.column_names:
        return features
    numbers = np.asarray(features["example"]) - start
    rest = features.remove_columns("example")
    return rest.add_column(name="example", column=numbers, new_fingerprint=f"{SPLIT}-{start}")
