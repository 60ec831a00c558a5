"""Names on the hub become commits, once per run and before anything is loaded: a branch may move, a run may not."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import reach
from pipeline.data import commit_in_cache, datasets_are_offline
from pipeline.errors import ConfigError
from pipeline.hub_names import COMMIT, HUB_METRIC, Asked, check_dataset_name, metric_on_hub
from pipeline.processes import Processes

logger = logging.getLogger("graft")


@dataclass(frozen=True)
class Pin:
    """What a run takes from the hub: a repository, the revision that was asked for, and the commit that it was."""

    name: str
    asked: str | None
    commit: str | None
    """None for a dataset that is read from the cache without network, when the cache does not say."""


Pins = dict[str, Pin]
"""By what it is: `model`, `tokenizer`, `dataset`, or `metric` with its name as it was asked for."""
SETTINGS = {
    "model": ("model", "model_name_or_path", "revision"),
    "config": ("model", "config", "revision"),
    "tokenizer": ("model", "tokenizer_name_or_path", "tokenizer_revision"),
    "dataset": ("data", "dataset_name", "dataset_revision"),
}
"""What it is -> section, the setting with the name, the setting with the revision."""


def pin(config: Any, processes: Processes | None = None) -> Pins:
    """Put the commit in the place of the revision of every hub name in the configuration.

    A run that goes on takes the commits it began with, and says in one line when the hub has newer ones. The main
    process asks, in at most 3 seconds for all names together; without an answer all work from the local cache.
    Raises ConfigError for all names that cannot be used.
    """
    asked = asked_of(config)
    if not asked:
        return {}

    def find() -> str:
        pins = _find(config, asked)
        return json.dumps({"offline": reach.is_offline(), "pins": {what: asdict(pin) for what, pin in pins.items()}})

    found = json.loads(processes.from_main(find) if processes else find())
    if found["offline"]:
        reach.go_offline()
    else:
        reach.answers()
    pins = {what: Pin(**pin) for what, pin in found["pins"].items()}
    for what, made in pins.items():
        if what in SETTINGS:
            section, _, revision = SETTINGS[what]
            setattr(vars(config)[section], revision, made.commit or made.asked)
    config.eval.metrics = [_at_commit(metric, pins) for metric in config.eval.metrics]
    return pins


def pin_metrics(config: Any) -> None:
    """Put the commit behind the name of every metric of the hub: what is evaluated alone takes nothing else from it."""
    names = _metrics(config)
    commits = reach.resolve_all(list(names.values()))
    pins = {what: Pin(one.name, one.revision, commits[one.key]) for what, one in names.items()}
    config.eval.metrics = [_at_commit(metric, pins) for metric in config.eval.metrics]


def _at_commit(metric: str, pins: Pins) -> str:
    pin = pins.get(f"metric {metric}")
    return metric if pin is None else f"{HUB_METRIC}{pin.name}@{pin.commit}"


def _metrics(config: Any) -> dict[str, Asked]:
    """The metrics of the hub, which are spaces there."""
    found = {}
    for metric in config.eval.metrics:
        if metric.startswith(HUB_METRIC):
            name, revision = metric_on_hub(metric)
            found[f"metric {metric}"] = Asked(f"eval.metrics: {metric}", name, revision, "space", "eval.metrics")
    return found


def asked_of(config: Any) -> dict[str, Asked]:
    """The settings that name something on the hub, or may."""
    found = {}
    for what, (section, name, revision) in SETTINGS.items():
        given = vars(vars(config)[section])
        value = given[name]
        if not isinstance(value, str) or (what == "config" and _is_file(value)):
            continue
        wanted = given[revision]
        if what == "tokenizer" and wanted is None and value == config.model.model_name_or_path:
            wanted = config.model.revision
        kind = "dataset" if what == "dataset" else "model"
        found[what] = Asked(f"{section}.{name}", value, wanted, kind, f"{section}.{revision}")
    return found | _metrics(config)


def _is_file(name: str) -> bool:
    return name.endswith(".json") or Path(name).expanduser().is_file()


def _find(config: Any, asked: Mapping[str, Asked]) -> Pins:
    kept = {
        what: before
        for what, before in earlier(config).items()
        if what in asked and (before.name, before.asked) == (asked[what].name, asked[what].revision) and before.commit
    }
    offline = "dataset" in asked and datasets_are_offline()
    names = []
    for what, one in asked.items():
        if what == "dataset" and offline:
            continue
        if what not in kept:
            names.append(one)
            continue
        names.append(Asked(one.key, one.name, kept[what].commit, one.kind, one.revision_key))
        if not COMMIT.fullmatch(one.revision or ""):  # only to say that it has moved
            names.append(Asked(f"{one.key} now", one.name, one.revision, one.kind, needed=False))
    commits = reach.resolve_all(names)
    pins = {}
    for what, one in asked.items():
        commit = kept[what].commit if what in kept else commits.get(one.key)
        if what == "dataset" and reach.is_offline() | offline:
            commit = _cached(config, one, commit)
        elif one.key not in commits:
            continue  # a local folder
        now = commits.get(f"{one.key} now", commit)
        if now != commit:
            logger.warning(
                "%s: %s of %s is at %s by now; this run goes on with %s, where it began (--checkpoint.resume never "
                "begins anew)",
                *(one.revision_key, one.revision or "main", one.name, str(now)[:12], str(commit)[:12]),
            )
        pins[what] = Pin(one.name, one.revision, commit)
    return pins


def _cached(config: Any, one: Asked, commit: str | None) -> str | None:
    """The commit of the dataset that is read without network."""
    check_dataset_name(one.name, what=one.key)
    commit = commit or commit_in_cache(config.data)
    if commit is None and one.revision is not None:
        raise ConfigError(
            f"{one.revision_key}: {one.revision!r} of {one.name} is not in the local cache, and the hub is not "
            "reached; go online once, or leave it out to read what the cache has"
        )
    return commit


def earlier(config: Any) -> Pins:
    """What the run that this one goes on from took from the hub."""
    resume = config.checkpoint.resume
    if resume == "never":
        return {}
    folder = Path(config.output_dir) if resume == "auto" else Path(resume).resolve().parent.parent
    manifest = folder / "manifest.json"
    if not manifest.is_file() or not any((folder / "checkpoints").glob("step-*")):
        return {}
    try:
        found = json.loads(manifest.read_text())["hub"]
        return {what: Pin(**before) for what, before in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError):  # whoever reads the checkpoint says what is wrong
        return {}
