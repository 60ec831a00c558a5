"""Find a metric by name, file, hub id or dotted name."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluate

from pipeline.config import resolve
from pipeline.errors import ConfigError
from pipeline.reach import why_offline

logger = logging.getLogger(__name__)
HUB = "hub:"


def load(name: str, registry: Mapping[str, type[Any]], settings: Mapping[str, Any]) -> evaluate.Metric:
    """See `pipeline.metrics.load_metric`."""
    settings = {"keep_in_memory": True, **settings}
    if name.startswith(HUB):
        return from_hub(name.removeprefix(HUB), settings)
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


def from_hub(name: str, settings: Mapping[str, Any]) -> evaluate.Metric:
    """`evaluate.load`, which finds what the cache holds when the hub cannot be reached."""
    logger.warning("metric %s%s runs Python code of the hub repository %s", HUB, name, name)
    before = evaluate.config.HF_EVALUATE_OFFLINE
    offline = "offline mode" if before else why_offline()
    # evaluate does not look at HF_HUB_OFFLINE and would try the network for seconds.
    evaluate.config.HF_EVALUATE_OFFLINE = bool(offline)
    # Or it tells a counter at s3.amazonaws.com the name of the metric, of a private one on a hub of your own too.
    evaluate.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        return evaluate.load(name, **settings)
    except (ImportError, OSError) as error:
        reason = f"the hub has no such metric, or it needs a missing package ({error})"
        if offline == "offline mode":
            reason = "offline mode is on and it is not in the cache; unset HF_HUB_OFFLINE and HF_EVALUATE_OFFLINE"
            reason += " to fetch it"
        elif offline:
            reason = "the hub is not reached and it is not in the cache; fetch it once with network access"
        raise ConfigError(f"metric: cannot load {HUB}{name}: {reason}") from error
    finally:
        evaluate.config.HF_EVALUATE_OFFLINE = before
