"""How reports write numbers and other people's text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pipeline.safe_text import clean

MISSING = "–"


def number(value: float | None, column: Sequence[float | None] = ()) -> str:
    """A metric value, with the decimals that give the smallest of its column four digits (at most 4 decimals)."""
    if value is None:
        return MISSING
    sizes = [abs(other) for other in (value, *column) if other]
    if not sizes:
        return "0"
    if max(sizes) < 1e-3:
        return f"{value:#.4g}"
    return f"{value:,.{min(4, max(0, 3 - math.floor(math.log10(min(sizes)))))}f}"


def count(value: float | None) -> str:
    """How many, to three digits: 812, 40.9k, 22.7M, 1.1B."""
    if value is None:
        return MISSING
    size, unit = float(value), ""
    for unit_above in ("k", "M", "B", "T"):
        if size < 999.5:
            break
        size, unit = size / 1000, unit_above
    return f"{size:.3g}{unit}"


def percent(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.3g} %" if value < 99.95 else "100 %"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return MISSING
    size, unit = float(value), "B"
    for unit_above in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1023.5:
            break
        size, unit = size / 1024, unit_above
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.1f} {unit}"


def markdown(text: str) -> str:
    """Text that Markdown and HTML show as it is, on one line (so also in a table cell); addresses are no links."""
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    escaped = re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:3]}&#46;", escaped.replace("://", "&#58;//"))
    escaped = re.sub(r"([\\`*_\[\]|~$!]|(?<!&)#)", r"\\\1", escaped)
    # at the beginning of a line or of a list's entry these would begin a list, or code
    return re.sub(r"^(\d*)([-+.)])(?!\d)", r"\1\\\2", escaped.lstrip())


def code(text: str) -> str:
    """Text as inline code, also in a table cell."""
    return f"<code>{markdown(text)}</code>"


def fenced(text: str, language: str = "text") -> str:
    """Text as a code block whose fence is longer than any in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean(text, keep_lines=True)}\n{fence}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table of cells that are Markdown already; the first `left` columns are text, the others numbers."""
    marks = [":--" if index < left else "--:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))
