"""Stopped anywhere, any number of times; checkpoints that are damaged; rotation; a disk that is full."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import checkpoint
from pipeline.accelerator import make_accelerator
from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError, DataError
from pipeline.failure import RunFailed
from pipeline.processes import Processes
from pipeline.stopping import Stopped
from pipeline.tracking import RunLog
from tests import synthetic
from tests.faults import stop_after
from tests.synthetic import checkpoint_for, data_of
from tests.test_invariants import folder_hash, train_lines

Record = Any
STEPS = 8


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("masked_lm", tmp_path_factory.mktemp("start"))


def run(start: Path, output: Path, *, stop: int | None = None, strategy: str | None = "lora", **more: Any) -> None:
    """Masked language modelling with dropout and accumulation, over the edge of an epoch."""
    base = {"max_steps": STEPS, "micro_batch_size": 3, "eval_steps": 3, "dropout": 0.1, "save_steps": 2}
    config = synthetic.settings("masked_lm", strategy, start, output, **base, **more)
    with stop_after(stop):
        try:
            run_recipe("train", config, datasets=data_of(read_config("train", config), 30))
        except Stopped:
            assert stop is not None


@pytest.fixture(scope="module")
def straight(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    run(start, folder)
    return folder


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stops=st.lists(st.integers(0, STEPS - 2), min_size=1, max_size=3), workers=st.integers(0, 2))
def test_any_chain_of_stops_is_one_run(
    stops: list[int], workers: int, start: Path, straight: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("chain") / "run"
    for stop in sorted(set(stops)):
        run(start, folder, stop=stop, dataloader_num_workers=workers)
    run(start, folder, dataloader_num_workers=workers)
    last = f"step-{STEPS:06d}"
    assert folder_hash(straight / "checkpoints" / last) == folder_hash(folder / "checkpoints" / last)
    assert folder_hash(straight / "model") == folder_hash(folder / "model")
    assert train_lines(straight) == train_lines(folder)
    assert (straight / "results.json").read_bytes() == (folder / "results.json").read_bytes()


HARM = ("truncate", "flip", "delete", "swap")


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", checkpoint.MANIFEST])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_taken(
    harm: str, name: str, straight: Path, start: Path, tmp_path: Path, record_property: Record
) -> None:
    """Every file x every harm: a named checkpoint is refused, `auto` says so, falls back and ends the same."""
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    newest, before = (folder / "checkpoints" / f"step-{step:06d}" for step in (STEPS, STEPS - 2))
    file = newest / name
    content = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    elif harm == "swap":
        shutil.copy(before / name, file)
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content[: len(content) // 2] if harm == "truncate" else content)
    with pytest.raises(DataError) as refused:
        checkpoint.load(newest)
    assert newest.name in str(refused.value) and (name in str(refused.value) or harm == "swap")
    good, problems = checkpoint.newest_good(folder / "checkpoints")
    assert good == before and problems
    if name == "optimizer.safetensors":  # the whole run, once per harm: the rest is the same code
        with pytest.raises(DataError, match=name):
            run(start, folder, resume=str(newest))
        run(start, folder)
        assert (folder / "results.json").read_bytes() == (straight / "results.json").read_bytes()
        assert folder_hash(folder / "model") == folder_hash(straight / "model")
    record_property("promise", (3, "damaged files refused by name", 1))


def test_a_refused_checkpoint_has_changed_nothing(start: Path, straight: Path, tmp_path: Path) -> None:
    from pipeline.prepare import prepare
    from pipeline.session import Session
    from pipeline.stopping import StopRequest

    broken = tmp_path / f"step-{STEPS:06d}"
    shutil.copytree(straight / "checkpoints" / broken.name, broken)
    with (broken / "optimizer.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    config = read_config("train", straight / "config.yaml", {"output_dir": str(tmp_path / "run")})
    prepared = prepare(config, datasets=data_of(config, 30))
    from pipeline.heartbeat import Heartbeat

    session = Session(prepared, tmp_path / "run", StopRequest(), Heartbeat(tmp_path, 0, 1))
    before = {key: value.clone() for key, value in prepared.model.state_dict().items()}
    with pytest.raises(DataError, match="optimizer.safetensors"):
        session.keeper.restore(broken)
    assert all(torch.equal(value, before[key]) for key, value in prepared.model.state_dict().items())


def test_checkpoints_without_an_optimizer_are_no_fresh_start(start: Path, straight: Path, tmp_path: Path) -> None:
    """A manifest edited by hand so that it does not list the optimizer's file is refused."""
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    path = folder / "checkpoints" / f"step-{STEPS:06d}"
    (path / "optimizer.safetensors").unlink()
    manifest = json.loads((path / checkpoint.MANIFEST).read_text())
    del manifest["files"]["optimizer.safetensors"]
    (path / checkpoint.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="MANIFEST.json: its content has changed"):
        run(start, folder, resume=str(path))


def save(folder: Path, step: int) -> Path:
    tensors = {"model": {"weight": torch.full((3,), float(step))}, "optimizer": {}}
    return checkpoint.save(folder, step, tensors, {"step": step}, Processes(make_accelerator()))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(["save", "fail", "damage", "pin"]), min_size=1, max_size=12),
    keep=st.integers(1, 3),
    best=st.integers(0, 4),
)
def test_there_is_always_a_good_checkpoint(
    steps: list[str], keep: int, best: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After any sequence of saves, failed saves and damage to the newest: a good one, the best one, the pinned."""
    folder = tmp_path_factory.mktemp("rotation")
    pinned, good = set(), set()
    for number, what in enumerate(steps):
        if what == "fail":
            with pytest.MonkeyPatch.context() as patch, pytest.raises(checkpoint.SaveFailed, match="disk full"):
                patch.setattr(shutil, "disk_usage", lambda path: os.statvfs_result((0,) * 10) and _Usage())
                save(folder, number)
            continue
        path = save(folder, number)
        good.add(number)
        if what == "damage":
            (path / "model.safetensors").write_bytes(b"")
            good.discard(number)
        if what == "pin":
            (path / checkpoint.PINNED).touch()
            pinned.add(number)
        checkpoint.rotate(folder, keep=keep, pinned=[best])
        left = {checkpoint.step_of(found) for found in checkpoint.steps(folder)}
        assert (pinned | ({best} & set(good))) <= left
        assert not good or left & good


class _Usage:
    free = 0


def fill(disk: Path) -> None:
    """Use up the last byte."""
    try:
        with (disk / "filler").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
    except OSError:
        return


def at_step(monkeypatch: pytest.MonkeyPatch, acts: dict[int, Any]) -> None:
    advance = RunLog.advance

    def acting(self: RunLog, step: int) -> None:
        acts.get(step, lambda: None)()
        advance(self, step)

    monkeypatch.setattr(RunLog, "advance", acting)


def test_a_full_disk_keeps_training_on_the_old_checkpoint(
    start: Path,
    straight: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    """Full from step 3 to step 6: three saves fail, nothing else does, and the lines written meanwhile are not lost."""
    seen: list[str] = []

    def look() -> None:
        good, _ = checkpoint.newest_good(small_disk / "run" / "checkpoints")
        seen.append(good.name if good else "none")
        (small_disk / "filler").unlink()

    at_step(monkeypatch, {3: lambda: fill(small_disk), 7: look})
    run(start, small_disk / "run")
    said = capsys.readouterr().err
    assert seen == ["step-000002"] and said.count("not saved: reason disk full") == 3
    assert "the newest checkpoint step 2" in said
    events = [json.loads(line) for line in (small_disk / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(1, STEPS + 1))
    assert folder_hash(small_disk / "run" / "model") == folder_hash(straight / "model")
    record_property("promise", (4, "runs that went on beside a full disk", 1))


def test_a_disk_that_stays_full_ends_in_one_sentence_and_nothing_is_lost(
    start: Path, straight: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(monkeypatch, {3: lambda: fill(small_disk)})
    with pytest.raises(RunFailed, match="disk full .*\n  saved: .*step-000002; checkpoint.resume auto goes on"):
        run(start, small_disk / "run")
    monkeypatch.undo()
    (small_disk / "filler").unlink()
    run(start, small_disk / "run")
    assert folder_hash(small_disk / "run" / "model") == folder_hash(straight / "model")


def test_another_run_is_refused_with_every_difference(start: Path, straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    with pytest.raises(ConfigError) as refused:
        run(start, folder, learning_rate=5e-3, seed=7)
    assert len(refused.value.problems) == 3 and "optim.learning_rate: 0.01 there, 0.005 now" in str(refused.value)
