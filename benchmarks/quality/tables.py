"""The tables of README.md, from the result files."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.quality.experiments import EXPERIMENTS

HERE = Path(__file__).resolve().parent
RUNS, TRAINER = "## Runs", "## The same by Hugging Face's Trainer"
COMPARED = ("accuracy", "f1", "matthews_correlation", "pearson", "spearman")


def write_tables() -> None:
    """README.md: what stands above the tables is left as it is."""
    text = (HERE / "README.md").read_text()
    parts = [text[: text.index(RUNS)].rstrip(), TRAINER, trainer_table(), RUNS, runs_table()]
    if TRAINER in parts[0]:
        parts[0] = text[: text.index(TRAINER)].rstrip()
    (HERE / "README.md").write_text("\n\n".join(parts) + "\n")


def results(folder: Path) -> list[dict[str, Any]]:
    """All results of a folder, in the order of the experiments and then of the seeds."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda result: (list(EXPERIMENTS).index(result["name"]), result["seed"]))


def runs_table() -> str:
    rows = []
    for result in results(HERE / "results"):
        numbers = shown(result["metrics"]["validation"])
        if "test" in result["metrics"]:
            numbers += f"; test: {shown(result['metrics']['test'])}"
        share = f"{result['parameters']['trainable_percent']:.1f} %"
        seconds = f"{result['cost']['train_seconds']:.0f} s"
        device = "2 cores" if result["device"] == "cpu" else result["device"]
        row = [result["name"], result["seed"], share, result["steps"], device, seconds, numbers, result["reference"]]
        rows.append(row)
    return table(["run", "seed", "trained", "steps", "on", "time", "validation (and test)", "reference"], rows)


def trainer_table() -> str:
    """One row per experiment and metric that both have run."""
    ours, theirs = defaultdict(list), defaultdict(list)
    for result in results(HERE / "results"):
        ours[result["name"]].append(result["metrics"]["validation"])
    for result in results(HERE / "results" / "trainer"):
        theirs[result["name"]].append(result["metrics"])
    rows = [
        [name, metric, *(", ".join(f"{one[metric]:.3f}" for one in side[name]) for side in (ours, theirs))]
        for name in theirs
        for metric in COMPARED
        if metric in theirs[name][0]
    ]
    return table(["run", "metric", "graft, by seed", "Trainer, by seed"], rows)


def shown(metrics: dict[str, float]) -> str:
    """The numbers of a split; those of single types of entities are in the JSON."""
    whole = {key: value for key, value in metrics.items() if not key.startswith("support_")}
    types = {f"f1_{key.removeprefix('support_')}" for key in metrics if key.startswith("support_")}
    return ", ".join(f"{key} {value:.4g}" for key, value in whole.items() if key not in types)


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    write_tables()
