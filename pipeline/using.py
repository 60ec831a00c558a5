"""The commands that use a trained model. What they import takes seconds, so each waits until it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pipeline.command_line import ANYWHERE, DryRun, Origin, Rest, Saved, refuse_misspelt
from pipeline.errors import ConfigError


def predict(
    model: Saved,
    *overrides: Rest,
    file: Annotated[list[str], Parameter(help="Rows, as data.train_file takes them; once or more.")],
    out: Annotated[Path, Parameter(help="File to write, one line of JSON per row; it must be new.")],
    config: Annotated[Path | None, Parameter(help="A configuration in place of the run's.")] = None,
    origin: Origin = ANYWHERE,
    dry_run: DryRun = False,
) -> None:
    """Let a trained model label rows, or answer them.

    graft predict runs/mine --file new.jsonl --out labels.jsonl

    Columns with labels need not be there. A setting may follow, such as --eval_batch_size 64 or
    --task.generate.max_new_tokens 200. After a stop the same command goes on where it was.
    """
    from pipeline.commands import predict_command

    refuse_misspelt(overrides)
    predict_command(model, file, out, config, origin, overrides, dry_run=dry_run)


def evaluate(
    run_dir: Annotated[
        str | None, Parameter(help="A run folder, scored by its own config.yaml.", allow_leading_hyphen=True)
    ] = None,
    *overrides: Rest,
    model: Annotated[str | None, Parameter(help="In its place: a model folder, or a model on the hub.")] = None,
    config: Annotated[Path | None, Parameter(help="The rows, and how they are scored; unset: the run's own.")] = None,
    output_dir: Annotated[Path | None, Parameter(help="Folder for evaluation.json; unset: it is only printed.")] = None,
    origin: Origin = ANYWHERE,
    dry_run: DryRun = False,
) -> None:
    """Score a saved model on validation and test rows.

    graft evaluate runs/mine

    graft evaluate --model someone/model --config my.yaml --bootstrap 1000

    Nothing is trained or chosen: labels and thresholds are the model's.
    """
    from pipeline.commands import evaluate_command

    rest = overrides if run_dir is None or not run_dir.startswith("--") else (run_dir, *overrides)
    named = [name for name in (run_dir, model) if name is not None and not name.startswith("--")]
    if len(named) != 1:
        raise ConfigError("evaluate: name one model, a run folder or --model: graft evaluate runs/mine")
    refuse_misspelt(rest)
    evaluate_command(named[0], config, output_dir, origin, rest, dry_run=dry_run)


def merge(
    source: Saved,
    *,
    out: Annotated[Path, Parameter(help="Folder of the merged model; it must be new.")],
    config: Annotated[Path | None, Parameter(help="Of an adapter that does not say its task: one that does.")] = None,
    origin: Origin = ANYWHERE,
    dry_run: DryRun = False,
) -> None:
    """Add adapters into their base: a plain model.

    graft merge runs/lora --out models/merged

    Adapters of a LoRA run, or of PEFT alone. Merged and unmerged model are compared, on rows of the run where there are
    any; the largest difference is said.
    """
    from pipeline.commands import merge_command

    merge_command(source, out, config, origin, dry_run=dry_run)
