"""What the commands for saved models do around their functions: messages, signals, exit codes, and how to go on."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.api import prepare_terminal, say
from pipeline.command_line import Origin
from pipeline.errors import ConfigError, UserError
from pipeline.failure import RunFailed
from pipeline.merging import merge, merge_plan
from pipeline.predicting import predict, predict_plan
from pipeline.safe_text import clean
from pipeline.scoring import FILE, evaluate, evaluate_plan
from pipeline.stopping import Stopped, StopRequest


@contextmanager
def attended(name: str, arguments: Sequence[object]) -> Iterator[None]:
    """Say in a sentence how a command ended, and end with its exit code; `arguments` are those of the same command."""
    prepare_terminal(logging.INFO)
    for library in ("httpx", "datasets", "transformers", "accelerate", "absl", "evaluate"):
        logging.getLogger(library).setLevel(logging.WARNING)
    again = shlex.join(["graft", name, *(str(word) for word in arguments if word is not None)])
    try:
        yield
    except UserError as error:
        say(f"graft {name}: {error}")
        sys.exit(error.exit_code)
    except Stopped as stopped:
        say(f"stopped; to continue: {again}")
        sys.exit(stopped.exit_code)
    except RunFailed as error:
        say(f"graft {name}: {error}\nto continue: {again}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(f"stopped at once; to continue: {again}")
        sys.exit(128 + signal.SIGINT)


def options(**given: object) -> list[str]:
    """Options as they are written on the command line; those that are unset are left out."""
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def refuse_processes(name: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for options of the launcher: these commands work in one process."""
    for argument in arguments:
        if argument.partition("=")[0] in ("--num_processes", "--accelerate_config"):
            raise ConfigError(
                f"{argument.partition('=')[0]}: {name} works in one process; "
                "cut the file and start one command for each part"
            )


def print_lines(lines: Sequence[str]) -> None:
    """What a command has found out, on standard output."""
    print(clean("\n".join(lines), keep_lines=True))


def predict_command(
    model: str,
    file: list[str],
    out: Path,
    config: Path | None,
    origin: Origin,
    overrides: Sequence[str],
    *,
    dry_run: bool,
) -> None:
    """`graft predict`."""
    from_where = asdict(origin)
    files = [word for name in file for word in options(file=name)]
    again = [model, *files, *options(out=out, config=config, **from_where), *overrides]
    with attended("predict", again), StopRequest() as stop:
        refuse_processes("predict", overrides)
        given: dict[str, Any] = {"config": config, "overrides": overrides, "stop": stop, **from_where}
        if dry_run:
            print_lines(predict_plan(model, file, out, **given))
        else:
            say(f"predictions: {predict(model, file, out, **given)}")


def evaluate_command(
    model: str,
    config: Path | None,
    output_dir: Path | None,
    origin: Origin,
    overrides: Sequence[str],
    *,
    dry_run: bool,
) -> None:
    """`graft evaluate`."""
    from_where = asdict(origin)
    again = [model, *options(config=config, output_dir=output_dir, **from_where), *overrides]
    with attended("evaluate", again), StopRequest() as stop:
        refuse_processes("evaluate", overrides)
        given: dict[str, Any] = {"output_dir": output_dir, "overrides": overrides, "stop": stop, **from_where}
        if dry_run:
            print_lines(evaluate_plan(model, config, **given))
            return
        print_lines(evaluate(model, config, **given).lines())
        if output_dir is not None:
            say(f"numbers: {output_dir / FILE}")


def merge_command(source: str, out: Path, config: Path | None, origin: Origin, *, dry_run: bool) -> None:
    """`graft merge`."""
    from_where = {"config": config, **asdict(origin)}
    with attended("merge", [source, *options(out=out, **from_where)]):
        if dry_run:
            print_lines(merge_plan(source, out, **from_where))
        else:
            say(f"model: {merge(source, out, **from_where)}")
