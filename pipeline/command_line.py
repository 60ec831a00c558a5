"""How the `graft` command looks: an example first, groups without boxes, mistakes in one sentence."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)
from cyclopts.help import HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions
from rich.text import Text

from pipeline.errors import UserError, nearest
from pipeline.safe_text import clean, masked

EXIT_CODES = {
    0: "finished, and everything asked for was done",
    1: "failed for a reason that is not a mistake in the input: a lost process, a full disk, an error in the code; "
    "`graft rerun`: the bytes differ; `graft sweep`: a run failed, the others were run",
    2: "a mistake in the command, the configuration or the data; the message says where and how to fix it",
    130: "stopped by Ctrl-C after saving; the same command goes on from there",
    138: "stopped by SIGUSR1 (a scheduler's early notice) after saving; queue it again",
    143: "stopped by SIGTERM after saving; queue it again",
}
"""What the exit code of any command means; docs/cli.md shows it."""

TRAIN = Group.create_ordered("Train")
USE = Group.create_ordered("Use a model")
COMPARE = Group.create_ordered("Repeat and compare")
LOOK = Group.create_ordered("Look before you train")
OTHER = Group.create_ordered("Other")
GROUPS = (TRAIN, USE, COMPARE, LOOK, OTHER)

LAUNCHER = ("accelerate_config", "num_processes", "dry_run")
"""Options of a recipe's command that are no settings."""
ORDER = count()
LABELS = 30
"""A help text begins right of its option's name when that is shorter than this, else below it."""
ANY_SETTING = (
    "Any setting follows as --section.key value, or --key value where the name is unique; --dry_run prints the plan. "
    "Every setting with its default: graft config show my.yaml"
)
OVERVIEW = """\
  graft lora my.yaml --dry_run     the plan of a run, nothing trained
  graft lora my.yaml               the run; once more after a stop: goes on
  graft COMMAND --help             an example and the options of a command
"""
CONFIG = """\
  graft config show my.yaml
  graft config schema > schema.json
"""


Shell = Literal["bash", "zsh", "fish", "powershell"]
Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
Config = Annotated[Path, Parameter(help="A YAML file; settings may follow, as --section.key value.")]
Launcher = Annotated[str | None, Parameter(help="How processes start: cpu_2proc, multi_gpu, fsdp2, ... or a file.")]
Saved = Annotated[str, Parameter(help="A run folder, a model folder, or the id of a model on the hub.")]
Processes = Annotated[int | None, Parameter(help="How many; unset: one per GPU, else one.")]
DryRun = Annotated[bool, Parameter(help="Check everything, say what would be written, and end.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Origin:
    """Options of every command for saved models: what their names mean."""

    revision: Annotated[str | None, Parameter(help="Of a hub id: branch, tag or commit; unset: the newest.")] = None
    base_model: Annotated[str | None, Parameter(help="Of an adapter: where its base is, when not where it says.")] = (
        None
    )


ANYWHERE = Origin()


def make_app(version: str) -> App:
    """The application without its commands."""
    app = App(
        name="graft",
        version=version,
        help="Train from scratch, freeze, adapt or tune everything on your data, and compare.",
        help_format="plaintext",
        help_prologue=OVERVIEW,
        help_formatter=show_panel,
        usage="",
        default_parameter=Parameter(name_transform=lambda name: name, negative=()),  # underscores, as in YAML
        group_commands=OTHER,
        print_error=False,
        exit_on_error=False,
    )
    app["--help"].group = app["--version"].group = (OTHER,)
    return app


def command(app: App, group: Group | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a command whose docstring holds an example as a paragraph of its own; the help begins with that."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        paragraphs = textwrap.dedent(f"    {function.__doc__}").strip().split("\n\n")
        examples = "".join(textwrap.indent(part, "  ") + "\n" for part in paragraphs if _is_example(part))
        rest = [" ".join(part.split()) for part in paragraphs if not _is_example(part)]
        rest += [ANY_SETTING] if group is TRAIN else []
        more: dict[str, Any] = {"group": group} if group else {}
        app.command(function, help="\n\n".join(rest), help_prologue=examples, usage="", sort_key=next(ORDER), **more)
        return function

    return add


def _is_example(line: str) -> bool:
    return line.strip().startswith("graft ")


def show_panel(console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
    """Print one group of a help page: names in a column, what they do beside them, no trailing blanks."""
    if not panel.entries:
        return
    console.print(Text(str(panel.title), style="bold"))
    labels = [_label(entry) for entry in panel.entries]
    margin = 4 + max((len(label) for label in labels if len(label) < LABELS), default=0)
    for label, entry in zip(labels, panel.entries, strict=True):
        lines = textwrap.wrap(_description(entry, console), max(20, options.max_width - margin)) or [""]
        if len(label) >= LABELS:
            lines = ["", *lines] if lines[0] else lines
        first, *rest = lines
        console.print(Text(f"  {label}".ljust(margin if first else 0) + first))
        for line in rest:
            console.print(Text(" " * margin + line))
    console.print()


def _label(entry: HelpEntry) -> str:
    if entry.positional_label:
        return entry.positional_label  # given by its place: its name as an option is no news
    return ", ".join(entry.display_labels_with_metavar)


def _description(entry: HelpEntry, console: Console) -> str:
    options = console.options.update(width=10_000, no_wrap=True)
    text = "".join(segment.text for segment in console.render(entry.description or "", options))
    parts = [" ".join(text.split())]
    if entry.choices:
        parts.append(f"One of {', '.join(entry.choices)}.")
    if entry.default is not None:
        parts.append(f"[{entry.default}]")
    return " ".join(filter(None, parts))


def run(app: App, arguments: Sequence[str] | None) -> Any:
    """Run the command line. A mistake of the user ends with its message on stderr and exit code 2."""
    try:
        return app(arguments)
    except CycloptsError as error:
        message = sentence(app, error)
    except UserError as error:
        message = f"graft: {error}"
    Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False).print(
        clean(masked(message), keep_lines=True)
    )
    sys.exit(UserError.exit_code)


def sentence(app: App, error: CycloptsError) -> str:
    """A mistake on the command line in one sentence, with what was probably meant or where to read on."""
    chain = " ".join(("graft", *(error.command_chain or ())))
    if isinstance(error, UnknownCommandError):
        within = app
        for name in error.command_chain or ():
            within = within[name]
        known = [name for name in within.resolved_commands() if not name.startswith("-")]
        word = (error.unused_tokens or [""])[0]
        what = "option" if word.startswith("-") else "command"
        hint = nearest(word, known) if what == "command" else f"see {chain} --help"
        if word.endswith((".yaml", ".yml")):
            hint = f"a command comes before its file: {chain} {'show' if error.command_chain else 'train'} {word}"
        return f"{chain}: unknown {what} {word!r}; {hint}"
    if isinstance(error, UnusedCliTokensError):
        says = f"{' '.join(error.unused_tokens or ())!r} is more than this command takes"
    elif isinstance(error, MissingArgumentError) and error.argument is not None:
        says = f"{error.argument.name.removeprefix('--').upper()} is missing"
    else:
        says = str(error).strip().rstrip(".").replace(". Did you mean", "; did you mean").replace("\n", " ")
        says = says[:1].lower() + says[1:]
    return f"{chain}: {says}" if says.endswith("?") else f"{chain}: {says}; {chain} --help shows an example"


def refuse_misspelt(arguments: Sequence[str], options: Sequence[str] = LAUNCHER) -> None:
    """Raise UserError for an argument that is nearly one of the options; settings are checked by who reads them."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if not name.startswith("--") or "." in name:
            continue
        close = get_close_matches(name[2:].replace("-", "_"), options, n=1, cutoff=0.85)
        if close and close[0] != name[2:].replace("-", "_"):
            raise UserError(f"unknown option {name}; did you mean --{close[0]}?")
