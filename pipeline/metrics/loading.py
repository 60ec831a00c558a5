"""Find a metric by name, file, hub id or dotted name."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluate
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from pipeline.config import resolve
from pipeline.errors import ConfigError
from pipeline.hub_names import COMMIT, HUB_METRIC, metric_on_hub
from pipeline.reach import resolve as resolve_commit

logger = logging.getLogger(__name__)


def load(name: str, registry: Mapping[str, type[Any]], settings: Mapping[str, Any]) -> evaluate.Metric:
    """See `pipeline.metrics.load_metric`."""
    settings = {"keep_in_memory": True, **settings}
    if name.startswith(HUB_METRIC):
        return from_hub(name, settings)
    if name.endswith(".py") or "/" in name or os.sep in name:
        return from_path(Path(name).expanduser(), settings)
    return resolve(registry, name, what="metric")(**settings)


def from_path(path: Path, settings: Mapping[str, Any]) -> evaluate.Metric:
    """The one `evaluate.Metric` class a file defines; a folder is left to `evaluate.load`."""
    if path.is_dir() and (path / f"{path.resolve().name}.py").is_file():
        return evaluate.load(str(path.resolve()), **settings)
    if not path.is_file():
        raise ConfigError(f"metric: no metric at {path}: expected a .py file, or a folder x with x.py in it")
    spec = importlib.util.spec_from_file_location(f"graft_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"metric: {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, evaluate.Metric) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        names = ", ".join(value.__name__ for value in found) or "none"
        raise ConfigError(f"metric: {path} must define one class that extends evaluate.Metric; found: {names}")
    return found[0](**settings)


def from_hub(metric: str, settings: Mapping[str, Any]) -> evaluate.Metric:
    """The metric of a space of the hub, from the cache when the hub cannot be reached; `hub:user/name@revision`.

    It is fetched by the hub's own client, with the user's token and by commit, which `evaluate.load` of a name is not.
    """
    name, revision = metric_on_hub(metric)
    logger.warning("metric %s runs Python code of the hub repository %s", metric, name)
    if not COMMIT.fullmatch(revision or ""):
        revision = resolve_commit(name, revision, what="metric", kind="space", revision_key="metric")
    try:
        folder = Path(snapshot_download(name, repo_type="space", revision=revision, allow_patterns="*.py"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ConfigError(f"metric: {metric} cannot be read from the hub: {str(error).splitlines()[0]}") from error
    file = folder / f"{name.rpartition('/')[2]}.py"
    if not file.is_file():
        raise ConfigError(f"metric: {metric} is a space of the hub without {file.name}, so it is no metric")
    try:
        return evaluate.load(str(file), **settings)
    except ImportError as error:
        raise ConfigError(f"metric: {metric} needs a package that is not installed ({error})") from error
