"""Two processes, sharded or not, for every task with every strategy: bitwise resume, and 1 -> 2 -> 1 processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.api import read_config, run_recipe
from pipeline.sharding import SHARDED_OPTIMIZERS
from pipeline.stopping import Stopped
from pipeline.tasks import TASKS
from tests import launched
from tests.faults import stop_after
from tests.synthetic import MATRIX, RECIPE_OF, SHORT_MATRIX, VARIANTS, checkpoint_for, data_of, settings
from tests.test_invariants import folder_hash, train_lines

TASKS_WITH_STRATEGIES = [(variant, strategy) for variant, strategy in MATRIX if variant in TASKS]
BITWISE = {"max_steps": 6, "micro_batch_size": 2, "eval_steps": 4, "dropout": 0.1, "dataloader_num_workers": 2}
ELASTIC = {"max_steps": 6, "eval_steps": 2, "train_batch_size": 7}
STOPS: dict[str, tuple[int | None, ...]] = {"straight": (None,), "stopped": (1, 3, None)}
HOW = {"copies": False, "shares": True}
"""Whether every process holds the whole model or a share (train.fsdp)."""


def name_of(variant: str, strategy: str | None, *more: str) -> str:
    return "-".join([variant.replace(" ", "_"), strategy or "full", *more])


def changing(variant: str) -> dict[str, Any]:
    """Settings of the runs that change their number of processes; weights in shares write no text."""
    task = {"task": {"name": "seq2seq", "generate": False}} if variant == "seq2seq" else {}
    return {**ELASTIC, **task}


def alone(recipe: str, given: dict[str, Any], stop: int | None) -> None:
    """A run, or a part of one, in this process."""
    with stop_after(stop):
        try:
            run_recipe(recipe, given, datasets=data_of(read_config(recipe, given)))
        except Stopped as stopped:
            assert stop is not None and stopped.saved_step == stop + 1


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("starts")
    return {variant: checkpoint_for(variant, folder / str(number)) for number, variant in enumerate(VARIANTS)}


@pytest.fixture(scope="module")
def two(starts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes do, in one launch: bitwise pairs, and the middle parts of elastic runs."""
    folder = tmp_path_factory.mktemp("two")
    jobs = []

    def job(kind: str, variant: str, strategy: str | None, stop: int | None, **more: Any) -> None:
        output = folder / kind / name_of(variant, strategy)
        given = settings(variant, strategy, starts[variant], output, **more)
        jobs.append({"recipe": RECIPE_OF[strategy], "given": given, "stop": stop})

    for variant, strategy in TASKS_WITH_STRATEGIES:
        for how, fsdp in HOW.items():
            for kind, stops in STOPS.items():
                if not fsdp:
                    for stop in stops:
                        job(f"{how}-{kind}", variant, strategy, stop, **BITWISE)
            if (variant, strategy) not in SHORT_MATRIX:
                continue
            first = folder / f"{how}-elastic" / name_of(variant, strategy)
            alone(RECIPE_OF[strategy], settings(variant, strategy, starts[variant], first, **changing(variant)), 1)
            job(f"{how}-elastic", variant, strategy, 3, fsdp=fsdp, **changing(variant))
    for optimizer in SHARDED_OPTIMIZERS:
        for how, fsdp in HOW.items():
            output = folder / "optimizers" / f"{optimizer}-{how}"
            given = settings("causal_lm", None, starts["causal_lm"], output, name=optimizer, fsdp=fsdp)
            jobs.append({"recipe": "finetune", "given": given, "stop": None})
    output = folder / "bf16"
    given = settings("causal_lm", None, starts["causal_lm"], output, **{"mixed_precision": "bf16"}, fsdp=True)
    jobs.append({"recipe": "finetune", "given": given, "stop": None})
    launched.many(folder / "launch", jobs, 2)
    return folder


@pytest.mark.promise(1, "tasks x strategies stopped twice and resumed bitwise, two processes")
@pytest.mark.parametrize(("variant", "strategy"), TASKS_WITH_STRATEGIES)
def test_two_processes_stopped_and_resumed_are_straight(variant: str, strategy: str | None, two: Path) -> None:
    one, other = (two / f"copies-{kind}" / name_of(variant, strategy) for kind in ("straight", "stopped"))
    assert folder_hash(one / "checkpoints" / "step-000006") == folder_hash(other / "checkpoints" / "step-000006")
    assert folder_hash(one / "model") == folder_hash(other / "model")
    assert train_lines(one) == train_lines(other)
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()


@pytest.mark.promise(9, "tasks x strategies x copies and shares on 1, 2, 1 processes with the same rows and losses")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("variant", "strategy"), SHORT_MATRIX)
def test_one_two_one_processes_see_the_same_rows_and_losses(
    how: str, variant: str, strategy: str | None, two: Path, starts: dict[str, Path], tmp_path: Path
) -> None:
    """Tokens counted up to each step are equal, so the same rows met; losses are equal to 1e-6 of a few units."""
    straight, elastic = tmp_path / "straight", two / f"{how}-elastic" / name_of(variant, strategy)
    shards = list((elastic / "checkpoints" / "step-000004").glob("model-*"))
    assert len(shards) == (2 if how == "shares" else 0)
    for output in (straight, elastic):
        alone(RECIPE_OF[strategy], settings(variant, strategy, starts[variant], output, **changing(variant)), None)
    lines = [train_lines(straight), train_lines(elastic)]
    assert len(lines[0]) == len(lines[1]) == 6 + 3
    for one, other in zip(*lines, strict=True):
        assert one["event"] == other["event"] and one["step"] == other["step"]
        assert one.keys() == other.keys() and one.get("tokens") == other.get("tokens")
        assert other["loss"] == pytest.approx(one["loss"], abs=2e-6, rel=1e-6)
        for key, value in one.items():  # metrics over 13 rows, which do not divide by two
            assert other[key] == (pytest.approx(value, rel=1e-3, abs=1e-3) if isinstance(value, float) else value)


@pytest.mark.promise(9, "optimizers that do the same on shares")
@pytest.mark.parametrize("optimizer", SHARDED_OPTIMIZERS)
def test_every_optimizer_does_the_same_with_shares(optimizer: str, two: Path) -> None:
    one, other = (train_lines(two / "optimizers" / f"{optimizer}-{how}") for how in HOW)
    assert len(one) >= 3
    for copies, shares in zip(one, other, strict=True):
        assert shares["loss"] == pytest.approx(copies["loss"], abs=2e-6, rel=1e-6)


def test_shares_in_mixed_precision_are_saved_as_they_were_trained(two: Path) -> None:
    """The check after saving compares in full precision; it refused every such run once."""
    assert (two / "bf16" / "results.json").exists()


def test_a_share_that_is_missing_is_refused_by_name(two: Path, tmp_path: Path) -> None:
    from pipeline import checkpoint

    source = two / "shares-elastic" / name_of(*SHORT_MATRIX[0]) / "checkpoints" / "step-000004"
    shutil.copytree(source, tmp_path / "step-000004")
    (tmp_path / "step-000004" / "optimizer-00002-of-00002.safetensors").unlink()
    (problem,) = checkpoint.problems(tmp_path / "step-000004")
    assert "optimizer-00002-of-00002.safetensors: is missing" in problem
