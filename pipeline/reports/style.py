"""How our figures look: colours, type, and labels that stand beside what they name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.safe_text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart with the common colour vision deficiencies; without yellow, too pale for lines.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHES = ["-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1))]
MARKERS = ["o", "s", "D", "^"]
# Alignment of a label against its point: right of it, left, above, below, and the corners.
PLACES = [(0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1), (0, 0), (0, 1), (1, 0), (1, 1)]
INK, SOFT, GRID = "#1f2328", "#6b7280", "#e5e7eb"

SETTINGS = {
    "font.size": 10.5,
    "text.color": INK,
    # A `$` in a run's name is a `$`.
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "graft",
}


@contextmanager
def figure(path: Path, *, width: float, height: float, title: str, subtitle: str) -> Iterator[Figure]:
    """A figure to fill, saved as PNG at the end; needs no display and leaves matplotlib's own settings alone."""
    # matplotlib takes a good part of a second; only a run that draws pays for it.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):  # type: ignore[arg-type]
        drawing = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(drawing)
        drawing.text(0.012, 1 - 0.16 / height, clean(title), fontsize=15, fontweight="bold", va="top")
        drawing.text(0.012, 1 - 0.50 / height, clean(subtitle), fontsize=10.5, color=SOFT, va="top")
        yield drawing
        # No date or version inside: the same run gives the same file.
        drawing.savefig(path, metadata={"Software": None})


def look(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the run at `index`: the first 28 all differ."""
    return {
        "marker": MARKERS[index // len(COLOURS) % len(MARKERS)],
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
    }


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved apart to at least `gap`, as little as needed, in order and within (low, high) where they fit."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = [positions[index] for index in order]
    for _ in range(200):
        for lower in range(len(placed) - 1):
            lack = gap - (placed[lower + 1] - placed[lower])
            if lack > 0:
                placed[lower] -= lack / 2
                placed[lower + 1] += lack / 2
        placed = [
            min(max(place, low + rank * gap), high - (len(placed) - 1 - rank) * gap)
            for rank, place in enumerate(placed)
        ]
    result = [0.0] * len(placed)
    for rank, index in enumerate(order):
        result[index] = placed[rank]
    return result


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the ends of lines, right of the axes: (x, y, text, colour), pushed apart where they would touch."""
    bottom, top = axes.get_ylim()
    figure_of = axes.get_figure()
    assert figure_of is not None
    height = axes.get_position().height * figure_of.get_figure(root=True).get_figheight()
    at = [(y - bottom) / (top - bottom) for _, y, _, _ in ends]
    for (x, y, text, colour), start, place in zip(ends, at, spread(at, 0.19 / height, 0.0, 1.0), strict=True):
        axes.annotate(
            clean(text),
            xy=(x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            color=colour,
            fontweight="bold",
            va="center",
            fontsize=10,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "alpha": 0.35,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            }
            if abs(place - start) > 0.01 or x < axes.get_xlim()[1]
            else None,
        )


def label_points(axes: Axes, points: Sequence[tuple[float, float, str, str, str]], avoid: Sequence[Any]) -> None:
    """A name and a grey detail beside each point (x, y, name, detail, colour), where it covers least.

    `avoid` are boxes in pixels that the labels keep off, besides the points and each other.
    """
    from matplotlib.transforms import Bbox

    frame = axes.get_window_extent()
    pixels = [axes.transData.transform((x, y)) for x, y, *_ in points]
    fixed = [*avoid, *(Bbox.from_bounds(x - 11, y - 11, 22, 22) for x, y in pixels)]
    boxes = [[label_at(axes, *point, across, up) for across, up in PLACES] for point in points]
    extents = [[box.get_window_extent() for box in choices] for choices in boxes]

    def cost(point: int, place: int) -> float:
        extent = extents[point][place]
        others = [extents[other][chosen[other]] for other in range(len(points)) if other != point]
        outside = extent.width * extent.height - area(frame, extent)
        return 4 * outside + sum(area(box, extent) for box in (*fixed, *others)) + place

    chosen = [0] * len(points)
    for _ in range(6):
        for point in range(len(points)):
            chosen[point] = min(range(len(PLACES)), key=lambda place: cost(point, place))  # noqa: B023
    for choices, kept in zip(boxes, chosen, strict=True):
        for place, box in enumerate(choices):
            if place != kept:
                box.remove()


def label_at(axes: Axes, x: float, y: float, name: str, detail: str, colour: str, across: float, up: float) -> Any:
    """A label added to the axes, aligned to (x, y) by the share of its width and height that lies before it."""
    from matplotlib.offsetbox import AnnotationBbox, TextArea, VPacker

    lines: list[Any] = [
        TextArea(clean(name), textprops={"color": colour, "fontweight": "bold", "fontsize": 10}),
        TextArea(clean(detail), textprops={"color": SOFT, "fontsize": 8.5}),
    ]
    align: Any = "left" if across == 0 else "right" if across == 1 else "center"
    box = AnnotationBbox(
        VPacker(children=lines if detail else lines[:1], align=align, pad=0, sep=2),
        (x, y),
        xybox=((1 - 2 * across) * 9, (1 - 2 * up) * 9),
        boxcoords="offset points",
        box_alignment=(across, up),
        frameon=False,
        pad=0,
        annotation_clip=False,
    )
    return axes.add_artist(box)


def area(one: Any, other: Any) -> float:
    """How much two boxes share, in square pixels."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(0.0, width) * max(0.0, height)


def shorten(text: str, longest: int = 22) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
