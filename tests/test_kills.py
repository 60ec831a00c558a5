"""SIGKILL at random moments of saves and of whole runs; and the program that does it, shown to find planted bugs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.journal import Journal
from pipeline.manifest import write_json
from pipeline.output import check_output
from pipeline.resume import move_aside

ROOT = Path(__file__).resolve().parents[1]
SAVES, RUNS = 180, 24

PLANTED = """
import json, sys
from pathlib import Path
from benchmarks.reliability import kills
work = Path(sys.argv[1])
kills.get_ready(work)
from benchmarks.reliability import saves
print(json.dumps(saves.kill_saves(12, 0, work, getattr(saves, sys.argv[2]), largest=4)))
"""


def python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def test_kill_9_costs_at_most_one_save_interval(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    out, kills = tmp_path / "kills.json", SAVES + RUNS
    given = ["--kills", str(kills), "--runs", str(RUNS), "--megabytes", "4", "--work", str(tmp_path)]
    python("-m", "benchmarks.reliability.kills", *given, "--out", str(out))
    found: dict[str, Any] = json.loads(out.read_text())
    saves, runs, calls = found["saves"], found["runs"], found["every call of a save"]
    assert (saves["kills"], runs["kills"]) == (SAVES, RUNS)
    assert (saves["unusable"], saves["acknowledged saves lost"], saves["left after the next save"]) == (0, 0, [])
    assert saves["most saves lost, with the one at work"] <= 1
    assert saves["half-written folders left by kills"] > SAVES / 5, "the kills must land within saves"
    assert len(saves["killed while"]) >= 5
    assert runs["different at the end"] == {}, runs["differences"]
    assert (runs["unusable"], runs["lost more than an interval"]) == (0, 0)
    assert runs["went on from an earlier step than the newest"] == 0
    assert runs["started again in spite of a checkpoint"] == 0
    assert runs["most steps lost"] <= max(runs["save_steps"]) and len(runs["killed while"]) >= 4
    assert calls["deaths"] >= 40 and (calls["unusable"], calls["left after the next save"]) == (0, 0)
    record_property("promise", (2, "kill -9 survived", kills + calls["deaths"]))


@pytest.mark.parametrize(("bug", "count"), [("in_place", "unusable"), ("forgetful", "acknowledged saves lost")])
def test_a_planted_bug_is_found(bug: str, count: str, tmp_path: Path) -> None:
    found = json.loads(python("-c", PLANTED, str(tmp_path), bug))
    assert found["kills"] == 12 and found[count] > 0


def test_an_earlier_run_that_was_moved_aside_in_part_is_still_known_as_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["checkpoints", "config.yaml", "manifest.json", "metrics.jsonl", "curves.png", "a", "z"]
    rename = Path.rename
    for dead_after in range(len(names)):
        folder, moved = tmp_path / str(dead_after) / "run", 0
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()

        def dying(self: Path, target: Path, last: int = dead_after) -> Path:
            nonlocal moved
            if moved == last:
                raise KeyboardInterrupt
            moved += 1
            return rename(self, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", dying)
            move_aside(folder)
        check_output(str(folder), "auto")
        move_aside(folder)
        assert not list(folder.iterdir())
        assert sorted(path.name for path in folder.parent.glob("run.earlier-*/*")) == sorted(names)


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json").write_text('{"cut o')
    write_json(tmp_path / "manifest.json", {"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_test_that_will_be_done_again_is_written_down_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    lines = [("train", 8, None), ("evaluate", 8, "validation"), ("evaluate", 8, "test")]
    for event, step, split in lines:
        journal.write({"event": event, "step": step, "split": split})
    with journal.path.open("a") as file:
        file.write('{"event": "evalu')
    journal.forget_after(8, evaluated=True)
    assert [json.loads(line)["split"] for line in journal.path.read_text().splitlines()] == [None, "validation"]
