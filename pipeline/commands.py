"""What the commands for saved models do around their functions: messages, signals, exit codes, and how to go on."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.api import prepare_terminal, say
from pipeline.errors import ConfigError, UserError
from pipeline.failure import RunFailed
from pipeline.merging import merge
from pipeline.predicting import predict
from pipeline.safe_text import clean
from pipeline.scoring import FILE, evaluate
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
        say(f"graft {name}: {error}; to continue: {again}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say(f"stopped at once; to continue: {again}")
        sys.exit(128 + signal.SIGINT)


def option(name: str, value: object) -> list[str]:
    """An option as it is written on the command line; nothing when it is unset."""
    return [] if value is None else [f"--{name}", str(value)]


def refuse_processes(name: str, arguments: Sequence[str]) -> None:
    """Raise ConfigError for options of the launcher: these commands work in one process."""
    for argument in arguments:
        if argument.partition("=")[0] in ("--num_processes", "--accelerate_config"):
            raise ConfigError(
                f"{argument.partition('=')[0]}: {name} works in one process; "
                "cut the file and start one command for each part"
            )


def predict_command(
    model: str,
    file: list[str],
    out: Path,
    config: Path | None,
    revision: str | None,
    base_model: str | None,
    overrides: Sequence[str],
) -> None:
    """`graft predict`."""
    options = [*option("config", config), *option("revision", revision), *option("base_model", base_model)]
    files = [word for name in file for word in option("file", name)]
    with attended("predict", [model, *files, "--out", out, *options, *overrides]), StopRequest() as stop:
        refuse_processes("predict", overrides)
        found = predict(
            model,
            file,
            out,
            config=config,
            revision=revision,
            base_model=base_model,
            overrides=overrides,
            stop=stop,
        )
        say(f"predictions: {found}")


def evaluate_command(
    model: str,
    config: Path | None,
    output_dir: Path | None,
    revision: str | None,
    base_model: str | None,
    overrides: Sequence[str],
) -> None:
    """`graft evaluate`."""
    options = [*option("config", config), *option("output_dir", output_dir), *option("revision", revision)]
    options += option("base_model", base_model)
    with attended("evaluate", [model, *options, *overrides]), StopRequest() as stop:
        refuse_processes("evaluate", overrides)
        found = evaluate(
            model,
            config,
            revision=revision,
            base_model=base_model,
            output_dir=output_dir,
            overrides=overrides,
            stop=stop,
        )
        print(clean("\n".join(found.lines()), keep_lines=True))
        if output_dir is not None:
            say(f"numbers: {output_dir / FILE}")


def merge_command(source: str, out: Path, base_model: str | None, revision: str | None) -> None:
    """`graft merge`."""
    given: list[object] = [source, "--out", out, *option("base_model", base_model), *option("revision", revision)]
    with attended("merge", given):
        say(f"model: {merge(source, out, base_model=base_model, revision=revision)}")
