"""The `graft` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipeline import __version__
from pipeline.errors import UserError

USER_ERROR = 2
app = App(name="graft", version=__version__, help="Train from scratch, freeze, adapt or tune everything, and compare.")
config_app = App(name="config", help="Look at settings.")
app.command(config_app)

Rest = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
Launcher = Annotated[str | None, Parameter(help="cpu_2proc, multi_gpu, fsdp2, ... or a file.")]
Processes = Annotated[int | None, Parameter(help="How many processes to start.")]


def _launch(recipe: str, arguments: tuple[str, ...], accelerate_config: str | None, num_processes: int | None) -> None:
    from pipeline.launch import launch

    sys.exit(launch(recipe, list(arguments), accelerate_config=accelerate_config, num_processes=num_processes))


@app.command
def pretrain(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Train a model from random weights.

    graft pretrain my.yaml --learning_rate 1e-3 --dry_run

    Any setting follows as --section.key value, or --key value where the name is unique; --dry_run prints the plan.
    Every setting with its default: graft config show my.yaml
    """
    _launch("pretrain", arguments, accelerate_config, num_processes)


@app.command
def finetune(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Tune every weight of a checkpoint.

    graft finetune my.yaml --learning_rate 2e-5

    Any setting follows as --section.key value, or --key value where the name is unique; --dry_run prints the plan.
    Every setting with its default: graft config show my.yaml
    """
    _launch("finetune", arguments, accelerate_config, num_processes)


@app.command
def freeze(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Tune a checkpoint whose early layers keep their weights.

    graft freeze my.yaml --freeze.num_layers 4

    Any setting follows as --section.key value, or --key value where the name is unique; --dry_run prints the plan.
    Every setting with its default: graft config show my.yaml
    """
    _launch("freeze", arguments, accelerate_config, num_processes)


@app.command
def lora(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Train low-rank adapters beside the frozen weights of a checkpoint.

    graft lora my.yaml --lora.r 8 --num_processes 2

    Any setting follows as --section.key value, or --key value where the name is unique; --dry_run prints the plan.
    Every setting with its default: graft config show my.yaml
    """
    _launch("lora", arguments, accelerate_config, num_processes)


@app.command
def train(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Repeat a run from its config.yaml, or run any combination of start and strategies.

    graft train runs/mine/config.yaml --output_dir runs/again
    """
    _launch("train", arguments, accelerate_config, num_processes)


@app.command
def rerun(run_dir: Path, *, output_dir: Path | None = None) -> None:
    """Repeat a finished run in a new folder and say whether model/ and results.json are the same bytes.

    graft rerun runs/mine --output_dir runs/mine-again

    Without --output_dir the new folder is RUN_DIR.rerun. Exit code: 0 identical, 1 different, 2 cannot be repeated.
    """
    from pipeline.rerun import rerun as job

    sys.exit(job(run_dir, output_dir))


@app.command
def quickstart(output_dir: Path = Path("runs/quickstart"), *, seed: int = 0) -> None:
    """Pretrain a small Llama on the standard library's sources, adapt it four ways, print the comparison.

    graft quickstart runs/quickstart
    """
    from pipeline.quickstart import quickstart as job

    job(output_dir, seed=seed)


@app.command
def data(config: Path, *overrides: Rest) -> None:
    """Show what the rows are like: lengths, truncation, label balance, repeated rows, overlap of train and evaluation.

    graft data my.yaml

    Nothing is trained. Rows of validation or test that are training rows too are listed by file and line.
    """
    from pipeline.api import show_data

    show_data(config, list(overrides))


@app.command
def compare(*runs: Path, output_dir: Path = Path("comparison"), title: str = "Comparison") -> None:
    """Put finished runs side by side: compare.md, compare.json and a figure.

    graft compare runs/full runs/lora --output_dir comparison
    """
    from pipeline.reports.compare import compare as job

    job(list(runs), output_dir, title).print()


@config_app.command
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from pipeline.config import json_schema
    from pipeline.settings import RunConfig

    print(json.dumps(json_schema(RunConfig), indent=2))


@config_app.command
def show(config: Path, *overrides: Rest) -> None:
    """Print a configuration with every default filled in.

    graft config show my.yaml --lora.r 4
    """
    from pipeline.config import dump, load
    from pipeline.settings import RunConfig, user_strategy

    print(dump(load(RunConfig, config, list(overrides), extra_section=user_strategy)), end="")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user ends with its message and exit code 2."""
    try:
        return app(arguments)
    except UserError as error:
        print(f"graft: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)


if __name__ == "__main__":
    main()
