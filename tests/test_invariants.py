"""Numbers that may not move: how a batch is cut, how many processes there are, where a run was stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.api import read_config, run_recipe
from pipeline.data.batching import micro_batches, plan
from pipeline.stopping import Stopped
from tests import launched
from tests.faults import stop_after
from tests.synthetic import MATRIX, RECIPE_OF, VARIANTS, checkpoint_for, data_of, settings


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (checkpoint,) = [path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-")][-1:]
    return load_file(checkpoint / "model.safetensors")


def worst_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_plan_is_a_permutation_and_a_pure_function(strategy: Any) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 103)
    batches = plan(lengths, seed=3, epoch=2, train_batch_size=10, strategy=strategy)
    again = plan(lengths, seed=3, epoch=2, train_batch_size=10, strategy=strategy)
    other = plan(lengths, seed=3, epoch=3, train_batch_size=10, strategy=strategy)
    assert sorted(np.concatenate(batches)) == list(range(103)) and len(batches) == 11
    assert all((one == two).all() for one, two in zip(batches, again, strict=True))
    assert any(len(one) != len(two) or (one != two).any() for one, two in zip(batches, other, strict=True))


def test_every_process_does_as_many_micro_batches_and_no_row_counts_twice() -> None:
    lengths = np.arange(100)
    for rows in range(1, 30):
        for world_size in (1, 2, 3, 4):
            for micro in (1, 2, 5, 8):
                shares = micro_batches(np.arange(rows), lengths, world_size=world_size, micro_batch_size=micro)
                counted = [row for share in shares for part in share if part.counts for row in part.rows]
                assert sorted(counted) == list(range(rows))
                assert len({len(share) for share in shares}) == 1
                assert max(len(part.rows) for share in shares for part in share) <= micro


@pytest.mark.parametrize("variant", VARIANTS)
def test_how_a_batch_is_cut_does_not_change_the_update(variant: str, tmp_path: Path) -> None:
    """1x8 = 2x4 = 7+1 on ragged rows; the usual mean of means moves the gradient by more than half."""
    checkpoint = checkpoint_for(variant, tmp_path / "start")
    found = {}
    for micro in (8, 4, 7, 1):
        given = settings(variant, None, checkpoint, tmp_path / str(micro), max_steps=1, micro_batch_size=micro)
        given |= {"name": "sgd", "momentum": 0.0, "max_grad_norm": 0, "learning_rate": 1.0}
        run_recipe("finetune", given, datasets=data_of(read_config("finetune", given)))
        found[micro] = weights(tmp_path / str(micro))
    start = load_file(checkpoint / "model.safetensors")
    assert any(not torch.equal(found[8][key], start[key]) for key in found[8] if key in start)
    for micro in (4, 7, 1):
        assert worst_difference(found[8], found[micro]) < 2e-6


def folder_hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def train_lines(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.promise(1, "tasks x strategies stopped twice and resumed bitwise, one process")
@pytest.mark.parametrize(("variant", "strategy"), MATRIX)
def test_stopped_and_resumed_is_straight(variant: str, strategy: str | None, tmp_path: Path) -> None:
    """With dropout and accumulation, over the edge of an epoch: equal by the hash of the checkpoint folder."""
    checkpoint = checkpoint_for(variant, tmp_path / "start")
    name = RECIPE_OF[strategy]
    more = {"max_steps": 9, "micro_batch_size": 3, "eval_steps": 4, "dropout": 0.1, "logging_steps": 2}
    given = settings(variant, strategy, checkpoint, tmp_path / "straight", **more)
    data = data_of(read_config(name, given))
    run_recipe(name, given, datasets=data)
    given["output_dir"] = str(tmp_path / "stopped")
    for stop in (2, 6):
        with stop_after(stop), pytest.raises(Stopped) as stopped:
            run_recipe(name, given, datasets=data)
        assert stopped.value.saved_step == stop + 1
    run_recipe(name, given, datasets=data)
    one, other = tmp_path / "straight", tmp_path / "stopped"
    assert folder_hash(one / "checkpoints" / "step-000009") == folder_hash(other / "checkpoints" / "step-000009")
    assert folder_hash(one / "model") == folder_hash(other / "model")
    assert train_lines(one) == train_lines(other)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert results[0] == results[1]


RAGGED: dict[str, dict[str, Any]] = {
    "text_classification": {},
    "embedding": {},
    "causal_lm chat": {"packing": "best_fit", "max_length": 128},
}


@pytest.fixture(scope="module")
def on_one_and_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs in this process, and in one launch of two."""
    folder = tmp_path_factory.mktemp("ragged")
    more = {"max_steps": 4, "train_batch_size": 7, "eval_steps": 2, "name": "sgd", "learning_rate": 0.1}
    jobs = []
    for variant, own in RAGGED.items():
        start = checkpoint_for(variant, folder / "starts" / variant)
        if "max_length" in own:
            config = json.loads((start / "config.json").read_text()) | {"max_position_embeddings": own["max_length"]}
            (start / "config.json").write_text(json.dumps(config))
        given = settings(variant, None, start, folder / "1" / variant, **more)
        given["data"] |= own
        run_recipe("finetune", given, datasets=data_of(read_config("finetune", given)))
        jobs.append({"recipe": "finetune", "given": {**given, "output_dir": str(folder / "2" / variant)}, "stop": None})
    launched.many(folder / "launch", jobs, 2)
    return folder


@pytest.mark.parametrize("variant", RAGGED)
def test_two_processes_are_one(variant: str, on_one_and_two: Path) -> None:
    """Real processes over gloo: the same step, the same metrics over 13 rows that do not divide by two."""
    runs = {processes: on_one_and_two / str(processes) / variant for processes in (1, 2)}
    for processes, folder in runs.items():
        assert json.loads((folder / "manifest.json").read_text())["world_size"] == processes
        train = json.loads((folder / "data.json").read_text())["train"]
        assert (train["features"] < train["rows"]) == ("packing" in RAGGED[variant])
    assert worst_difference(weights(runs[1]), weights(runs[2])) < 1e-6
    for one, two in zip(train_lines(runs[1]), train_lines(runs[2]), strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert two[key] == (pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value)
