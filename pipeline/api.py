"""The four recipes as functions and as commands: what each starts from, what it needs, and how errors end."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pipeline.config import load
from pipeline.dry_run import print_plan
from pipeline.errors import ConfigError, UserError
from pipeline.loop import Stopped
from pipeline.prepare import BuildModel, prepare, whole_model
from pipeline.reports.card import write_card
from pipeline.reports.curves import draw_curves
from pipeline.run import Run, train
from pipeline.safe_text import SafeFormatter, clean, masked, print_exception
from pipeline.settings import RunConfig, Start, start_of, user_strategy
from pipeline.strategies import STRATEGIES

Source = str | Path | Mapping[str, Any] | None
USER_ERROR = 2


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
        other = {"random": "finetune, freeze or lora", "checkpoint": "pretrain"}[recipe.start]
        problems.append(f"{name} starts from {wanted[recipe.start]}, and this configuration has the other; use {other}")
    if recipe.needs and config.model_dump()[recipe.needs] is None:
        problems.append(f"{name}: there is no {recipe.needs} section; add one, such as --freeze.num_layers 4")
    for section in recipe.refuses:
        if config.model_dump()[section] is not None:
            problems.append(f"{name}: this configuration has a {section} section; run it as `graft {section}`")
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
) -> Run:
    """Train by a recipe, then draw the curves and write the card from the run folder."""
    prepared = prepare(read_config(name, source, overrides), build_model=build_model, datasets=datasets, recipe=name)
    run = train(prepared)
    if prepared.accelerator.is_main_process:
        draw_curves(run.output_dir)
        write_card(run.output_dir)
    return run


def _function(name: str, summary: str) -> Callable[..., Run]:
    def recipe(config: Source = None, /, *, datasets: Mapping[str, Any] | None = None, **overrides: Any) -> Run:
        return run_recipe(name, config, overrides, datasets=datasets)

    recipe.__name__ = recipe.__qualname__ = name
    recipe.__doc__ = (
        f"{summary}\n\n"
        "`config` is a YAML file or a mapping, keyword arguments are settings by their name where it is unique\n"
        "(`learning_rate=3e-4`) or sections as mappings (`lora={'r': 8}`), and `datasets` maps train, validation and\n"
        "test to a `datasets.Dataset` in place of files. Returns the finished run with `.metrics`, `.model` and\n"
        "`.output_dir`; raises ConfigError or DataError with every problem found before anything expensive.\n"
    )
    return recipe


pretrain = _function("pretrain", "Train a model from random weights.")
finetune = _function("finetune", "Tune every weight of a checkpoint.")
freeze = _function("freeze", "Tune a checkpoint whose early layers keep their weights.")
lora = _function("lora", "Train low-rank adapters beside the frozen weights of a checkpoint.")


def main(name: str, build_model: BuildModel = whole_model, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a recipe as a command: CONFIG.yaml, then `--section.key value` pairs and `--dry_run`. Ends the process.

    Exit codes: 0 finished, 2 a mistake in the configuration or the data, 143 or 130 stopped by a signal after saving.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    sys.excepthook = print_exception
    # what libraries will rename in their next version is no news for the person at the terminal
    warnings.filterwarnings("ignore", category=FutureWarning)
    given = list(sys.argv[1:] if arguments is None else arguments)
    dry_run = "--dry_run" in given or "--dry-run" in given
    given = [argument for argument in given if argument not in ("--dry_run", "--dry-run")]
    source = given.pop(0) if given and not given[0].startswith("--") else None
    code = 0
    try:
        if dry_run:
            prepared = prepare(read_config(name, source, given), build_model=build_model)
            if prepared.accelerator.is_main_process:
                print_plan(prepared)
        else:
            say(_last_words(run_recipe(name, source, given, build_model=build_model)))
    except UserError as error:
        say(f"graft {name}: {error}")
        code = USER_ERROR
    except Stopped as stopped:
        again = " ".join(["graft", name, *([source] if source else []), *given, "--checkpoint.resume auto"])
        say(f"stopped and saved; to continue: {again}")
        code = stopped.exit_code
    sys.exit(code)


def say(text: str) -> None:
    """One message for people, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(clean(masked(text), keep_lines=True), file=sys.stderr, flush=True)


def _last_words(run: Run) -> str:
    return f"{run!r}\nmodel: {run.output_dir / 'model'}   numbers: {run.output_dir / 'results.json'}"
