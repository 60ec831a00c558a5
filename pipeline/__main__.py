"""The `graft` command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from pipeline import __version__
from pipeline.command_line import (
    COMPARE,
    CONFIG,
    LAUNCHER,
    LOOK,
    OTHER,
    TRAIN,
    USE,
    Config,
    DryRun,
    Launcher,
    Processes,
    Rest,
    Shell,
    command,
    make_app,
    refuse_misspelt,
    run,
)
from pipeline.errors import ConfigError
from pipeline.using import evaluate, merge, predict

app = make_app(__version__)
config_app = App(
    name="config",
    help="Settings: every default filled in, or the JSON schema.",
    group=LOOK,
    group_commands=Group("Commands"),
    help_prologue=CONFIG,
    usage="",
)
app.command(config_app)


def _launch(recipe: str, arguments: tuple[str, ...], accelerate_config: str | None, num_processes: int | None) -> None:
    """Start a recipe in as many processes as asked for, and end with its exit code."""
    if not arguments:
        raise ConfigError(f"{recipe}: a configuration is missing: graft {recipe} my.yaml; graft {recipe} --help")
    refuse_misspelt(arguments)
    from pipeline.launch import launch as start

    sys.exit(start(recipe, list(arguments), accelerate_config=accelerate_config, num_processes=num_processes))


@command(app, TRAIN)
def pretrain(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Train a model from random weights.

    graft pretrain my.yaml --learning_rate 1e-3 --dry_run
    """
    _launch("pretrain", arguments, accelerate_config, num_processes)


@command(app, TRAIN)
def finetune(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Tune every weight of a checkpoint.

    graft finetune my.yaml --learning_rate 2e-5
    """
    _launch("finetune", arguments, accelerate_config, num_processes)


@command(app, TRAIN)
def freeze(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Tune a checkpoint whose early layers keep their weights.

    graft freeze my.yaml --freeze.num_layers 4
    """
    _launch("freeze", arguments, accelerate_config, num_processes)


@command(app, TRAIN)
def lora(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Train low-rank adapters beside the frozen weights of a checkpoint.

    graft lora my.yaml --lora.r 8 --num_processes 2
    """
    _launch("lora", arguments, accelerate_config, num_processes)


@command(app, TRAIN)
def train(*arguments: Rest, accelerate_config: Launcher = None, num_processes: Processes = None) -> None:
    """Any combination of start and strategies, as the configuration says.

    graft train runs/mine/config.yaml --output_dir runs/again
    """
    _launch("train", arguments, accelerate_config, num_processes)


for use in (predict, evaluate, merge):
    command(app, USE)(use)


@command(app, COMPARE)
def rerun(
    run_dir: Annotated[Path, Parameter(help="Folder of a finished run.")],
    *,
    output_dir: Annotated[Path | None, Parameter(help="Folder of the new run.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Repeat a finished run and say whether the same bytes came out.

    graft rerun runs/mine --output_dir runs/mine-again

    Compares model/ and results.json. Without --output_dir the new folder is RUN_DIR.rerun.
    Exit code: 0 identical, 1 different, 2 cannot be repeated.
    """
    from pipeline.rerun import rerun as job

    sys.exit(job(run_dir, output_dir, dry_run=dry_run))


@command(app, COMPARE)
def quickstart(
    output_dir: Annotated[Path, Parameter(help="Where everything is written.")] = Path("runs/quickstart"),
    *,
    seed: Annotated[int, Parameter(help="Of the weights and the order of rows.")] = 0,
) -> None:
    """Pretrain a small model and adapt it four ways, in minutes.

    graft quickstart runs/quickstart

    A small Llama learns the standard library's sources, then to write docstrings. Nothing
    is downloaded.
    """
    from pipeline.quickstart import quickstart as job

    job(output_dir, seed=seed)


@command(app, COMPARE)
def sweep(
    config: Config,
    *arguments: Rest,
    recipe: Annotated[str | None, Parameter(help="Unset: what the configuration's sections mean.")] = None,
    jobs: Annotated[int, Parameter(help="Runs at a time.")] = 1,
    output_dir: Annotated[Path | None, Parameter(help="Folder of the sweep. [runs/CONFIG-sweep]")] = None,
    dry_run: Annotated[bool, Parameter(help="List the runs and end.")] = False,
    accelerate_config: Launcher = None,
    num_processes: Processes = None,
) -> None:
    """Run every combination of values, and show what was best.

    graft sweep my.yaml --learning_rate 1e-5,3e-5 --seed 0,1,2

    A setting with commas varies; within brackets or quotes a comma belongs to a value: --target_modules [q,v],[q,k,v].
    What is best is chosen on validation rows. Every run has its own folder. The same command goes on after a stop.
    Exit code 1: a run failed, the others were run.
    """
    refuse_misspelt(arguments, ("recipe", "jobs", *LAUNCHER))
    from pipeline.sweeping import run_sweep

    launcher = [*(["--accelerate_config", accelerate_config] if accelerate_config else [])]
    launcher += ["--num_processes", str(num_processes)] if num_processes else []
    found = run_sweep(
        config, arguments, recipe=recipe, jobs=jobs, output_dir=output_dir, launcher=launcher, dry_run=dry_run
    )
    found.print()
    sys.exit(found.exit_code)


@command(app, LOOK)
def data(config: Config, *overrides: Rest) -> None:
    """Show what the rows are like; nothing is trained.

    graft data my.yaml

    Lengths, truncation, label balance, repeated rows, overlap of train and evaluation: rows
    of validation or test that are training rows too are listed by file and line.
    """
    from pipeline.api import show_data

    show_data(config, list(overrides))


@command(app, COMPARE)
def compare(
    *runs: Annotated[Path, Parameter(help="Folders of finished runs.")],
    output_dir: Annotated[Path, Parameter(help="Folder of the comparison.")] = Path("comparison"),
    title: Annotated[str, Parameter(help="Its headline.")] = "Comparison",
) -> None:
    """Put finished runs side by side in a table and a figure.

    graft compare runs/full runs/lora --output_dir comparison

    Writes compare.md, compare.json and compare.png.
    """
    from pipeline.reports.compare import compare as job

    job(list(runs), output_dir, title).print()


@command(app, USE)
def push(run_dir: Annotated[Path, Parameter(help="Folder of a finished run.")], *settings: Rest) -> None:
    """Push a finished run to a hub, in one commit.

    graft push runs/mine --hub_model_id me/my-model

    Model, card, numbers and settings go to a private repository; --dry_run lists the files.
    Settings of the hub section follow: --hub_private_repo false, --hub_push adapter, merged or both, --hub_revision
    BRANCH, --hub_tag TAG, --hub_create_pr true, --hub_base_model_id NAME; others are as the run's config.yaml has them.
    Exit code: 0 the hub has the files, 1 it did not take them (the last line pushes later).
    """
    from pipeline.publishing import push_command

    sys.exit(push_command(run_dir, settings))


@command(config_app)
def schema() -> None:
    """Print the JSON schema of the configuration, for editors.

    graft config schema > schema.json
    """
    from pipeline.config import json_schema
    from pipeline.settings import RunConfig

    print(json.dumps(json_schema(RunConfig), indent=2))


@command(config_app)
def show(config: Config, *overrides: Rest) -> None:
    """Print a configuration with every default filled in.

    graft config show my.yaml --lora.r 4
    """
    from pipeline.config import dump, load
    from pipeline.settings import RunConfig, user_strategy

    print(dump(load(RunConfig, config, list(overrides), extra_section=user_strategy)), end="")


@command(app, LOOK)
def env() -> None:
    """Print versions and devices of this machine, to paste into an issue.

    graft env

    No secret and no name of a home folder is printed.
    """
    from pipeline.environment import text

    print(text())


@command(app, OTHER)
def completion(
    *,
    shell: Annotated[Shell | None, Parameter(help="Unset: the shell in use.")] = None,
    output: Annotated[Path | None, Parameter(help="Write only the script, to this file.")] = None,
) -> None:
    """Let the shell complete commands, settings and their choices.

    graft completion --shell bash

    Writes the script where the shell looks for it, and a line into its start file. Once more after an update.
    """
    from pipeline.completion import install

    print(install(app, shell, output))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user ends with its message and exit code 2."""
    return run(app, arguments)


if __name__ == "__main__":
    main()
