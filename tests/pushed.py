"""Small runs that are pushed to the tests' hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.api import read_config, run_recipe
from tests.synthetic import checkpoint_for, data_of, settings

NAME = "owner/mine"


def given(folder: Path, **more: Any) -> dict[str, Any]:
    """A small run that is pushed."""
    checkpoint = folder / "start"
    if not checkpoint.exists():
        checkpoint_for("text_classification", checkpoint)
    hub = {"push_to_hub": True, "hub_model_id": NAME, **more}
    return settings("text_classification", None, checkpoint, folder / "run", hub=hub)


def train(folder: Path, **more: Any) -> Any:
    settings = given(folder, **more)
    return run_recipe("finetune", settings, datasets=data_of(read_config("finetune", settings)))
