"""The curves of one run: `curves.png` from its `metrics.jsonl`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reports.read import Points, Run, read_run
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
    return f"{how} {start}, {results['steps']:,} steps"


def draw_panel(axes: Axes, training: Points, evaluated: Points, name: str, run: Run) -> None:
    from matplotlib.ticker import MaxNLocator

    greater = run.greater_is_better and name == run.results["main_metric"]
    axes.set_title(f"{name.replace('_', ' ')} ({'higher' if greater else 'lower'} is better)")
    axes.set_xlabel("optimizer steps")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    if training[0]:
        axes.plot(*training, color=TRAINING, alpha=0.25, linewidth=1)
        alone = {"marker": "o", "markersize": 5} if len(training[0]) == 1 else {}
        label = "training" if alone else "training (smoothed)"
        axes.plot(training[0], smooth(training[1]), color=TRAINING, label=label, **alone)  # type: ignore[arg-type]
    if evaluated[0]:
        marker = {"marker": "o", "markersize": 5} if len(evaluated[0]) <= 40 else {}
        axes.plot(*evaluated, color=VALIDATION, label="validation", **marker)  # type: ignore[arg-type]
        mark_best(axes, evaluated, name, run)
    if training[0] and evaluated[0]:
        axes.legend(frameon=False, labelcolor="linecolor", loc="best", handlelength=1.4)
    low, high = limits([*smooth(training[1]), *evaluated[1]], evaluated[1] or training[1])
    axes.set_ylim(low, high)
    axes.margins(x=0.03)
    if len({*training[0], *evaluated[0]}) == 1:
        axes.set_xticks([*training[0], *evaluated[0]][:1])
    axes.set_autoscaley_on(False)


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


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start (Kingma and Ba 2015, section 3)."""
    result: list[float] = []
    mean, weight = 0.0, 0.0
    share = min(share, 1 - 1 / max(1.0, len(values) / 10))
    for value in values:
        mean, weight = share * mean + (1 - share) * value, share * weight + (1 - share)
        result.append(mean / weight)
    return result


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
