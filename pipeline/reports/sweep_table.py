"""What a sweep found: one row per setting over its seeds, the best one chosen on validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from pipeline.reports.compare import common_metrics, read_all
from pipeline.reports.read import Run
from pipeline.reports.terminal import as_page, show
from pipeline.reports.text import MISSING, count, duration, markdown, markdown_table, number

if TYPE_CHECKING:
    from rich.console import Console

CHOSEN_ON = "validation"
SPREAD = "spread"
Row = dict[str, Any]


@dataclass(frozen=True)
class SweepTable:
    """Settings side by side; shown as a comparison of runs is."""

    title: str
    metric: str
    greater_is_better: bool
    metrics: list[str]
    """Columns of numbers: the metric's mean on validation, its spread, and its mean on test where all runs have one."""
    rows: list[Row]
    runs: list[Row]
    notes: list[str] = field(default_factory=list)
    samples: list[Mapping[str, Any]] = field(default_factory=list)

    def best(self) -> list[str]:
        """Names of the settings with the best mean on validation (several on a tie)."""
        means = [row["metrics"][self.metric] for row in self.rows if row["metrics"][self.metric] is not None]
        top = (max if self.greater_is_better else min)(means, default=None)
        return [row["name"] for row in self.rows if top is not None and row["metrics"][self.metric] == top]

    def best_run(self) -> Row | None:
        """The best single run of the best setting."""
        names = [run for row in self.rows if row["name"] in self.best() for run in row["runs"]]
        known = [run for run in self.runs if run["name"] in names and run["value"] is not None]
        return (max if self.greater_is_better else min)(known, key=lambda run: run["value"], default=None)

    def header(self) -> list[str]:
        arrow = "↑" if self.greater_is_better else "↓"
        return ["setting", f"{self.metric} {arrow}", *self.metrics[1:], "runs", "trained", "training time"]

    def cells(self, row: Row) -> list[str]:
        scores = []
        for name in self.metrics:
            like = [one["metrics"][metric] for one in self.rows for metric in self.metrics if metric != SPREAD]
            scores.append(number(row["metrics"][name], like))
        return [row["name"], *scores, str(row["count"]), count(row["trainable"]), duration(row["train_seconds"])]

    def sentence(self) -> str:
        """What the table says, in one line of plain text."""
        best = self.best()
        if not best:
            return f"No run has a finite {self.metric} on {CHOSEN_ON}."
        row = next(row for row in self.rows if row["name"] == best[0])
        cells, way = self.cells(row), "higher" if self.greater_is_better else "lower"
        spread = f" ± {cells[2]} (mean and standard deviation of {row['count']} runs)" if cells[2] != MISSING else ""
        return f"Best {self.metric}, chosen on {CHOSEN_ON} ({way} is better): {' and '.join(best)}, {cells[1]}{spread}."

    def _repr_html_(self) -> str:
        return as_page(self)

    def print(self, console: Console | None = None) -> None:
        """The table, what it says and notes, on a terminal."""
        show(self, console)

    def to_dict(self) -> dict[str, Any]:
        run = self.best_run()
        return {
            "title": self.title,
            "metric": self.metric,
            "chosen_on": CHOSEN_ON,
            "greater_is_better": self.greater_is_better,
            "best": self.best(),
            "best_run": run["folder"] if run else None,
            "settings": self.rows,
            "runs": self.runs,
            "notes": self.notes,
        }

    def to_markdown(self) -> str:
        best, rows = self.best(), []
        for row in self.rows:
            name, value, *rest = [markdown(cell) for cell in self.cells(row)]
            rows.append([name, f"**{value}**" if row["name"] in best else value, *rest])
        values = [run["value"] for run in self.runs]
        runs = [
            [markdown(run["name"]), markdown(run["status"]), number(run["value"], values), duration(run["seconds"])]
            for run in self.runs
        ]
        parts = [
            f"# {markdown(self.title)}",
            markdown(self.sentence()),
            markdown_table([markdown(cell) for cell in self.header()], rows),
            *(f"> **Note:** {markdown(note)}" for note in self.notes),
            "## Runs",
            markdown_table(["run", "status", f"{markdown(self.metric)} on {CHOSEN_ON}", "time"], runs, left=2),
        ]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> None:
        """`sweep.md` and `sweep.json` in the folder."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "sweep.json").write_text(text + "\n", encoding="utf-8", errors="replace")
        (folder / "sweep.md").write_text(self.to_markdown(), encoding="utf-8")


def tabulate(title: str, runs: Sequence[Mapping[str, Any]]) -> SweepTable:
    """The table of a sweep. `runs`: `name`, `folder`, `varied` (setting -> value), `status`, `again` (its command).

    Raises DataError when a finished run's folder is incomplete or the runs share no metric.
    """
    finished = read_all({run["name"]: Path(run["folder"]) for run in runs if run["status"] == "finished"})
    metrics, greater = common_metrics(finished, CHOSEN_ON)
    metric = metrics[0]
    tested = all(metric in run.scores("test") for run in finished.values())
    columns = [metric, SPREAD, *([f"{metric} on test"] if tested else [])]
    listed = [_run(run, finished.get(run["name"]), metric) for run in runs]
    groups: dict[str, list[Row]] = {}
    for run in listed:
        groups.setdefault(", ".join(f"{name} {value}" for name, value in run["settings"].items()) or "all", []).append(
            run
        )
    rows = [_row(name, group, finished, metric, columns) for name, group in groups.items()]
    rows = [row for row in rows if row["count"]]
    return SweepTable(title, metric, greater, columns, rows, listed, _notes(groups, rows, metric, greater))


def _run(run: Mapping[str, Any], read: Run | None, metric: str) -> Row:
    return {
        "name": run["name"],
        "folder": str(run["folder"]),
        "settings": run["varied"],
        "status": run["status"],
        "again": run["again"],
        "value": read.scores(CHOSEN_ON)[metric] if read else None,
        "seconds": read.cost("train_seconds") if read else None,
    }


def _row(name: str, group: Sequence[Row], finished: Mapping[str, Run], metric: str, columns: Sequence[str]) -> Row:
    """One setting: mean and sample standard deviation over its finished runs, and what they cost together."""
    read = [finished[run["name"]] for run in group if run["name"] in finished]
    known = [value for run in read if (value := run.scores(CHOSEN_ON)[metric]) is not None]
    complete = len(known) == len(read) and bool(known)
    numbers: dict[str, float | None] = {metric: fmean(known) if complete else None}
    numbers[SPREAD] = stdev(known) if complete and len(known) > 1 else None
    if len(columns) > 2:
        tests = [value for run in read if (value := run.scores("test")[metric]) is not None]
        numbers[columns[2]] = fmean(tests) if tests and len(tests) == len(read) else None
    seconds = [value for run in read if (value := run.cost("train_seconds")) is not None]
    return {
        "name": name,
        "settings": group[0]["settings"],
        "runs": [run["name"] for run in group],
        "count": len(read),
        "metrics": numbers,
        "trainable": read[0].results["parameters"].get("trainable") if read else None,
        "train_seconds": sum(seconds) if seconds else None,
    }


def _notes(groups: Mapping[str, Sequence[Row]], rows: Sequence[Row], metric: str, greater: bool) -> list[str]:
    """What was not run to its end, and which settings the seeds do not tell from the best."""
    found = []
    for name, group in groups.items():
        left = [f"{run['name']} ({run['status']})" for run in group if run["status"] != "finished"]
        if left:
            found.append(f"{name}: without {', '.join(left)}.")
    known = [row for row in rows if row["metrics"][metric] is not None]
    if len(known) > 1:
        best = (max if greater else min)(known, key=lambda row: row["metrics"][metric])
        spread = best["metrics"][SPREAD]
        near = [
            row["name"]
            for row in known
            if spread is not None
            and abs(row["metrics"][metric] - best["metrics"][metric]) <= spread
            and row["metrics"][metric] != best["metrics"][metric]
        ]
        if near:
            found.append(f"Within one standard deviation of the best, so not told apart: {'; '.join(near)}.")
        elif spread is None:
            found.append("One run per setting: what another seed would change is not known; --seed 0,1,2 tells.")
    return found
