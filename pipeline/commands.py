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
from pipeline.errors import UserError
from pipeline.merging import merge
from pipeline.stopping import Stopped


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
    except KeyboardInterrupt:
        say(f"stopped at once; to continue: {again}")
        sys.exit(128 + signal.SIGINT)


def option(name: str, value: object) -> list[str]:
    """An option as it is written on the command line; nothing when it is unset."""
    return [] if value is None else [f"--{name}", str(value)]


def merge_command(source: str, out: Path, base_model: str | None, revision: str | None) -> None:
    """`graft merge`."""
    given: list[object] = [source, "--out", out, *option("base_model", base_model), *option("revision", revision)]
    with attended("merge", given):
        say(f"model: {merge(source, out, base_model=base_model, revision=revision)}")
