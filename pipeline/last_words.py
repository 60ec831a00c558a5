"""What a run says at its end: where things are, and the commands that come next, one line each."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from pipeline.accelerator import configuration_named
from pipeline.run import Run
from pipeline.safe_text import clean

RESUME = ("--resume", "--checkpoint.resume")
LENGTH = ("--num_train_epochs", "--train.num_train_epochs", "--max_steps", "--train.max_steps")


def as_command(recipe: str, source: str | Path | None, arguments: Sequence[str]) -> str:
    """A command line of `graft` to copy."""
    return shlex.join(["graft", recipe, *([str(source)] if source else []), *arguments])


def without(arguments: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without these options and their values."""
    left, found = list(arguments), []
    while left:
        word = left.pop(0)
        if word.partition("=")[0].replace("-", "_").replace("__", "--", 1) in names:
            if "=" not in word and left:
                left.pop(0)
        else:
            found.append(word)
    return found


def going_on(arguments: Sequence[str]) -> list[str]:
    """The arguments of the command that continues a run: from its newest checkpoint, on the same processes."""
    return [*without(arguments, RESUME), "--checkpoint.resume", "auto", *launched_so()]


def launched_so(configuration: str = "--accelerate_config") -> list[str]:
    """The options of `graft` that start processes as those of this run were started; accelerate's own launcher calls
    the first `--config_file`."""
    named, world = configuration_named(), os.environ.get("WORLD_SIZE", "1")
    return [*([configuration, named] if named else []), *(["--num_processes", world] if world != "1" else [])]


def last_words(run: Run, recipe: str, source: str | Path | None, arguments: Sequence[str]) -> str:
    """The lines after a finished run; `arguments` are those of its command."""
    folder, steps = run.output_dir, run.results["steps"]
    beside = [name for name in ("results.json", "curves.png", "README.md") if (folder / name).is_file()]
    lines = {
        "scores": run.scores,
        "model": f"{folder / 'model'}",
        "numbers": ", ".join(str(folder / name) for name in beside),
    }
    if not run.results["stopped_early"]:
        given = [*without(arguments, (*RESUME, *LENGTH)), *launched_so()]
        lines["longer"] = as_command(recipe, source, [*given, "--max_steps", str(2 * max(steps, 1))])
    quoted = shlex.quote(str(folder))
    lines["predict"] = f"graft predict {quoted} --file ROWS --out PREDICTIONS.jsonl"
    lines["compare"] = f"graft compare {quoted} OTHER_RUN"
    if not run.pushed:
        lines["push"] = f"graft push {quoted} --hub_model_id NAME"
    shown = [clean(run.summary), *(f"  {name.ljust(9)}{clean(line)}" for name, line in lines.items()), run.pushed]
    return "\n".join(filter(None, shown))
