"""A run at work on a terminal or in a notebook: two lines that stay in one place."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from html import escape
from math import isfinite
from typing import Any, Literal

from rich.console import Console
from rich.live import Live
from rich.text import Text

SPARKS = "▁▂▃▄▅▆▇█"
REFRESH_SECONDS = 0.25
NOTEBOOK_SECONDS = 0.5
WINDOW = 50
"""Steps over which the throughput is taken."""
BAR = (10, 40)
SPARKLINE = (6, 30)
"""Fewest and most characters."""

Kind = Literal["plain", "terminal", "notebook"]


def kind_of(console: Console, *, plain: bool = False) -> Kind:
    """Where progress goes: lines in one place need a terminal that can move its cursor and knows the characters."""
    if plain:
        return "plain"
    if console.is_jupyter:
        return "notebook"
    able = console.file.isatty() and not console.is_dumb_terminal and not console.options.ascii_only
    return "terminal" if able else "plain"


class Progress:
    """The two lines and what they are made of. `memory`, the most bytes held so far, is asked when they are drawn."""

    def __init__(self, console: Console, kind: Kind, total_steps: int, memory: Callable[[], int]):
        self.console, self.kind, self.total_steps, self.memory = console, kind, total_steps, memory
        self.losses: list[float] = []
        self.learning_rate: float | None = None
        self.evaluation = ""
        self.doing = ""
        self.window: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self.live: Live | None = None
        self.page: Any = None
        self.drawn = 0.0

    def start(self, step: int, done: Callable[[], tuple[int, str]], metric: str) -> None:
        """Start the clock at `step`. `done` counts what was trained on, and says what it counts (tokens, rows)."""
        self.begun, self.first_step, self.step, self.done, self.metric = time.monotonic(), step, step, done, metric
        if self.kind == "terminal":
            self.live = Live(
                get_renderable=lambda: Text("\n").join(self.lines(self.console.width)),
                console=self.console,
                refresh_per_second=1 / REFRESH_SECONDS,
                transient=True,
                vertical_overflow="crop",
            )
            self.live.start()
        elif self.kind == "notebook":
            from IPython.display import HTML, display  # only there in a notebook

            self.page = display(HTML(self.html()), display_id=True)

    def advance(self, step: int) -> None:
        """A step is done."""
        self.step, now = step, time.monotonic()
        self.window.append((now, self.done()[0]))
        if self.page is not None and now - self.drawn > NOTEBOOK_SECONDS:
            self.drawn = now
            self._write_page(self.html())

    def event(self, event: Mapping[str, Any]) -> None:
        """Remember what the lines show of an event: the loss, the rate, the last evaluation."""
        if event["event"] == "train":
            self.losses.append(event["loss"])
            self.learning_rate = event["learning_rate"]
        elif event["event"] == "evaluate":
            name = self.metric if self.metric in event else "loss"
            if name in event:
                self.evaluation = f"{name} {short(event[name])} at {event['step']}"
            self.window.clear()  # an evaluation is no training: it would count as slow steps

    def seconds_left(self) -> float | None:
        """By the pace so far, evaluations included."""
        done = self.step - self.first_step
        return (time.monotonic() - self.begun) / done * (self.total_steps - self.step) if done > 0 else None

    def throughput(self) -> str:
        """Over the last steps."""
        if len(self.window) < 2:
            return ""
        (before, amount_before), (now, amount) = self.window[0], self.window[-1]
        return f"{rate((amount - amount_before) / max(now - before, 1e-9))} {self.done()[1]}/s"

    def lines(self, width: int) -> list[Text]:
        """Both lines, each at most `width` - 1 characters: what matters least is left out first."""
        room = width - 1
        left = self.seconds_left()
        head = f"{self.step:,}/{self.total_steps:,}"
        share = self.step / max(self.total_steps, 1)
        pieces = [
            f"{share:4.0%}".replace("%", " %"),
            self.doing or (f"left {clock(left)}" if left is not None else ""),
            self.throughput(),
            megabytes(self.memory()),
        ]
        kept = _fitting(pieces, room - len(head) - 2 - BAR[0])
        bar = max(0, min(BAR[1], room - len(head) - 1 - sum(len(piece) + 2 for piece in kept)))
        done = round(share * bar)
        first = Text.assemble((head, "bold"), " ", ("━" * done, "green"), ("─" * (bar - done), "dim"))
        first.append("".join(f"  {piece}" for piece in kept))
        return [_cut(first, room), _cut(self._second_line(room), room)]

    def _second_line(self, room: int) -> Text:
        if not self.losses:
            return Text("waiting for the first step to be logged" if self.step else "starting", style="dim")
        loss = f"loss {short(self.losses[-1])}"
        rate_now = f"lr {self.learning_rate:.2g}" if self.learning_rate is not None else ""
        kept = _fitting([self.evaluation, rate_now], room - len(loss) - 1 - SPARKLINE[0])
        free = room - len(loss) - 1 - sum(len(piece) + 2 for piece in kept)
        sparks = sparkline(self.losses[-min(SPARKLINE[1], max(free, 1)) :]) if free >= SPARKLINE[0] else ""
        line = Text.assemble((loss, "bold"), " ", (sparks, "cyan"))
        for piece in reversed(kept):
            line.append(f"  {piece}")
        return line

    def html(self) -> str:
        text = "\n".join(line.plain for line in self.lines(100))
        return f"<pre style='margin:0;line-height:1.3'>{escape(text)}</pre>"

    def _write_page(self, html: str) -> None:
        from IPython.display import HTML

        self.page.update(HTML(html))

    def stop(self) -> None:
        """Take the lines away; a notebook keeps one line of what was done."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        if self.page is not None:
            seconds = clock(time.monotonic() - self.begun)
            loss = f"  loss {short(self.losses[-1])}" if self.losses else ""
            self._write_page(f"<pre>{self.step:,}/{self.total_steps:,} steps in {seconds}{escape(loss)}</pre>")
            self.page = None


def sparkline(values: list[float]) -> str:
    """Values as a row of bars."""
    known = [value for value in values if isfinite(value)]
    if len(known) < 2:
        return ""
    low, high = min(known), max(known)
    scale = (len(SPARKS) - 1) / ((high - low) or 1.0)
    return "".join(SPARKS[int((value - low) * scale)] for value in known)


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """`0:43`, `12:05`, `3:20:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def megabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _fitting(pieces: list[str], room: int) -> list[str]:
    """The first pieces that fit, two blanks before each."""
    kept: list[str] = []
    for piece in filter(None, pieces):
        if len(piece) + 2 <= room:
            kept.append(piece)
            room -= len(piece) + 2
    return kept


def _cut(line: Text, room: int) -> Text:
    line.no_wrap = True
    line.truncate(max(room, 1), overflow="ellipsis")
    return line
