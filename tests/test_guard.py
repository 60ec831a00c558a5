"""Steps that are kept from the weights: not finite, out of proportion, too large for the memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.api import read_config, run_recipe
from pipeline.errors import UserError
from pipeline.guard import GuardConfig, is_spike
from pipeline.out_of_memory import is_out_of_memory
from pipeline.run import Run
from tests import faults
from tests.synthetic import RECIPE_OF, SHORT_MATRIX, checkpoint_for, data_of, settings

Record = Any


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("start"))


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def inject(monkeypatch: pytest.MonkeyPatch, act: Any, steps: set[int] | None = None) -> None:
    """`act(training, loss)` after the backward of these steps (all without)."""
    import pipeline.step as module

    backward = module._backward

    def faulty(training: Any, *arguments: Any, **more: Any) -> float:
        loss = backward(training, *arguments, **more)
        mine = steps is None or training.state.step in steps
        return act(training, loss) if mine else loss

    monkeypatch.setattr(module, "_backward", faulty)


def run(start: Path, output: Path, **more: Any) -> Run:
    base = {"max_steps": 40, "train_batch_size": 8, "learning_rate": 3e-3, "eval_steps": 100}
    config = settings("causal_lm", None, start, output, **{**base, **more})
    return run_recipe("finetune", config, datasets=data_of(read_config("finetune", config)))


@pytest.mark.promise(7, "runs that ended after the stated number of skips")
@pytest.mark.parametrize("most", [1, 3])
def test_the_run_ends_after_the_stated_number_of_skips(
    most: int, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, faults.nan, {1, 4, 5, 6, 7})
    with pytest.raises(UserError, match=rf"the loss was nan .*not finite.*{most} steps in a row .*training rows: \d"):
        run(start, tmp_path / "run", max_skipped_steps=most)
    skipped = events(tmp_path / "run", "skipped")
    assert [event["step"] for event in skipped] == ([2] if most == 1 else [2, 5, 6, 7])
    assert all(1 <= len(event["rows"]) <= 8 and min(event["rows"]) >= 1 for event in skipped)


def poison(training: Any, loss: float) -> float:
    """A batch so wrong that its gradient would throw the weights far off."""
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.grad.mul_(1e4)
    return loss * 50


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_a_spike_does_no_harm(
    action: str, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """One poisoned batch: the final loss is within 1 % of the clean run's (5 % after going back, which gives up four
    of a hundred steps); without the guard the run is lost."""
    more = {"max_grad_norm": 0, "name": "sgd", "momentum": 0.0, "learning_rate": 0.1, "save_steps": 5, "max_steps": 100}
    guard = {"spike_sigma": 12.0, "spike_window": 32, "spike_action": action}
    clean = run(start, tmp_path / "clean", **more).metrics["loss"]
    inject(monkeypatch, poison, {23})
    try:
        harmed = run(start, tmp_path / "harmed", **more).metrics["loss"]
    except UserError as error:
        assert "not finite" in str(error)
        harmed = float("inf")
    assert harmed > 1.5 * clean
    guarded = run(start, tmp_path / "guarded", **more, **guard)
    assert guarded.metrics["loss"] == pytest.approx(clean, rel={"skip": 0.01, "rollback": 0.05}[action])
    assert [event["reason"] for event in events(tmp_path / "guarded", "skipped")] == ["spike"]
    assert guarded.results["skipped_steps"] == [24]
    back = events(tmp_path / "guarded", "rolled_back")
    assert [event["to_step"] for event in back] == ([20] if action == "rollback" else [])
    record_property("promise", (7, "spikes that did no harm", 1))


def test_a_second_spike_after_going_back_ends_the_run(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, poison, {20, 30})
    with pytest.raises(UserError, match="a second spike within guard.spike_window 16 steps .* at step 21"):
        run(start, tmp_path / "run", spike_sigma=6.0, spike_window=16, spike_action="rollback", save_steps=5)


def test_what_a_spike_is() -> None:
    config = GuardConfig(spike_sigma=3.0, spike_window=8)
    calm = [[1.0 + 0.1 * (number % 2), 2.0] for number in range(8)]
    assert not is_spike(config, calm, 1.15, 2.0) and is_spike(config, calm, 1.3, 2.0) and is_spike(config, calm, 1.0, 3)
    assert not is_spike(config, calm, 0.1, 0.1), "a good step is no spike"
    assert not is_spike(config, calm[:3], 9.0, 9.0), "too little is known"
    assert not is_spike(GuardConfig(), calm, 9.0, 9.0), "off unless asked for"


@pytest.mark.parametrize(("variant", "strategy"), SHORT_MATRIX)
def test_out_of_memory_ends_as_a_run_with_the_smaller_micro_batch(
    variant: str, strategy: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """The micro-batch halves until it fits; weights and losses are those of a run started with that size."""
    checkpoint = checkpoint_for(variant, tmp_path / "start")

    def train(name: str, **more: Any) -> Run:
        base = {"max_steps": 4, "dropout": 0.1}
        config = settings(variant, strategy, checkpoint, tmp_path / name, **{**base, **more})
        recipe = RECIPE_OF[strategy]
        return run_recipe(recipe, config, datasets=data_of(read_config(recipe, config)))

    chosen = train("chosen", micro_batch_size=2)

    def too_large(training: Any, loss: float) -> float:
        if training.micro_batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return loss

    inject(monkeypatch, too_large, {0})
    fell = train("fell")
    assert [event["micro_batch_size"] for event in events(tmp_path / "fell", "out_of_memory")] == [4, 2]
    files = [run.output_dir / "model" for run in (chosen, fell)]
    for file in files[0].glob("*.safetensors"):
        assert file.read_bytes() == (files[1] / file.name).read_bytes()
    assert [e["loss"] for e in events(tmp_path / "fell", "train")] == [
        e["loss"] for e in events(tmp_path / "chosen", "train")
    ]
    record_property("promise", (8, "tasks x strategies that ran out of memory and ended the same", 1))


def test_one_row_that_does_not_fit_is_told_with_advice(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(training: Any, loss: float) -> float:
        raise RuntimeError("CUDA error: out of memory")

    inject(monkeypatch, never)
    with pytest.raises(UserError, match="step 1: out of memory with 1 rows at once; a single row does not fit"):
        run(start, tmp_path / "run")


def test_evaluation_out_of_memory_goes_on_in_halves(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.evaluation as module

    plain = run(start, tmp_path / "plain", max_steps=2)
    forward, sizes = module._forward, []

    def limited(model: Any, task: Any, dataset: Any, rows: Any, *more: Any) -> Any:
        if len(rows) > 3:
            raise RuntimeError("CUDA error: out of memory")
        sizes.append(len(rows))
        return forward(model, task, dataset, rows, *more)

    monkeypatch.setattr(module, "_forward", limited)
    limited_run = run(start, tmp_path / "limited", max_steps=2)
    assert sizes and limited_run.metrics == pytest.approx(plain.metrics, rel=1e-6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (MemoryError(), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory of a student"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
