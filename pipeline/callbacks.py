"""Functions of the user's own that a run calls on its way: after steps, evaluations and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pipeline.errors import ConfigError
from pipeline.processes import OtherProcessFailed, Processes

Moment = Literal["on_step", "on_evaluate", "on_save"]
NOTHING: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Event:
    """What a run says to a function of the user's own. It says what is and changes nothing."""

    step: int
    """Optimizer steps that are done."""
    total_steps: int
    epoch: float
    """Passes over the training rows, with a fraction."""
    loss: float | None
    """on_step: the mean over all terms of this step's global batch, not finite when the step was left out;
    on_evaluate: of the split; on_save: None."""
    learning_rate: float
    """Of the first group of parameters, in the last step."""
    folder: Path
    """on_save: the checkpoint's; else the run's."""
    metrics: Mapping[str, float] = field(default_factory=lambda: NOTHING)
    """on_evaluate: every number of the split; else empty."""
    split: str | None = None
    """on_evaluate: validation or test."""


Callback = Callable[[Event], object]
"""A function that may return True to end the training after this step. What else it returns is not looked at."""


class Callbacks:
    """The functions of one run. They are called on the main process; all processes learn what came of it."""

    def __init__(self, functions: Mapping[Moment, Sequence[Callback]], processes: Processes):
        self.functions, self.processes = functions, processes
        self.asked_to_stop = False
        """Some function has returned True: the same on all processes."""

    def tell(self, moment: Moment, event: Callable[[], Event]) -> Exception | None:
        """Call the functions of a moment. Returns what one raised, on the other processes an OtherProcessFailed.

        All processes must come here together. Without functions it costs nothing.
        """
        if not self.functions.get(moment):
            return None
        stop, error = False, None
        if self.processes.is_main:
            now = event()
            try:
                stop = any([function(now) is True for function in self.functions[moment]])
            except Exception as raised:
                error = raised
        said = {"stop": stop, "error": None if error is None else f"{type(error).__name__}: {error}"}
        said = json.loads(self.processes.share(json.dumps(said))[0])
        self.asked_to_stop |= said["stop"]
        if error is None and said["error"] is not None:
            return OtherProcessFailed(0, said["error"], 1)
        return error


def callbacks_of(
    on_step: Callback | Sequence[Callback] | None,
    on_evaluate: Callback | Sequence[Callback] | None,
    on_save: Callback | Sequence[Callback] | None,
) -> dict[Moment, list[Callback]]:
    """Each moment with its functions, of which one may stand alone. Raises ConfigError for what cannot be called."""
    found: dict[Moment, list[Callback]] = {}
    problems = []
    given: dict[Moment, Any] = {"on_step": on_step, "on_evaluate": on_evaluate, "on_save": on_save}
    for moment, functions in given.items():
        listed = [functions] if callable(functions) else [] if functions is None else functions
        if not isinstance(listed, list | tuple) or not all(callable(function) for function in listed):
            problems.append(f"{moment}: expected a function that takes an event, or a list of them, got {functions!r}")
        else:
            found[moment] = [*listed]
    if problems:
        raise ConfigError(problems)
    return found
