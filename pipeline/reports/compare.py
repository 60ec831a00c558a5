"""Compare runs: one table in the terminal, in Markdown and in JSON, and a figure."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DataError
from pipeline.reports.compare_figure import draw
from pipeline.reports.read import Run, read_run
from pipeline.reports.terminal import as_page, sample_text, show
from pipeline.reports.text import count, duration, fenced, markdown, markdown_table, memory, number, percent

if TYPE_CHECKING:
    from rich.console import Console

Sample = Mapping[str, Any]
Folder = str | os.PathLike[str]
Row = dict[str, Any]

COSTS = ["trainable", "share", "training time", "peak memory", "size on disk"]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, in the order given. `rows` are what `compare.json` holds and every table is made from."""

    title: str
    split: str
    metric: str
    """The metric of the headline, the figure and the first column."""
    greater_is_better: bool
    metrics: list[str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def best(self) -> list[str]:
        """Names of the runs with the best value of the metric (several on a tie)."""
        values = [row["metrics"][self.metric] for row in self.rows if row["metrics"][self.metric] is not None]
        top = (max if self.greater_is_better else min)(values, default=None)
        return [row["name"] for row in self.rows if top is not None and row["metrics"][self.metric] == top]

    def header(self) -> list[str]:
        first = f"{self.metric} {'↑' if self.greater_is_better else '↓'}"
        return ["run", first, *self.metrics[1:], *COSTS]

    def cells(self, row: Row) -> list[str]:
        """A row as text, in the order of `header`."""
        scores = [number(row["metrics"][name], [one["metrics"][name] for one in self.rows]) for name in self.metrics]
        return [
            row["name"],
            *scores,
            count(row["parameters_trainable"]),
            percent(row["trainable_percent"]),
            duration(row["train_seconds"]),
            memory(row["peak_memory_bytes"]),
            memory(row["model_size_bytes"]),
        ]

    def sentence(self) -> str:
        """What the table says, in one line of plain text."""
        way = "higher" if self.greater_is_better else "lower"
        best = self.best()
        if not best:
            return f"No run has a finite {self.metric} on {self.split}."
        row = next(row for row in self.rows if row["name"] == best[0])
        value = self.cells(row)[1]
        return f"Best {self.metric} on {self.split} ({way} is better): {' and '.join(best)}, {value}."

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "split": self.split,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "metrics": self.metrics,
            "best": self.best(),
            "runs": self.rows,
            "notes": self.notes,
            "samples": [dict(sample) for sample in self.samples],
        }

    def to_markdown(self) -> str:
        best = self.best()
        rows = []
        for row in self.rows:
            name, value, *rest = [markdown(cell) for cell in self.cells(row)]
            bold = row["name"] in best
            rows.append([name, f"**{value}**" if bold else value, *rest])
        parts = [
            f"# {markdown(self.title)}",
            markdown(self.sentence()),
            markdown_table([markdown(cell) for cell in self.header()], rows),
            "![Learning curves, and quality against cost](compare.png)",
            *(f"> **Note:** {markdown(note)}" for note in self.notes),
            *(["## Samples"] if self.samples else []),
            *(fenced(sample_text(sample)) for sample in self.samples),
        ]
        return "\n\n".join(parts) + "\n"

    def _repr_html_(self) -> str:
        return as_page(self)

    def print(self, console: Console | None = None) -> None:
        """The table (two, where one is too wide), what it says, notes and samples, on a terminal."""
        show(self, console)


def compare(
    run_dirs: Mapping[str, Folder] | Sequence[Folder],
    output_dir: Folder = "comparison",
    title: str = "Comparison",
    samples: Sequence[Sample] | None = None,
) -> Comparison:
    """Read finished runs and write `compare.md`, `compare.json` and `compare.png` into `output_dir`.

    `run_dirs` maps the names to show to run folders; of a plain list the folders give the names. `samples` are
    `{prompt, reference, outputs: {run name: text}}`. Raises DataError when a folder is incomplete or no metric is
    common to all runs.
    """
    runs = read_all(named(run_dirs))
    split = common_split(runs)
    metrics, greater = common_metrics(runs, split)
    comparison = Comparison(
        title=title,
        split=split,
        metric=metrics[0],
        greater_is_better=greater,
        metrics=metrics,
        rows=[row_of(name, run, split, metrics) for name, run in runs.items()],
        notes=[*differences(runs, split), *unscored(runs, split, metrics[0])],
        samples=list(samples or []),
    )
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    (output / "compare.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    (output / "compare.md").write_text(comparison.to_markdown(), encoding="utf-8")
    draw(output / "compare.png", runs, comparison)
    return comparison


def named(run_dirs: Mapping[str, Folder] | Sequence[Folder]) -> dict[str, Path]:
    """Run folders by the name to show; folders of one name get their parent's before it."""
    if isinstance(run_dirs, Mapping):
        folders = {name: Path(folder) for name, folder in run_dirs.items()}
    else:
        paths = [Path(folder).resolve() for folder in run_dirs]
        times = Counter(path.name for path in paths)
        names = [path.name if times[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]
        twice = sorted(name for name, number_of in Counter(names).items() if number_of > 1)
        if twice:
            raise DataError(f"compare: {', '.join(twice)} was given more than once; give each run a name of its own")
        folders = dict(zip(names, paths, strict=True))
    if not folders:
        raise DataError("compare: no run folder was given")
    return folders


def read_all(folders: Mapping[str, Path]) -> dict[str, Run]:
    runs: dict[str, Run] = {}
    problems: list[str] = []
    for name, folder in folders.items():
        try:
            runs[name] = read_run(folder)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return runs


def common_split(runs: Mapping[str, Run]) -> str:
    """The split to compare on: `test` when every run has scores on it, else `validation`."""
    for split in ("test", "validation"):
        if all(run.scores(split) for run in runs.values()):
            return split
    missing = [name for name, run in runs.items() if not run.scores("validation")]
    raise DataError(f"compare: no scores on validation in {', '.join(missing)}; every run needs a validation set")


def common_metrics(runs: Mapping[str, Run], split: str) -> tuple[list[str], bool]:
    """The metrics all runs have, the one to judge by first, and whether greater is better for that one."""
    first = next(iter(runs.values()))
    common = [name for name in first.scores(split) if all(name in run.scores(split) for run in runs.values())]
    main = first.results["main_metric"]
    # Per byte stays comparable when tokenizers differ, and orders models of one tokenizer just as the loss does.
    chosen = "bits_per_byte" if main == "loss" and "bits_per_byte" in common else main
    if chosen not in common:
        having = {name: ", ".join(run.scores(split)) for name, run in runs.items()}
        raise DataError([f"compare: {name} has {has}, and not {chosen}" for name, has in having.items()])
    rest = [name for name in common if name not in (chosen, "loss")]
    return [chosen, *rest, *(["loss"] if "loss" in common and chosen != "loss" else [])], first.greater_is_better


def row_of(name: str, run: Run, split: str, metrics: Sequence[str]) -> Row:
    scores, parameters = run.scores(split), run.results["parameters"]
    costs = ("train_seconds", "evaluation_seconds", "samples_per_second", "tokens_per_second")
    return {
        "name": name,
        "task": run.results["task"],
        "start": run.results.get("start"),
        "strategies": run.results.get("strategies") or [],
        "steps": run.results["steps"],
        "metrics": {metric: scores[metric] for metric in metrics},
        "parameters_total": parameters.get("total"),
        "parameters_trainable": parameters.get("trainable"),
        "trainable_percent": parameters.get("trainable_percent"),
        **{cost: run.cost(cost) for cost in costs},
        "peak_memory_bytes": run.cost("peak_memory_bytes"),
        "model_size_bytes": run.cost("model_size_bytes"),
    }


def differences(runs: Mapping[str, Run], split: str) -> list[str]:
    """What makes the runs less comparable than a table looks."""

    def groups(key: Any) -> list[str]:
        found: dict[str, list[str]] = {}
        for name, run in runs.items():
            value = key(run)
            if value is not None:
                found.setdefault(json.dumps(value, sort_keys=True, default=str), []).append(name)
        return [", ".join(names) for names in found.values()] if len(found) > 1 else []

    def fingerprint(run: Run) -> Any:
        return ((run.manifest.get("data") or {}).get(split) or {}).get("fingerprint")

    checks = [
        (lambda run: run.results["task"], "The tasks differ"),
        (fingerprint, f"The {split} rows differ, so the scores are not of the same thing"),
        (
            lambda run: [run.manifest.get(name) for name in ("cpu", "device", "world_size")],
            "Machines or numbers of processes differ, so times and memory do not compare",
        ),
    ]
    return [f"{says}: {' | '.join(groups(key))}." for key, says in checks if groups(key)]


def unscored(runs: Mapping[str, Run], split: str, metric: str) -> list[str]:
    names = [name for name, run in runs.items() if run.scores(split)[metric] is None]
    return [f"No finite {metric} in {', '.join(names)}: left out of the figure."] if names else []
