"""Read a run folder and say everything that is missing from it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

Events = list[dict[str, Any]]
Points = tuple[list[float], list[float]]

RESULTS = {"task": str, "steps": int, "parameters": dict, "metrics": dict, "main_metric": str}


@dataclass(frozen=True)
class Run:
    """What a run folder says; no live object is needed to report on it."""

    folder: Path
    results: Mapping[str, Any]
    manifest: Mapping[str, Any]
    events: Events

    @property
    def untouched(self) -> bool:
        """No step was taken: the scores are those of the model the other runs start from."""
        return self.results["steps"] == 0

    @property
    def greater_is_better(self) -> bool:
        return bool(self.results["greater_is_better"])

    def scores(self, split: str) -> dict[str, float | None]:
        """The metrics of a split by name; None where one is not a finite number."""
        return {
            name: finite(value)
            for name, value in self.results["metrics"].get(split, {}).items()
            if (value is None or isinstance(value, int | float)) and name not in ("num_samples", "step", "epoch")
        }

    def interval(self, split: str, name: str) -> tuple[float, float] | None:
        """The ends of a metric's 95 % interval, when the run made one."""
        ends = ((self.results.get("intervals") or {}).get(split) or {}).get(name)
        known = [finite(end) for end in ends] if isinstance(ends, list) else []
        return (known[0], known[1]) if len(known) == 2 and known[0] is not None and known[1] is not None else None

    def cost(self, name: str) -> float | None:
        return finite(self.manifest["cost"].get(name))

    def series(self, event: str, name: str, split: str = "validation") -> Points:
        """(steps, values) of a quantity; a step that was logged again after a resume counts once, the last time."""
        values: dict[float, float] = {}
        for row in self.events:
            value = finite(row.get(name))
            if row["event"] == event and row.get("split", split) == split and value is not None:
                values[row["step"]] = value
        steps = sorted(values)
        return steps, [values[step] for step in steps]


def finite(value: Any) -> float | None:
    """The number, or None for null, NaN, infinity and anything that is not a number."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def read_run(folder: str | Path) -> Run:
    """The run in a folder. Raises DataError with every file or key that is missing or unreadable."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such run folder")
    problems: list[str] = []

    def read(name: str, parse: Callable[[str, str], Any], empty: Any) -> Any:
        try:
            return parse((folder / name).read_text(encoding="utf-8"), f"{folder.name}/{name}")
        except FileNotFoundError:
            problems.append(f"{folder}: {name} is missing; is the run still going, or did it stop early?")
        except (ValueError, OSError) as error:
            problems.append(str(error))
        return empty

    results = read("results.json", parse_object, None)
    manifest = read("manifest.json", parse_object, None)
    events = read("metrics.jsonl", parse_lines, [])
    if results is not None:
        problems += lacking(f"{folder.name}/results.json", results)
    if manifest is not None and not isinstance(manifest.get("cost"), dict):
        problems.append(f"{folder.name}/manifest.json: expected an object under 'cost'")
    if problems:
        raise DataError(problems)
    return Run(folder, results, manifest, events)


def lacking(where: str, results: Mapping[str, Any]) -> list[str]:
    wrong = [
        f"{where}: expected {kind.__name__} under {name!r}, found {type(results.get(name)).__name__}"
        for name, kind in RESULTS.items()
        if not isinstance(results.get(name), kind)
    ]
    if not isinstance(results.get("greater_is_better"), bool):
        wrong.append(f"{where}: expected true or false under 'greater_is_better'")
    return wrong


def parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}:{error.lineno}: not JSON ({error.msg}); was the file cut off?") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object")
    return value


def parse_lines(text: str, where: str) -> Events:
    events = []
    for line_number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                event = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}:{line_number}: not JSON ({error.msg}); was the file cut off?") from error
            if not isinstance(event, dict) or "event" not in event or "step" not in event:
                raise ValueError(f"{where}:{line_number}: expected an object with 'event' and 'step'")
            events.append(event)
    return events
