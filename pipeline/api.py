"""The recipes and how they run as commands: what each starts from, what it needs, and how errors end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import transformers.utils.logging
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import enable_progress_bars

from pipeline.callbacks import Callback, Moment
from pipeline.config import load, saying_where
from pipeline.data_report import print_data
from pipeline.dry_run import print_plan
from pipeline.errors import ConfigError, UserError
from pipeline.failure import RunFailed
from pipeline.given import Given
from pipeline.last_words import as_command, going_on, last_words, launched_so
from pipeline.prepare import BuildModel, prepare, script_of, whole_model
from pipeline.processes import Disagreement, OtherProcessFailed, exit_code
from pipeline.publishing import push_finished
from pipeline.reading import read
from pipeline.reports.card import write_card
from pipeline.reports.curves import draw_curves
from pipeline.run import Run, train
from pipeline.safe_text import SafeFormatter, StderrHandler, clean, masked, print_exception
from pipeline.settings import RunConfig, Start, start_of, user_strategy
from pipeline.stopping import Stopped, StopRequest
from pipeline.strategies import STRATEGIES
from pipeline.untouched import untouched

logger = logging.getLogger("graft")
Source = str | Path | Mapping[str, Any] | None


@dataclass(frozen=True)
class Recipe:
    """What a recipe is, apart from the others."""

    start: Start | None
    """None: whatever the configuration says."""
    needs: str | None = None
    """The strategy section that makes it this recipe."""
    refuses: tuple[str, ...] = ()


RECIPES: dict[str, Recipe] = {
    "pretrain": Recipe("random", refuses=("lora",)),
    "finetune": Recipe("checkpoint", refuses=("lora", "freeze")),
    "freeze": Recipe("checkpoint", needs="freeze", refuses=("lora",)),
    "lora": Recipe("checkpoint", needs="lora"),
    "train": Recipe(None),
}


def read_config(name: str, source: Source, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Any:
    """The configuration of a recipe's run: defaults, then the YAML or mapping, then the overrides."""
    config: Any = load(RunConfig, source, overrides, extra_section=user_strategy)
    recipe, problems = RECIPES[name], []
    if name == "lora" and config.lora is None:
        config = config.model_copy(update={"lora": STRATEGIES["lora"].Config()})
    if recipe.start and start_of(config) != recipe.start and (config.model.config or config.model.model_name_or_path):
        wanted = {"random": "model.config (random weights)", "checkpoint": "model.model_name_or_path (a checkpoint)"}
        other = {"random": "`graft finetune`, freeze or lora", "checkpoint": "`graft pretrain`"}[recipe.start]
        key = "model.config" if config.model.config else "model.model_name_or_path"
        problems.append(f"{key}: {name} starts from {wanted[recipe.start]}, not from this; use {other}")
    if recipe.needs and config.model_dump()[recipe.needs] is None:
        problems.append(f"{name}: there is no {recipe.needs} section; add one, such as --freeze.num_layers 4")
    for section in recipe.refuses:
        if config.model_dump()[section] is not None:
            problems.append(f"{section}: {name} has no use for this section; run it as `graft {section}`")
    with saying_where(config):
        if problems:
            raise ConfigError(problems)
    if "output_dir" not in config.model_fields_set and isinstance(source, (str, Path)):
        config.output_dir = f"runs/{Path(source).stem}"
    return config


def run_recipe(
    name: str,
    source: Source,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    build_model: BuildModel = whole_model,
    datasets: Mapping[str, Any] | None = None,
    command: Sequence[str] = (),
    callbacks: Mapping[Moment, Sequence[Callback]] | None = None,
    given: Given | None = None,
) -> Run:
    """Train by a recipe, draw the curves and write the card from the run folder; push it when that is asked for.

    `command` is what was typed, for the manifest and the card.
    """
    with untouched():
        config = read_config(name, source, overrides)
        if given and given.model is not None and RECIPES[name].start == "random":
            raise ConfigError(f"model: {name} starts from random weights (model.config); use finetune, freeze or lora")
        offline = constants.is_offline_mode()  # before the run takes it on, because the hub did not answer
        with StopRequest() as stop:
            prepared = prepare(
                config,
                build_model=build_model,
                datasets=datasets,
                stop=stop,
                recipe=name,
                command=command,
                callbacks=callbacks,
                given=given,
            )
            run = train(prepared, stop)
            prepared.processes.close()
        if prepared.accelerator.is_main_process:
            try:
                draw_curves(run.output_dir)
                write_card(run.output_dir)
            except OSError as error:  # a full disk: the model and its numbers are written
                logger.warning("curves.png and README.md were not written: %s", error)
            if config.hub.push_to_hub:
                run.pushed = push_finished(run.output_dir, config.hub, offline=offline)
    return run


def show_data(source: Source, overrides: Sequence[str] | Mapping[str, Any] = ()) -> None:
    """Print what the rows of a configuration are like; no model is loaded and nothing is trained."""
    config = read_config("train", source, overrides)
    with StopRequest() as stop, saying_where(config):
        print_data(read(config, None, stop, refuse=False))


def main(name: str, build_model: BuildModel = whole_model, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a recipe as a command: CONFIG.yaml, then `--section.key value` pairs and `--dry_run`. Ends the process.

    Exit codes: 0 finished; 2 a mistake in the configuration or the data; 143, 138 or 130
    stopped by a signal after saving; 1 anything else, such as a process that was lost.
    """
    prepare_terminal()
    given = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry_run" in given or "--dry-run" in given
    given = [argument for argument in given if argument not in ("--dry_run", "--dry-run")]
    source = given.pop(0) if given and not given[0].startswith("--") else None
    again = as_command(name, source, going_on(given))
    code = 0
    try:
        if dry_run:
            prepared = prepare(read_config(name, source, given), build_model=build_model)
            if prepared.accelerator.is_main_process:
                print_plan(prepared)
        else:
            typed = _typed(name, [*([source] if source else []), *given], script_of(build_model))
            run = run_recipe(name, source, given, build_model=build_model, command=typed)
            say(last_words(run, name, source, given))
    except (UserError, Disagreement) as error:
        say(f"graft {name}: {error}")
        code = exit_code(error)
    except Stopped as stopped:
        step = stopped.saved_step
        what = "stopped; there was nothing to save yet" if step is None else f"stopped; saved at step {step}"
        say(f"{what}; to continue: {again}")
        code = stopped.exit_code
    except KeyboardInterrupt:
        say(f"stopped at once; to continue from the newest checkpoint: {again}")
        code = 128 + signal.SIGINT
    except (RunFailed, OtherProcessFailed) as error:
        _leave(error, again)
    sys.exit(code)


def prepare_terminal(level: int = logging.WARNING) -> None:
    """Messages and mistakes as one line each, from the first process only."""
    level = level if os.environ.get("RANK", "0") == "0" else logging.ERROR  # one process speaks
    handler = StderrHandler()
    handler.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    sys.excepthook = print_exception
    # what libraries will rename in their next version is no news for the person at the terminal
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()  # no bars of others between our lines
    if sys.stderr.isatty():
        enable_progress_bars()  # but those of downloads


def _typed(name: str, words: Sequence[str], script: str | None) -> list[str]:
    """The command that starts this run from nothing."""
    if script:
        return ["accelerate", "launch", *launched_so("--config_file"), script, *words]
    return ["graft", name, *words, *launched_so()]


def _leave(error: RunFailed | OtherProcessFailed, again: str) -> None:
    """End now: with a process lost, an orderly end would wait for it. The one that knows the reason has the word."""
    if isinstance(error, RunFailed):
        if error.cause is not None:
            print_exception(type(error.cause), error.cause, error.cause.__traceback__)
        print(clean(masked(f"graft: {error}\n  to continue: {again}"), keep_lines=True), file=sys.stderr)
    elif exit_code(error) != RunFailed.exit_code:
        say(f"graft: {error}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code(error))


def say(text: str) -> None:
    """One message for people, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(clean(masked(text), keep_lines=True), file=sys.stderr, flush=True)
