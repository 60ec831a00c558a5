"""What an output folder holds already, and whether this run may go on from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import checkpoint
from pipeline.errors import ConfigError
from pipeline.output import OF_A_RUN, is_foreign, is_ours
from pipeline.settings import make_task

logger = logging.getLogger("graft")

MAY_CHANGE = {
    "": {"output_dir", "checkpoint", "eval", "tracking", "guard", "hub"},
    "train": {
        *("num_train_epochs", "max_steps", "micro_batch_size", "logging_steps", "gradient_checkpointing"),
        *("fsdp", "dataloader_num_workers", "ddp_timeout"),
    },
    # where rows come from does not matter as long as they are the same: their fingerprint is compared
    "data": {
        *("train_file", "validation_file", "test_file", "dataset_name", "dataset_config", "dataset_revision"),
        *("dataset_train_split", "dataset_validation_split", "dataset_test_split", "delimiter", "encoding"),
        *("cache_dir", "max_eval_samples", "max_train_samples", "preprocessing_num_workers", "allow_overlap"),
    },
}
"""Settings a resumed run may have otherwise; every other one would make it another run. Of the task's own, those that
stand in its `settings_of_scores` and `settings_of_outputs` may change too."""


def identity(
    config: Any, fingerprints: Mapping[str, str], mixed_precision: str, start_weights: str | None
) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued, as `section.key` -> value.

    `mixed_precision`: the one in use, which `auto` leaves to the machine; `start_weights`: hash of the weights that a
    resumed run still compares with.
    """
    found: dict[str, Any] = {"training rows": fingerprints["train"]}
    task = make_task(config)
    may_change = {**MAY_CHANGE, "task": {*task.settings_of_scores, *task.settings_of_outputs}}
    for section, settings in config.model_dump(mode="json").items():
        if section in MAY_CHANGE[""]:
            continue
        if not isinstance(settings, dict):
            found[section] = settings
            continue
        free = may_change.get(section, set())
        found.update({f"{section}.{key}": value for key, value in settings.items() if key not in free})
    found["train.mixed_precision"] = mixed_precision
    if start_weights is not None:
        found["weights of the start model"] = start_weights
    if config.data.sources:
        found["data.sources"] = [source.weight for source in config.data.sources]
    return found


def find_start(folder: Path, config: Any) -> Path | None:
    """The checkpoint to continue from; None for a new run.

    `auto` takes the newest checkpoint that verifies and says which newer ones it left out; a named one is taken or
    refused, never replaced by another. Raises ConfigError when there are checkpoints and none is good.
    """
    wanted = config.checkpoint.resume
    if wanted == "never":
        return None
    if wanted != "auto":
        path = Path(wanted)
        if not path.is_dir():
            raise ConfigError(
                f"checkpoint.resume: {wanted} is no folder; expected auto, never, or a checkpoint such as "
                f"{folder}/checkpoints/step-000100"
            )
        return path
    good, refused = checkpoint.newest_good(folder / "checkpoints")
    if refused and good is None:
        raise ConfigError([*refused, f"{folder}: no checkpoint is good; start again with --checkpoint.resume never"])
    for problem in refused:
        logger.warning("%s; continuing from %s instead", problem, good)
    return good


def move_aside(folder: Path) -> Path | None:
    """Put what an earlier run left in the folder beside it, so that a new start deletes nothing."""
    folder = folder.resolve()
    left = [path for path in folder.iterdir() if not is_ours(path)]
    if not left:
        return None
    if is_foreign(left):
        raise ConfigError(f"output_dir: {folder.name} holds files that are no run of graft; choose another folder")
    number = 1
    while (aside := folder.with_name(f"{folder.name}.earlier-{number}")).exists():
        number += 1
    aside.mkdir()
    for path in sorted(left, key=lambda path: path.name in OF_A_RUN):  # last what says that the rest is a run's
        path.rename(aside / path.name)
    return aside


def refuse_other_run(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError listing every setting in which the checkpoint's run differs from this one."""
    keys = sorted(key for key in {*saved, *now} if saved.get(key) != now.get(key))
    if keys:
        raise ConfigError(
            [
                *(f"{key}: {json.dumps(saved.get(key))} there, {json.dumps(now.get(key))} now" for key in keys),
                f"{path}: belongs to a run with other settings; choose another output_dir, or start again with "
                "--checkpoint.resume never (the earlier run is moved aside)",
            ]
        )
