"""The curves of one run: `curves.png` from its `metrics.jsonl`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.reports.read import Points, Run, finite, read_run
from pipeline.reports.style import COLOURS, SOFT, figure
from pipeline.reports.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING, VALIDATION = SOFT, COLOURS[0]


def draw_curves(run_dir: str | Path) -> Path | None:
    """Loss (training and validation) and the validation main metric over steps; returns the path of `curves.png`.

    None, and no file, for a run too short to have logged or evaluated anything. Raises DataError when the folder is
    incomplete.
    """
    run = read_run(run_dir)
    metric = run.results["main_metric"]
    training, loss = run.series("train", "loss"), run.series("evaluate", "loss")
    panels = [(training, loss, "loss")] if training[0] or loss[0] else []
    if metric != "loss" and run.series("evaluate", metric)[0]:
        panels.append((([], []), run.series("evaluate", metric), metric))
    if not panels:
        return None
    path = run.folder / "curves.png"
    width = 6.2 * len(panels)
    with figure(path, width=width, height=4.4, title=title(run), subtitle=subtitle(run)) as drawing:
        for index, (raw, evaluated, name) in enumerate(panels):
            axes = drawing.add_axes((0.6 / width + index / len(panels), 0.13, 1 / len(panels) - 0.8 / width, 0.62))
            draw_panel(axes, raw, evaluated, name, run)
    return path


def title(run: Run) -> str:
    return f"{run.folder.resolve().name}: {run.results['task']}"


def subtitle(run: Run) -> str:
    results = run.results
    if run.untouched:
        return "the model as it was, not trained"
    how = " + ".join(results.get("strategies") or []) or "all weights"
    start = "from random weights" if results.get("start") == "random" else "from a checkpoint"
    return f"{how} {start}, {results['steps']:,} step{'' if results['steps'] == 1 else 's'}"


def draw_panel(axes: Axes, training: Points, evaluated: Points, name: str, run: Run) -> None:
    from matplotlib.ticker import MaxNLocator

    greater = run.greater_is_better and name == run.results["main_metric"]
    axes.set_title(f"{name.replace('_', ' ')} ({'higher' if greater else 'lower'} is better)")
    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if training[0]:
        draw_training(axes, training, not_finite(run) if name == "loss" else [])
    if evaluated[0]:
        marker = {"marker": "o", "markersize": 5} if len(evaluated[0]) <= 40 else {}
        axes.plot(*evaluated, color=VALIDATION, label="validation", **marker)  # type: ignore[arg-type]
        mark_best(axes, evaluated, name, run)
    if training[0] and evaluated[0]:
        axes.legend(frameon=False, labelcolor="linecolor", loc="best", handlelength=1.4)
    low, high = limits([*smooth(training[1]), *evaluated[1]], evaluated[1] or training[1])
    low, high = (min(low, *middle(training[1])), max(high, *middle(training[1]))) if training[1] else (low, high)
    axes.set_ylim(low, high)
    axes.margins(x=0.03)
    if len({*training[0], *evaluated[0]}) == 1:
        axes.set_xticks([*training[0], *evaluated[0]][:1])
    axes.set_autoscaley_on(False)


def draw_training(axes: Axes, training: Points, gaps: list[float]) -> None:
    """What was logged, thin, and its smoothed course; a step whose loss was not finite is a gap with a mark below."""
    steps, values = training
    alone: dict[str, Any] = {"marker": "o", "markersize": 5} if len(steps) == 1 else {}
    axes.plot(*with_gaps(steps, values, gaps), color=TRAINING, alpha=0.3, linewidth=1)
    label = "training" if alone else "training (smoothed)"
    axes.plot(*with_gaps(steps, smooth(values), gaps), color=TRAINING, label=label, **alone)
    if gaps:
        mark = {"marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": "none", "clip_on": False}
        at = axes.get_xaxis_transform()
        axes.plot(gaps, [0.0] * len(gaps), color=COLOURS[1], transform=at, label="loss not finite, skipped", **mark)  # type: ignore[arg-type]


def not_finite(run: Run) -> list[float]:
    """Steps at which a loss is on record that is no finite number."""
    found = {
        row["step"] for row in run.events if row["event"] in ("train", "skipped") and finite(row.get("loss")) is None
    }
    return sorted(found - set(run.series("train", "loss")[0]))


def with_gaps(steps: list[float], values: list[float], gaps: list[float]) -> Points:
    """The points, with a NaN at each gap, where a line breaks."""
    points = sorted([*zip(steps, values, strict=True), *((step, math.nan) for step in gaps)])
    return [step for step, _ in points], [value for _, value in points]


def middle(values: list[float]) -> tuple[float, float]:
    """The range of all values but the lowest and the highest 3 %, and the first tenth, where losses are high."""
    settled = sorted(values[len(values) // 10 :])
    cut = len(settled) * 3 // 100
    return settled[cut], settled[-1 - cut]


def mark_best(axes: Axes, evaluated: Points, name: str, run: Run) -> None:
    """The point whose weights were kept, with its value, on the panel of the main metric."""
    steps, values = evaluated
    best = run.results.get("best_step")
    if name != run.results["main_metric"] or best not in steps:
        return
    value = values[steps.index(best)]
    axes.plot([best], [value], marker="o", markersize=11, fillstyle="none", color=VALIDATION, markeredgewidth=1.8)
    text = f"best {number(value)} at step {best:,}"
    axes.annotate(text, (1, 1), (0, 10), "axes fraction", "offset points", color=VALIDATION, ha="right", va="baseline")


def smooth(values: list[float], most: int = 12) -> list[float]:
    """Mean of each value and as many before as after it, at most `most` on a side; a straight line at the ends.

    That is the filter of Savitzky and Golay (1964) of degree 1. One that looked back only would lie above a falling
    curve, and a training loss would seem to be higher than the validation loss where it is not.
    """
    from scipy.signal import savgol_filter  # only a run that draws pays for the import

    reach = min(most, len(values) // 10)
    return [float(value) for value in savgol_filter(values, 2 * reach + 1, 1)] if reach else values


def limits(values: list[float], focus: list[float]) -> tuple[float, float]:
    """A range for the y axis: all values, unless a few high first ones would flatten the rest."""
    low, high = min(values), max(values)
    settled = sorted(focus)[: max(1, (9 * len(focus) + 9) // 10)]
    reach = max(settled) + 2 * max(max(settled) - min(values), 1e-3 * abs(low))
    if high - low > 1.6 * (reach - low):
        high = reach
    # Changes far below a hundredth of the value are no curve.
    margin = max(0.06 * (high - low), 0.01 * max(abs(low), abs(high))) or 0.5
    return low - margin, high + margin
