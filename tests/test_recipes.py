"""Every recipe and every YAML in recipes/configs/ runs, on tiny random models and synthetic rows."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from pipeline.api import RECIPES, read_config, run_recipe
from pipeline.prepare import prepare, whole_model
from pipeline.tasks import TASKS
from tests.synthetic import ARCHITECTURES, data_of
from tests.tiny import ENCODERS, tiny_checkpoint, tiny_config, tiny_tokenizer

CONFIGS = sorted((Path(__file__).parents[1] / "recipes" / "configs").glob("*.yaml"))


def recipe_of(path: Path) -> str:
    """The command in the file's header says which recipe it is for."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("#   graft ")]
    return line.split()[2]


def test_there_are_configs_for_every_recipe() -> None:
    assert len(CONFIGS) >= 7 and {recipe_of(path) for path in CONFIGS} == set(RECIPES) - {"train"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs(path: Path, tmp_path: Path) -> None:
    name = recipe_of(path)
    config = read_config(name, path)
    task = TASKS[config.task.name]
    kind = ARCHITECTURES[task.model_class]
    small: dict[str, object] = {"max_steps": 2, "eval_steps": 1, "train_batch_size": 8}
    small |= {"output_dir": str(tmp_path / "run"), "train_file": None, "validation_file": None}
    small |= {"dataset_name": None, "dataset_validation_split": None, "validation_split_fraction": None}
    if task.modality == "text":
        small["max_length"] = 48
    if name == "pretrain":
        small["model.config"] = tiny_config(kind)
        if task.modality == "text":
            small["tokenizer_name_or_path"] = str(tiny_tokenizer(tmp_path / "start", style="decoder"))
    else:
        start = "AutoModelForMaskedLM" if kind in ENCODERS else task.model_class
        small["model_name_or_path"] = str(tiny_checkpoint(tmp_path / "start", kind, start))
    if name == "freeze":
        small["freeze.num_layers"] = 1
    run = run_recipe(name, path, small, datasets=data_of(config))
    assert run.results["steps"] == 2 and run.metrics


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_module_builds_the_model_of_the_library(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"recipes.{name}")
    assert len(Path(module.__file__ or "").read_text().splitlines()) <= 40
    given = {"task": "text_classification", "max_length": 32, "output_dir": str(tmp_path / "run")}
    if name == "pretrain":
        tokenizer = str(tiny_tokenizer(tmp_path / "start"))
        given |= {"model": {"config": tiny_config("bert"), "tokenizer_name_or_path": tokenizer}}
    else:
        checkpoint = str(tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM"))
        given |= {"model": {"model_name_or_path": checkpoint}}
    if name == "freeze":
        given["freeze"] = {"num_layers": 1}
    config = read_config(name, given)
    ours = prepare(config, build_model=module.build_model, datasets=data_of(config)).model.state_dict()
    library = prepare(config, build_model=whole_model, datasets=data_of(config)).model.state_dict()
    assert ours.keys() == library.keys() and all(torch.equal(ours[key], library[key]) for key in ours)
