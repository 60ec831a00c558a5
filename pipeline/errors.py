"""What goes wrong for a user: what, where, what was expected and how to fix it (the command line exits with 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from pipeline.safe_text import clean, masked


class SaysAll:
    """An error whose words say all: a notebook shows them, and not the way they came."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class UserError(SaysAll, ValueError):
    """A mistake in what the user gave us. `problems` holds one sentence each; all are shown at once."""

    title = "problem"
    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        found = [problems] if isinstance(problems, str) else problems
        # names of files, columns and labels stand in them, as their makers wrote them
        self.problems = [clean(masked(problem)) for problem in found]
        super().__init__(self._text())

    def _text(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n".join([f"{len(self.problems)} {self.title}s:", *(f"  {problem}" for problem in self.problems)])


class ConfigError(UserError):
    """A setting is unknown, of the wrong type, out of range, or does not go with another one."""

    title = "configuration problem"


class DataError(UserError):
    """A file, a row, a column or a label is not what the task needs."""

    title = "data problem"


class BadRows(DataError):
    """Raised by a task's `encode`: what is wrong with rows of the batch. Where they were written is added later."""

    def __init__(self, found: Mapping[int, str]):
        """`found`: the number of a row within the batch -> a sentence that begins with the column."""
        super().__init__([f"row {number + 1}: {sentence}" for number, sentence in found.items()])
        self.found = dict(found)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or the whole short list."""
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if len(choices) <= 24 else "no name is near it"
