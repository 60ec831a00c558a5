"""Every task with every strategy: it trains, only what should move moves, and the saved model loads as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.api import read_config, run_recipe
from pipeline.models import INITS
from pipeline.optim import OPTIMIZERS, SCHEDULES
from pipeline.prepare import prepare
from pipeline.strategies import STRATEGIES
from pipeline.tasks import TASKS
from tests.synthetic import MATRIX, RECIPE_OF, VARIANTS, checkpoint_for, data_of, settings
from tests.tiny import tiny_config, tiny_tokenizer


def test_the_matrix_is_whole() -> None:
    assert {variant.split()[0] for variant, _ in MATRIX} == set(TASKS)
    assert len(MATRIX) == len(VARIANTS) + len(TASKS) * len(STRATEGIES) >= 30


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {variant: checkpoint_for(variant, folder / str(number)) for number, variant in enumerate(VARIANTS)}


@pytest.mark.parametrize(("variant", "strategy"), MATRIX)
def test_task_with_strategy(variant: str, strategy: str | None, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    name = RECIPE_OF[strategy]
    given = settings(variant, strategy, checkpoints[variant], tmp_path / "run", max_steps=12)
    config = read_config(name, given)
    data = data_of(config)
    before = {key: value.clone() for key, value in prepare(config, datasets=data).model.named_parameters()}
    run = run_recipe(name, given, datasets=data)

    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [event["loss"] for event in losses if event["event"] == "train"]
    assert len(trained) == 12 and trained[-1] < trained[0]
    assert run.metrics["loss"] > 0 and len(run.metrics) >= 2
    after = dict(run.model.cpu().named_parameters())
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    parameters = run.results["parameters"]
    assert sum(before[key].numel() for key in moved) <= parameters["trainable"] <= parameters["total"]
    assert moved
    if strategy:
        assert parameters["trainable"] < parameters["total"] and len(moved) < len(before)
    assert {"config.yaml", "manifest.json", "results.json", "model", "curves.png", "README.md"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    assert not list((tmp_path / "run").rglob("*.bin")) and not list((tmp_path / "run").rglob("*.p*kl"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(optimizer: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    rate = {"sgd": 0.1, "adagrad": 0.03}.get(optimizer, 5e-3)
    given = settings("causal_lm", None, checkpoints["causal_lm"], tmp_path / "run", max_steps=20, name=optimizer)
    given["learning_rate"] = rate
    data = data_of(read_config("finetune", given))
    start = run_recipe("finetune", {**given, "max_steps": 0, "output_dir": str(tmp_path / "start")}, datasets=data)
    run = run_recipe("finetune", given, datasets=data)
    assert run.metrics["loss"] < start.metrics["loss"] - 0.05


def test_number_of_optimizers_schedules_and_inits() -> None:
    assert len(OPTIMIZERS) >= 5 and len(SCHEDULES) >= 3 and len(INITS) == 8


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("depth_scaled", [False, True])
def test_every_init_trains_from_scratch(init: str, depth_scaled: bool, tmp_path: Path) -> None:
    given = {
        "task": "causal_lm",
        "model": {
            "config": tiny_config("llama"),
            "tokenizer_name_or_path": str(tiny_tokenizer(tmp_path / "tokenizer", style="decoder")),
            "init": init,
            "depth_scaled": depth_scaled,
        },
        "data": {"max_length": 32},
        **{"max_steps": 10, "train_batch_size": 8, "learning_rate": 3e-3, "output_dir": str(tmp_path / "run")},
    }
    run = run_recipe("pretrain", given, datasets=data_of(read_config("pretrain", given)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert run.results["start"] == "random" and lines[-1]["loss"] < 12


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_reaches_the_log(schedule: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    given = settings("causal_lm", None, checkpoints["causal_lm"], tmp_path / "run", max_steps=10, warmup_steps=0.3)
    given |= {"lr_scheduler_type": schedule, "learning_rate": 1e-3}
    run_recipe("finetune", given, datasets=data_of(read_config("finetune", given)))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if line["event"] == "train"]
    assert rates[:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    expected = {"linear": 1 / 7, "cosine": 0.0495, "constant": 1.0}.get(schedule)
    assert expected is None or rates[-1] == pytest.approx(1e-3 * expected, rel=0.01)


def test_lora_saves_adapter_and_head_only(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    given = settings("text_classification", "lora", checkpoints["text_classification"], tmp_path / "run")
    run_recipe("lora", given, datasets=data_of(read_config("lora", given)))
    saved = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert any("classifier" in key for key in saved) and any("lora_A" in key for key in saved)
    assert not any("word_embeddings" in key for key in saved)
