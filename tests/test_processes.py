"""Two real processes: one dies, hangs, fails, disagrees, or runs out of memory or disk, and what all do then."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests import launched
from tests.synthetic import checkpoint_for, settings


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("start"))


def given(start: Path, folder: Path, **more: Any) -> dict[str, Any]:
    return settings("causal_lm", None, start, folder / "run", **{"max_steps": 5, "save_steps": 2, **more})


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"]


@pytest.mark.promise(10, "lost, failing or hanging processes that ended all with one block")
@pytest.mark.parametrize(
    ("fault", "block"),
    [
        ("die 1 3", "process 1 of 2 is gone (pid {n} on {w}, last seen in step 4, training {n} s ago)"),
        ("die 0 3", "process 0 of 2 is gone (pid {n} on {w}, last seen in step 4, training {n} s ago)"),
        ("fail 1 3", 'process 1 of 2 failed in step 4, training: KeyError: "a bug in somebody\'s task"'),
        ("hang 1 3", "process 1 of 2 does not answer (pid {n} on {w}, last seen in step 4, training {n} s ago)"),
        ("hang 0 3", "process 0 of 2 does not answer (pid {n} on {w}, last seen in step 4, training {n} s ago)"),
        (
            "oom_within_backward",
            "process 1 of 2 failed in step 4, training: OutOfMemory: step 4: out of memory with {n}",
        ),
    ],
)
def test_a_lost_process_ends_all_with_one_block(fault: str, block: str, start: Path, tmp_path: Path) -> None:
    """Within the launcher's 30 seconds after train.ddp_timeout (3 here); the time limit of the run says so."""
    config = given(start, tmp_path, ddp_timeout=3)
    done = launched.run(tmp_path / "launch", "finetune", config, 2, fault=fault, timeout=120)
    assert done.returncode == 1
    pattern = re.escape(f"graft: {block}").replace(r"\{n\}", r"\d+").replace(r"\{w\}", r"\S+")
    assert len(re.findall(pattern, done.stderr)) == 1, done.stderr[-4000:]
    assert len(re.findall("graft: ", done.stderr)) == 1
    assert done.stderr.count("  saved: ") == 1 and "step-000002; checkpoint.resume auto goes on" in done.stderr
    assert "to continue: graft finetune" in done.stderr
    if fault.startswith("hang"):
        assert 'tests/faults.py", line' in done.stderr and "in hang" in done.stderr  # where it hangs
    if fault.startswith("fail"):
        assert "Traceback" in done.stderr.partition("graft: ")[0]
    assert not list((tmp_path / "run" / "checkpoints").glob(".tmp-*"))
    if fault.startswith("die 1"):
        again = launched.run(tmp_path / "launch", "finetune", config, 2)
        assert again.returncode == 0 and "continuing from" in again.stderr, again.stderr[-3000:]


@pytest.mark.promise(10, "disagreements of processes that were named")
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other_rows", "process 1 sees another set of rows (their sha256) than process 0 ("),
        ("drift 1 0", "process 1 sees another model (the sum of its weights) than process 0 ("),
    ],
)
def test_processes_that_do_not_agree_are_told_so(fault: str, message: str, start: Path, tmp_path: Path) -> None:
    done = launched.run(tmp_path / "launch", "finetune", given(start, tmp_path), 2, fault=fault, timeout=120)
    assert done.returncode == 1 and done.stderr.count(f"graft finetune: {message}") == 1, done.stderr[-3000:]
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


@pytest.mark.promise(7, "steps not finite in one of two processes that both left out")
@pytest.mark.parametrize("fault", ["nan", "infinite_gradient"])
def test_what_is_not_finite_in_one_process_is_left_out_by_all(fault: str, start: Path, tmp_path: Path) -> None:
    """Two processes, of which one has the NaN, end as one process does that has it in the same step."""
    for processes, rank in ((2, 1), (1, 0)):
        folder = tmp_path / str(processes)
        config = given(start, folder, name="sgd", learning_rate=0.1)
        done = launched.run(folder / "launch", "finetune", config, processes, fault=f"{fault} {rank} 2")
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads((folder / "run" / "results.json").read_text())["skipped_steps"] == [3]
        assert "step 3/5  skipped: reason not finite" in done.stderr and "rows [" in done.stderr
    one, two = (load_file(tmp_path / str(n) / "run" / "model" / "model.safetensors") for n in (1, 2))
    assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-6


def test_out_of_memory_in_one_process_halves_the_micro_batch_of_all(start: Path, tmp_path: Path) -> None:
    """In the first step and again after a resume; the result is that of a run started with the smaller one."""
    for name, fault, more in (("fell", "out_of_memory 1 0", {}), ("chosen", "", {"micro_batch_size": 1})):
        folder = tmp_path / name
        config = given(start, folder, dropout=0.1, **more)
        done = launched.run(folder / "launch", "finetune", config, 2, fault=fault)
        assert done.returncode == 0, done.stderr[-3000:]
        if fault:
            assert "out_of_memory: micro_batch_size 2  was 4" in done.stderr
            assert "out_of_memory: micro_batch_size 1  was 2" in done.stderr
    one, two = (tmp_path / name / "run" / "model" / "model.safetensors" for name in ("fell", "chosen"))
    assert one.read_bytes() == two.read_bytes()
    assert losses(tmp_path / "fell") == losses(tmp_path / "chosen")


def test_work_of_the_main_process_may_take_longer_than_the_timeout(start: Path, tmp_path: Path) -> None:
    config = given(start, tmp_path, ddp_timeout=3, max_steps=3)
    done = launched.run(tmp_path / "launch", "finetune", config, 2, fault="slow_main")
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_share_that_cannot_be_written_publishes_nothing_and_stops_nobody(start: Path, tmp_path: Path) -> None:
    config = given(start, tmp_path, fsdp=True)
    done = launched.run(tmp_path / "launch", "finetune", config, 2, fault="full_disk")
    assert done.returncode == 0 and "disk full" in done.stderr and "(process 1)" in done.stderr, done.stderr[-3000:]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_accelerates_own_fsdp_configuration_shards(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as `accelerate launch --config_file fsdp2.yaml` sets it
    done = launched.run(tmp_path / "launch", "finetune", given(start, tmp_path), 2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((tmp_path / "run" / "checkpoints" / "step-000005").glob("model-*-of-00002.safetensors"))) == 2


def test_a_request_that_reaches_one_process_stops_all_at_the_same_step(start: Path, tmp_path: Path) -> None:
    done = launched.run(tmp_path / "launch", "finetune", given(start, tmp_path), 2, fault="stop 1 2")
    assert "stopped; saved at step 3; to continue: graft finetune" in done.stderr, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "step-000003").exists()
