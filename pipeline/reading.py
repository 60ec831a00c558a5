"""From a configuration to rows and features: read, checked against each other, encoded; cheap things first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import models
from pipeline.corpora import read_sources, read_stream
from pipeline.data import Overlap, fingerprint, identity, load_splits, overlap, places_of, see
from pipeline.data.columns import SHOWN, Problems
from pipeline.encoding import encoded, refuse_unlearnable
from pipeline.errors import ConfigError, DataError, nearest
from pipeline.evaluation import load_metrics, refuse_misfits, reported_names, unscorable
from pipeline.models.limit import length_limit
from pipeline.optim import movements
from pipeline.pinning import Pins, pin
from pipeline.processes import Processes
from pipeline.settings import make_task, start_of, strategies_of
from pipeline.stopping import StopRequest
from pipeline.strategies import Strategy
from pipeline.tasks import Task

DEFAULT_MAX_LENGTH = 1024
OVERLAP_LIMIT = 0.01
"""Share of a split's rows that may be training rows too."""


@dataclass
class Data:
    """What a run learns from and is scored on."""

    config: Any
    task: Task
    rows: dict[str, Any]
    """Split -> rows in normal form (datasets.Dataset)."""
    splits: dict[str, Any]
    """Split -> encoded rows with `length` and `truncated`."""
    fingerprints: dict[str, str]
    overlaps: dict[str, Overlap]
    """Split -> how much of it is in the training rows."""
    sizes: dict[str, int]
    """Split -> its rows (of a corpus: documents; of a stream: blocks to come)."""
    repeated: dict[str, int]
    """Split -> rows that repeat an earlier one; not counted in a corpus or a stream."""
    shares: list[dict[str, Any]]
    """Of `data.sources`: what an epoch takes from each."""
    pins: Pins
    """What comes from the hub, with its commits."""

    def shared_rows(self, split: str) -> list[str]:
        """The first rows of a split that are training rows too, each as a sentence with both places."""
        pairs = self.overlaps[split].first if split in self.overlaps else []
        return shared(self.config.data, self.task, self.rows, split, pairs)


def read(
    config: Any,
    datasets: Mapping[str, Any] | None,
    stop: StopRequest,
    *,
    refuse: bool = True,
    processes: Processes | None = None,
) -> Data:
    """Rows and features of all splits. Raises ConfigError or DataError with all problems found.

    First the hub names in the configuration become commits (pipeline/pinning.py). `refuse=False` lets rows through
    that are in two splits.
    """
    pins = pin(config, processes)
    task = make_task(config)
    models.check_start(config.model, task.model_class)
    rows = load_splits(config.data, task.columns(), datasets=datasets, poll=stop.poll)
    sources = config.data.sources if datasets is None else None
    streamed = config.data.streaming and datasets is None
    if "train" not in rows and not sources and not streamed:
        raise DataError("data: there are no training rows; give data.train_file or data.dataset_name")
    stop.poll()
    task.read_labels(rows, models.checkpoint_labels(config.model, task.model_class))
    metrics = check_metrics(config, task, scored=bool(set(rows) - {"train"}))
    use_processing(config, task)
    check_model(config, task)
    corpora = read_sources(config, task, stop) if sources else None
    stream = read_stream(config, task) if streamed else None
    scored = [split for split in rows if split != "train" and ("train" in rows or corpora)]
    seen = {
        split: see(part, task.inputs(), compared=bool(scored), keep=split != "train") for split, part in rows.items()
    }
    if corpora:
        seen["train"] = corpora.seen([seen[split] for split in scored], stop)
    overlaps = {split: overlap(seen["train"], seen[split]) for split in scored}
    if refuse and not config.data.allow_overlap:
        _refuse_overlap(config, task, rows, overlaps)
    stop.poll()
    prints = {split: fingerprint(part, task.columns()) for split, part in rows.items()}
    stop.poll()
    splits = {split: encoded(config, task, part, prints[split], split, stop) for split, part in rows.items()}
    refuse_unlearnable(config.data, task, splits)
    refuse_unscorable(config.data, task, rows, splits, metrics)
    if train := corpora or stream:
        prints, splits = {"train": train.fingerprint, **prints}, {"train": train.blocks, **splits}
    documents = {"train": train.documents} if train else {}
    sizes = {**documents, **{split: len(part) for split, part in rows.items()}}
    repeated = {split: found.repeated for split, found in seen.items() if split in rows}
    shares = corpora.shares if corpora else []
    return Data(config, task, rows, splits, prints, overlaps, sizes, repeated, shares, pins)


def _refuse_overlap(config: Any, task: Task, rows: Mapping[str, Any], overlaps: Mapping[str, Overlap]) -> None:
    problems = []
    for split, found in overlaps.items():
        if found.share > OVERLAP_LIMIT:
            problems.append(
                f"{_key_of(config.data, split)}: {found.normalized} of {found.rows} {split} rows "
                f"({100 * found.share:.1f} %) are training rows too, {found.exact} of them letter by letter; what they "
                "score is memory. Take them out of one of the two, or set data.allow_overlap: true"
            )
            problems += shared(config.data, task, rows, split, found.first)
    if problems:
        raise DataError(problems)


def _key_of(data: Any, split: str) -> str:
    """The setting that the rows of a split come from."""
    if split == "validation" and data.validation_split_fraction is not None:
        return "data.validation_split_fraction"
    return f"data.{split}_file" if vars(data)[f"{split}_file"] is not None else "data"


def shared(data: Any, task: Task, rows: Mapping[str, Any], split: str, pairs: list[tuple[int, int]]) -> list[str]:
    """Pairs of row numbers (in the split, in train) as sentences."""
    column = task.inputs()[0]
    here = places_of(data, split, column, [number for number, _ in pairs])
    numbers = [number for _, number in pairs]
    if data.sources:
        there = {number: f"document {number + 1} of data.sources" for number in numbers}
    else:
        there = places_of(data, "train", column, numbers)
    return [f"{here[number]}: is also {there[seen]}: {_shorten(rows[split][number][column])}" for number, seen in pairs]


def _shorten(cell: Any) -> str:
    shown = repr(identity(cell))
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def check_model(config: Any, task: Task, brought: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Refuse a start, or a strategy, that cannot work, from names and shapes alone: no weight is read or drawn.

    `brought`: of the base of an adapter, the shapes of what the adapter brings whole.
    """
    model = models.outline(
        config.model,
        model_class=task.model_class,
        model_kwargs=task.model_kwargs(),
        tokenizer=task.tokenizer,
        new_parameters=task.new_parameters,
        brought=brought,
    )
    task.check(model, random=start_of(config) == "random")
    strategies, rules = list(strategies_of(config).values()), task.rules(model)
    for strategy in strategies:
        strategy.check(model, task)
    if all(type(strategy).wrap is Strategy.wrap for strategy in strategies):
        asked = (strategy.rules(model, task) for strategy in strategies)
        movements(model, [rules, *asked], config.optim.weight_decay)


def refuse_unscorable(
    data: Any, task: Task, rows: Mapping[str, Any], splits: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    """DataError that names the rows that cannot be scored: no answer can be written for them, or a metric cannot take
    their reference. After training it would be too late."""
    problems = Problems()
    for split, part in rows.items():
        if split == "train":
            continue
        bad = [task.unanswerable(part, splits[split])]
        references = task.references(part) or []
        for name, metric in metrics.items():
            found = unscorable(metric, references)
            bad.append({row: f"eval.metrics: {name}: the row's reference {why}" for row, why in found.items()})
        for sentences in bad:
            places = places_of(data, split, task.inputs()[0], list(sentences)[:SHOWN])
            for row, sentence in sentences.items():
                problems.add(places.get(row, ""), sentence)
    problems.raise_any()


def check_metrics(config: Any, task: Task, *, scored: bool) -> dict[str, Any]:
    """Refuse a metric that is not there or lacks a package, and a metric_for_best_model that nothing will report.

    Metrics of the user's own may report any name. Returns all metrics of the run.
    """
    try:
        own, asked_for = load_metrics(task.metrics() if scored else []), load_metrics(config.eval.metrics)
        asked = [reported_names(metric) for metric in asked_for.values()]
        if scored:
            refuse_misfits(own, asked_for)
    except ConfigError as error:
        raise ConfigError([f"eval.metrics: {text.removeprefix('metric: ')}" for text in error.problems]) from error
    wanted = config.eval.metric_for_best_model
    known = ["loss", *task.reported(), *(name for names in asked for name in names or ())]
    if wanted is not None and wanted not in known and None not in asked:
        raise ConfigError(
            f"eval.metric_for_best_model: {wanted!r} is not reported by this task; {nearest(wanted, known)} "
            "(or add it to eval.metrics)"
        )
    if wanted in task.unscored():
        raise ConfigError(f"eval.metric_for_best_model: {wanted!r} cannot be scored: {task.unscored()[wanted]}")
    return {**own, **asked_for}


def use_processing(config: Any, task: Task) -> None:
    """Give the task what turns its rows into inputs."""
    if task.modality == "image":
        task.use_image_processor(models.load_image_processor(config.model))
    else:
        tokenizer = models.load_tokenizer(config.model)
        task.use_tokenizer(tokenizer, _max_length(config, tokenizer))


def _max_length(config: Any, tokenizer: Any) -> int:
    limit = length_limit(config.model, tokenizer)
    asked = config.data.max_length
    if limit is not None and asked is not None and asked > limit:
        raise ConfigError(f"data.max_length: {asked} is more than this model's {limit} positions; give at most {limit}")
    return asked or min(DEFAULT_MAX_LENGTH, limit or DEFAULT_MAX_LENGTH)
