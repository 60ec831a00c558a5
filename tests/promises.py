"""Figures for docs/reliability.md: what the tests of this very session have proved, counted by the tests themselves.

A test that counts one carries `@pytest.mark.promise(NUMBER, "what is counted")`; one that counts many calls
`record_property("promise", (NUMBER, "what is counted", HOW_MANY))`. `WRITE_FIGURES=1 make test` writes the table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: written by the tests -->\n", "<!-- end of figures -->\n"


def count(reports: Iterable[Any]) -> Counter[tuple[int, str]]:
    """What passed tests have counted, by promise and kind."""
    found: Counter[tuple[int, str]] = Counter()
    for report in reports:
        for name, value in report.user_properties:
            if name == "promise":
                found[value[0], value[1]] += value[2]
    return found


def table(found: Counter[tuple[int, str]]) -> str:
    """The counts as a table, in the order of the promises."""
    rows = [f"| {number} | {kind} | {how_many:,} |" for (number, kind), how_many in sorted(found.items())]
    return "\n".join(["| promise | proved in the last test run | count |", "| --- | --- | --- |", *rows]) + "\n"


def show(terminal: Any) -> None:
    """Print the table after the tests, and write it into the document when asked to."""
    found = count(report for report in terminal.stats.get("passed", []) if report.when == "call")
    if not found:
        return
    terminal.section("promises (docs/reliability.md)")
    for (number, kind), how_many in sorted(found.items()):
        terminal.write_line(f"{number:>3}  {how_many:>6,}  {kind}")
    if os.environ.get("WRITE_FIGURES"):
        text = DOCUMENT.read_text()
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        DOCUMENT.write_text(before + BEGIN + table(found) + END + after)
