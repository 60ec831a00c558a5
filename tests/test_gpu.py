"""What only a GPU has: its precisions, its memory. The other tests run there too, where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.api import read_config, run_recipe
from pipeline.run import Run
from pipeline.stopping import Stopped
from pipeline.tasks import TASKS
from tests.faults import stop_after
from tests.synthetic import checkpoint_for, data_of, settings
from tests.test_invariants import folder_hash

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")


def run(task: str, start: Path, folder: Path, *, rows: int = 40, **more: Any) -> Run:
    given = settings(task, None, start, folder, **more)
    return run_recipe("finetune", given, datasets=data_of(read_config("finetune", given), rows))


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns_in_half_precision(task: str, precision: str, tmp_path: Path) -> None:
    start = checkpoint_for(task, tmp_path / "start")
    done = run(task, start, tmp_path / "run", max_steps=12, mixed_precision=precision)
    losses = [event["loss"] for event in events(tmp_path / "run", "train")]
    assert losses[-1] < losses[0] and done.results["skipped_steps"] == []
    assert next(done.model.parameters()).is_cuda
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["mixed_precision"] == precision and manifest["device"] == torch.cuda.get_device_name()
    assert manifest["cost"]["peak_memory_bytes"] > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_resumed_bit_for_bit(precision: str, tmp_path: Path) -> None:
    """With dropout and, in fp16, the scale of the loss, which is part of the state."""
    start = checkpoint_for("causal_lm", tmp_path / "start")
    more: dict[str, Any] = {"max_steps": 8, "mixed_precision": precision, "dropout": 0.1, "micro_batch_size": 3}
    run("causal_lm", start, tmp_path / "straight", **more)
    for stop in (1, 4, None):
        with stop_after(stop):
            try:
                run("causal_lm", start, tmp_path / "stopped", **more)
                assert stop is None
            except Stopped:
                assert stop is not None
    one, other = (folder_hash(tmp_path / name / "model") for name in ("straight", "stopped"))
    assert one == other


def test_a_batch_that_does_not_fit_is_cut_and_trains_the_same(tmp_path: Path) -> None:
    """Memory really runs out: the process may take a small share of the GPU."""
    start = checkpoint_for("masked_lm", tmp_path / "start")
    more: dict[str, Any] = {"max_steps": 3, "train_batch_size": 1024}
    expected = run("masked_lm", start, tmp_path / "small", rows=1024, micro_batch_size=128, **more)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_allocated() + 160 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = run("masked_lm", start, tmp_path / "run", rows=1024, **more)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    sizes = [event["micro_batch_size"] for event in events(tmp_path / "run", "out_of_memory")]
    assert sizes and sizes == [512 // 2**number for number in range(len(sizes))]
    assert found.metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-4)


def test_the_memory_of_an_evaluation_does_not_grow_with_its_rows(tmp_path: Path) -> None:
    start = checkpoint_for("causal_lm prompted", tmp_path / "start")
    peaks = []
    for rows in (64, 1280):
        given = settings("causal_lm prompted", None, start, tmp_path / str(rows), max_steps=0, eval_batch_size=32)
        same = data_of(read_config("finetune", given))["train"].select([0] * rows)  # one length, so one padding
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_recipe("finetune", given, datasets={"train": same, "validation": same})
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 1.05 * peaks[0], peaks
