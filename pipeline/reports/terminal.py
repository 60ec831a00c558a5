"""A comparison on a terminal and in a notebook: numbers never wrap, names and headers do; a wide table becomes two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.safe_text import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NAME_WIDTH = 24
"""A table gives the names this much before it is split in two."""
SHORTEST_NAME = 8


class Shown(Protocol):
    """What the terminal needs of a comparison."""

    @property
    def title(self) -> str: ...
    @property
    def metrics(self) -> list[str]: ...
    @property
    def rows(self) -> list[dict[str, Any]]: ...
    @property
    def notes(self) -> list[str]: ...
    @property
    def samples(self) -> list[Mapping[str, Any]]: ...
    def header(self) -> list[str]: ...
    def cells(self, row: dict[str, Any]) -> list[str]: ...
    def best(self) -> list[str]: ...
    def sentence(self) -> str: ...


def show(comparison: Shown, console: Console | None = None) -> None:
    """Print the tables, what they say, notes and samples."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    console.print(Text("\n" + clean(comparison.title), style="bold"))
    header = [clean(name).replace("_", " ") for name in comparison.header()]
    rows = [[clean(cell) for cell in comparison.cells(row)] for row in comparison.rows]
    best = [row["name"] in comparison.best() for row in comparison.rows]
    everything, scores = list(range(len(header))), 1 + len(comparison.metrics)
    longest = max(len(row[0]) for row in rows)
    fits = widths(header, rows, everything, console.width)[0] >= min(longest, NAME_WIDTH)
    for columns in [everything] if fits else [everything[:scores], [0, *everything[scores:]]]:
        console.print(table(header, rows, best, columns, console.width))
    console.print(Text(clean(comparison.sentence()), style="bold"))
    for note in comparison.notes:
        console.print(Text(clean(f"Note: {note}"), style="yellow"))
    for sample in comparison.samples:
        console.print(Text("\n" + clean(sample_text(sample), keep_lines=True)))


def as_page(comparison: Shown) -> str:
    """The same for a notebook: title, table, what it says, notes."""
    header = "".join(f"<th>{escape(clean(name).replace('_', ' '))}</th>" for name in comparison.header())
    rows = []
    for row in comparison.rows:
        name, value, *rest = (escape(clean(cell)) for cell in comparison.cells(row))
        value = f"<b>{value}</b>" if row["name"] in comparison.best() else value
        rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in (value, *rest))}</tr>")
    said = [comparison.sentence(), *(f"Note: {note}" for note in comparison.notes)]
    return (
        f"<b>{escape(clean(comparison.title))}</b><table><tr>{header}</tr>{''.join(rows)}</table>"
        f"{'<br>'.join(escape(clean(line)) for line in said)}"
    )


def widths(header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int], room: int) -> list[int]:
    """Width of each column: headers on one line where that leaves names enough, else wrapped; names get the rest."""
    longest = max(len(row[0]) for row in (header, *rows))
    numbers = [max(len(row[index]) for row in rows) for index in columns[1:]]
    flat = [max(number, len(header[index])) for number, index in zip(numbers, columns[1:], strict=True)]
    wrapped = [
        max(number, *map(len, header[index].split())) for number, index in zip(numbers, columns[1:], strict=True)
    ]
    left = room - 3 * len(columns)
    chosen = flat if left - sum(flat) >= min(longest, NAME_WIDTH) else wrapped
    return [min(longest, left - sum(chosen)), *chosen]


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[bool], columns: Sequence[int], room: int
) -> Table:
    """The given columns as a rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, width in zip(columns, widths(header, rows, columns, room), strict=True):
        justify: Any = "right" if index else "left"
        result.add_column(Text(header[index]), justify=justify, width=max(width, SHORTEST_NAME if index == 0 else 1))
        result.columns[-1].overflow = "fold"
    for row, top in zip(rows, best, strict=True):
        cells = [Text(cell.replace(" ", "\u00a0") if at else cell) for at, cell in enumerate(row)]
        if top:
            cells[1].stylize("bold green")
        result.add_row(*[cells[index] for index in columns])
    return result


def sample_text(sample: Mapping[str, Any]) -> str:
    """One sample as aligned lines: prompt, reference, then what each run made of it."""
    entries = {"prompt": sample.get("prompt"), "reference": sample.get("reference"), **(sample.get("outputs") or {})}
    entries = {clean(str(name)): str(text) for name, text in entries.items() if text is not None}
    width = max(map(len, entries), default=0)
    indent = "\n" + " " * (width + 2)
    return "\n".join(f"{name:<{width}}  {text.strip().replace(chr(10), indent)}" for name, text in entries.items())
