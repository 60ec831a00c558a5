"""The figure of a comparison: learning curves, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.reports.curves import limits, smooth
from pipeline.reports.read import Points, Run
from pipeline.reports.style import INK, SOFT, figure, label_ends, label_points, look, shorten
from pipeline.reports.text import count, duration, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes


UNITS_OF_TIME = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")]


class Table(Protocol):
    """What the figure needs of a comparison."""

    @property
    def title(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def metric(self) -> str: ...
    @property
    def greater_is_better(self) -> bool: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...


def draw(path: Path, runs: Mapping[str, Run], table: Table) -> None:
    """Left: the metric on validation over steps. Right: its final value over what was trained, or over time."""
    way = "higher" if table.greater_is_better else "lower"
    subtitle = f"{words(table.metric)} on {table.split}, {way} is better"
    looks = {name: look(index) for index, name in enumerate(trained(runs))}
    what, curves = learning_curves(runs, table.metric)
    with figure(path, width=12.6, height=5.2, title=table.title, subtitle=subtitle) as drawing:
        # The names of the lines stand between the panels.
        gap = 0.075 + 0.0068 * max((len(shorten(name)) for name in runs), default=0)
        width = 0.48 - gap / 2
        if curves:
            left = drawing.add_axes((0.052, 0.115, width - 0.03, 0.66))
            draw_learning(left, what, curves, looks, runs, table)
        right = drawing.add_axes(
            (width + gap + 0.022, 0.115, width - 0.012, 0.66) if curves else (0.052, 0.115, 0.93, 0.66)
        )
        draw_cost(right, looks, runs, table)


def words(metric: str) -> str:
    return metric.replace("_", " ")


def trained(runs: Mapping[str, Run]) -> list[str]:
    return [name for name, run in runs.items() if not run.untouched]


def learning_curves(runs: Mapping[str, Run], metric: str) -> tuple[str, dict[str, Points]]:
    """What to draw over steps: the metric where every trained run was scored twice or more, else its training loss."""
    scored = {name: runs[name].series("evaluate", metric) for name in trained(runs)}
    if scored and all(len(steps) > 1 for steps, _ in scored.values()):
        return f"{words(metric)} on validation", scored
    losses = {name: runs[name].series("train", "loss") for name in trained(runs)}
    smoothed = {name: (steps, smooth(values)) for name, (steps, values) in losses.items() if steps}
    return "training loss, smoothed", smoothed


def draw_learning(
    axes: Axes, what: str, curves: dict[str, Points], looks: Mapping[str, Any], runs: Mapping[str, Run], table: Table
) -> None:
    axes.set_title(f"Learning: {what}")
    axes.set_xlabel("optimizer steps")
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, **looks[name] | ({"markersize": 4} if len(steps) <= 25 else {"marker": ""}))
    zero = {} if what.startswith("training") else untouched(runs, "validation", table.metric)
    for value in zero.values():
        axes.axhline(value, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.4)
    every = [value for _, values in curves.values() for value in values]
    settled = [value for _, values in curves.values() for value in values[len(values) // 2 :]]
    sign = -1 if table.greater_is_better and not what.startswith("training") else 1
    ends = limits([sign * v for v in (*every, *zero.values())], [sign * v for v in (*settled, *zero.values())])
    axes.set_ylim(*sorted(sign * end for end in ends))
    axes.set_xlim(0, 1.02 * max(steps[-1] for steps, _ in curves.values()))
    labels = [(steps[-1], values[-1], shorten(name), looks[name]["color"]) for name, (steps, values) in curves.items()]
    labels += [(axes.get_xlim()[1], value, shorten(name), SOFT) for name, value in zero.items()]
    label_ends(axes, labels)


def untouched(runs: Mapping[str, Run], split: str, metric: str) -> dict[str, float]:
    """The score of each run without a step: the level training starts from."""
    found = {name: run.scores(split).get(metric) for name, run in runs.items() if run.untouched}
    return {name: value for name, value in found.items() if value is not None}


def draw_cost(axes: Axes, looks: Mapping[str, Any], runs: Mapping[str, Run], table: Table) -> None:
    """Final quality of each trained run over its cost, and a dashed line for each run that was not trained."""
    rows = [row for row in table.rows if row["name"] in looks and row["metrics"][table.metric] is not None]
    zero = untouched(runs, table.split, table.metric)
    by_parameters, values = cost_axis(rows), [row["metrics"][table.metric] for row in rows]
    axes.set_title(f"Quality against {'what was trained' if by_parameters else 'training time'}")
    low, high = min([*values, *zero.values()], default=0), max([*values, *zero.values()], default=1)
    # A difference of less than a hundredth of the value should not look like one.
    margin = max(0.16 * (high - low), 0.008 * max(abs(low), abs(high))) or 0.5
    axes.set_ylim(low - margin, high + margin)
    costs = [float(row["parameters_trainable" if by_parameters else "train_seconds"] or 0) for row in rows]
    seconds, unit = unit_of_time(max(costs, default=0))
    if not by_parameters:
        costs = [cost / seconds for cost in costs]
    axes.set_xlabel("trainable parameters (log scale)" if by_parameters else f"training time ({unit})")
    scale(axes, costs, logarithmic=by_parameters)
    for row, cost, value in zip(rows, costs, values, strict=True):
        axes.plot([cost], [value], **looks[row["name"]] | {"linestyle": ""}, markersize=10)
    taken: list[Any] = []
    for name, value in zero.items():
        line = axes.axhline(value, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.4)
        text = f"{shorten(name)}, not trained: {number(value, values)}"
        place = {"xytext": (-2, 4), "textcoords": "offset points", "xycoords": ("axes fraction", "data")}
        said = axes.annotate(text, (1, value), ha="right", color=INK, fontsize=9.5, **place)  # type: ignore[arg-type]
        taken += [line.get_window_extent().padded(3), said.get_window_extent()]
    roomy = len(rows) <= 5
    points = [
        (
            cost,
            value,
            shorten(row["name"]) + (f" {number(value, values)}" if roomy else ""),
            detail(row) if roomy else "",
            looks[row["name"]]["color"],
        )
        for row, cost, value in zip(rows, costs, values, strict=True)
    ]
    label_points(axes, points, taken)


def cost_axis(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether trainable parameters tell the runs apart; where all train the same ones, time does."""
    sizes = {row["parameters_trainable"] for row in rows}
    times = {row["train_seconds"] for row in rows} - {None}
    return None not in sizes and 0 not in sizes and (len(sizes) > 1 or len(times) < 2)


def scale(axes: Axes, costs: Sequence[float], *, logarithmic: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if not costs:
        return
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 2.2, max(costs) * 2.2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    else:
        axes.set_xlim(0, 1.25 * max(costs) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(6))


def unit_of_time(seconds: float) -> tuple[float, str]:
    """The unit a time axis that long is read in, in seconds, and its name."""
    return next((size, name) for size, name in UNITS_OF_TIME if seconds >= 2 * size or size == 1)


def detail(row: Mapping[str, Any]) -> str:
    parts = [
        f"{count(row['parameters_trainable'])} ({percent(row['trainable_percent'])})",
        duration(row["train_seconds"]),
    ]
    return " · ".join(parts)
