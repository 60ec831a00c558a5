"""Signals to real runs in every phase: under `accelerate launch` with one and two processes, under graft, and alone.

The cases of a chain stop one and the same run again and again, each going on from where the one before has left it;
at the end the same command finishes it, and the result is that of a run nobody has disturbed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline import checkpoint
from pipeline.api import read_config, run_recipe
from pipeline.stopping import ECHO_SECONDS
from tests import launched
from tests.synthetic import checkpoint_for, data_of, settings

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 30.0
GRAFT = "import sys; from pipeline.launch import launch; sys.exit(launch(sys.argv[1], sys.argv[2:], num_processes=2))"
TERM, INT, KILL, WARNING = signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGUSR1


@dataclass(frozen=True)
class Case:
    """A signal to a run in some phase, and how the run must end."""

    phase: str
    starter: str
    """alone, accelerate, or graft."""
    processes: int
    signal: signal.Signals
    code: int | None
    """What the first process, the one that is signalled, ends with."""
    orphans: int | None = None
    """What its child ends with where the first process dies of the signal and leaves it alone."""
    group: bool = False
    """Whether the whole process group is signalled, as a terminal does."""

    @property
    def saves(self) -> bool:
        return self.phase in ("slow_training", "slow_evaluation")

    def __str__(self) -> str:
        whom = "to all of" if self.group else "to"
        return f"{self.signal.name} {whom} {self.starter} with {self.processes} in {self.phase.removeprefix('slow_')}"


CHAINS = (
    (
        Case("slow_import", "accelerate", 1, TERM, -TERM, 143),
        Case("slow_import", "accelerate", 1, KILL, -KILL, 143),
        Case("slow_tokenization", "accelerate", 1, TERM, -TERM, 143),
        Case("slow_training", "accelerate", 1, TERM, -TERM, 143),
        Case("slow_training", "accelerate", 1, KILL, -KILL, 143),
        Case("slow_training", "accelerate", 1, INT, None, 130, group=True),
        Case("slow_training", "alone", 1, WARNING, 138),
        Case("slow_save", "alone", 1, INT, 130),
        Case("slow_evaluation", "accelerate", 1, TERM, -TERM, 143),
        Case("slow_evaluation", "alone", 1, TERM, 143),
    ),
    (
        Case("slow_import", "accelerate", 2, TERM, 1),
        Case("slow_tokenization", "accelerate", 2, TERM, 1),
        Case("slow_training", "accelerate", 2, TERM, 1),
        Case("slow_training", "accelerate", 2, KILL, -KILL, 143),
        Case("slow_training", "graft", 2, TERM, 143),
        Case("slow_evaluation", "accelerate", 2, TERM, 1),
    ),
)
LAST = "and then the same command goes on to the end"


@dataclass(frozen=True)
class Place:
    """Where a chain of cases works."""

    start: Path
    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def given(self, **more: Any) -> dict[str, Any]:
        found = {"max_steps": 60, "eval_steps": 15, "eval_batch_size": 1, "packing": "none"}
        found |= {"name": "sgd", "learning_rate": 0.1, **more}
        return settings("causal_lm", None, self.start, self.run, cache_dir=str(self.folder / "cache"), **found)

    def command(self, starter: str, processes: int, **more: Any) -> list[str]:
        given, launcher = self.given(**more), starter == "accelerate"
        words = launched.command(self.folder, "finetune", given, processes, launcher=launcher)
        return [sys.executable, "-c", GRAFT, *words[-3:]] if starter == "graft" else words

    def open(self, starter: str, processes: int, fault: str, **more: Any) -> tuple[subprocess.Popen[bytes], Path]:
        """A run in a process group of its own, what it says in a file that an orphan can go on writing to."""
        words, said = self.command(starter, processes, **more), self.folder / "stderr.txt"
        says = self.folder / "says"
        for leftover in self.folder.glob("says*"):
            leftover.unlink()
        with said.open("wb") as file:
            process = subprocess.Popen(
                words, stdout=file, stderr=file, env=launched.environment(fault, says), start_new_session=True
            )
        wait_for(lambda: says.exists() or process.poll() is not None, 120)
        assert process.poll() is None, said.read_text()[-4000:]
        return process, said

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def steps(self) -> list[Path]:
        """The published checkpoints, all of which verify."""
        found = checkpoint.steps(self.run / "checkpoints")
        assert [checkpoint.problems(path) for path in found] == [[]] * len(found)
        return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def all_gone(process: subprocess.Popen[bytes], family: list[psutil.Process], seconds: float) -> dict[int, int]:
    """Wait until a run has ended with all its processes; the exit codes of those that have become ours."""
    codes: dict[int, int] = {}

    def gone() -> bool:
        for child in family:
            if child.pid not in codes:
                try:
                    pid, status = os.waitpid(child.pid, os.WNOHANG)
                except ChildProcessError:  # its parent lives, or has taken its code
                    continue
                if pid:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        alive = [child for child in family if child.pid not in codes and child.is_running()]
        return process.poll() is not None and not alive

    wait_for(gone, seconds)
    return codes


def stop(case: Case, place: Place) -> None:
    """Start the run, wait for the phase, signal it, and look at how it ends and what it leaves."""
    process, said = place.open(case.starter, case.processes, case.phase)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= case.processes - (case.starter == "alone")
    before = place.steps()
    (os.killpg if case.group else os.kill)(process.pid, case.signal)
    # the answer waits for the rest of the imports, which last as long as the machine is busy
    seconds = 4 * GRACE_SECONDS if case.phase == "slow_import" else GRACE_SECONDS
    if case.phase == "slow_save":
        wait_for((place.folder / "says.saving").exists, GRACE_SECONDS)
        time.sleep(ECHO_SECONDS + 0.2)  # sooner, it would count as the same one, passed on by a launcher
        os.kill(process.pid, case.signal)
        seconds = 10.0  # the save would go on for a minute
    codes = all_gone(process, family, seconds)
    text = said.read_text()
    assert case.code in (None, process.returncode), text[-4000:]
    if case.orphans is not None and (codes or not case.group):  # a launcher that lives on takes the code itself
        assert sorted(codes.values()) == [case.orphans] * case.processes, (codes, text[-4000:])
    after = place.steps()
    if case.saves:
        step = checkpoint.step_of(after[-1])
        assert text.count(f"stopped; saved at step {step}; to continue: graft finetune ") == 1, text[-4000:]
        assert not list(after[-1].parent.glob(".tmp-*"))
        again = case.phase == "slow_evaluation" and case.starter == "alone"  # the one that was stopped before
        assert after == before if again else after[-1] not in before
        assert ("continuing from" in text) == bool(before)
        assert json.loads((place.run / "manifest.json").read_text())["status"] == "stopped"
        if case.phase == "slow_evaluation":  # it is left in the middle, and the next start does it
            assert step % 15 == 0 and step not in [line["step"] for line in place.events("evaluate")]
    elif case.phase == "slow_save":
        assert "stopped at once; to continue from the newest checkpoint" in text and after == before, text[-4000:]
    else:
        assert not after and "saved at" not in text, text[-4000:]
        # before our code is there to notice, the signal ends the processes as it ends any program
        silent = case.phase == "slow_import" and case.processes == 2
        assert text.count("stopped; there was nothing to save yet; to continue: graft ") == (not silent), text[-4000:]


def finish(place: Place, processes: int, undisturbed: Place) -> None:
    """The same command goes on to the end: nothing is lost, nothing is done twice."""
    done = subprocess.run(
        place.command("alone", processes), capture_output=True, text=True, timeout=240, env=launched.environment()
    )
    assert done.returncode == 0 and "continuing from" in done.stderr, done.stderr[-4000:]
    assert_same(place, undisturbed, exactly=processes == 1)


def assert_same(place: Place, other: Place, *, exactly: bool) -> None:
    """The model of a run and its journal are those of another; two processes add up in another order than one."""
    mine, theirs = place.run / "model" / "model.safetensors", other.run / "model" / "model.safetensors"
    for kind in ("train", "evaluate"):
        a, b = place.events(kind), other.events(kind)
        assert [line["step"] for line in a] == [line["step"] for line in b], kind
        assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], rel=0 if exactly else 1e-3)
    if exactly:
        assert mine.read_bytes() == theirs.read_bytes()
    else:
        one, two = load_file(mine), load_file(theirs)
        assert max(float((one[key] - two[key]).abs().max()) for key in one) < 1e-3


@pytest.fixture(scope="module", autouse=True)
def adopting() -> Iterator[None]:
    """Orphans become children of this process, which can then read their exit codes."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def undisturbed(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The run as nobody stops it, within this process."""
    place, threads = Place(start, tmp_path_factory.mktemp("undisturbed")), torch.get_num_threads()
    torch.set_num_threads(1)
    run_recipe("finetune", place.given(), datasets=data_of(read_config("finetune", place.given())))
    torch.set_num_threads(threads)
    return place


@pytest.fixture(scope="module")
def endings(undisturbed: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """How each case has ended. The chains go on beside each other: most of the time they wait."""
    found: dict[str, Future[None]] = {}
    pool = ThreadPoolExecutor(len(CHAINS))

    def walk(chain: tuple[Case, ...], place: Place) -> None:
        last = [(f"{chain[0].processes} {LAST}", lambda: finish(place, chain[0].processes, undisturbed))]
        for name, work in [*((str(case), lambda case=case: stop(case, place)) for case in chain), *last]:
            try:
                found[name].set_result(work())
            except BaseException as error:
                found[name].set_exception(error)

    for chain in CHAINS:
        found |= {str(case): Future() for case in chain} | {f"{chain[0].processes} {LAST}": Future()}
        place = Place(undisturbed.start, tmp_path_factory.mktemp("chain"))
        pool.submit(walk, chain, place)
    yield found
    pool.shutdown()


@pytest.mark.parametrize("name", [*(str(case) for chain in CHAINS for case in chain), f"1 {LAST}", f"2 {LAST}"])
def test_a_signal_in_any_phase_saves_and_ends_all(
    name: str, endings: dict[str, Future[None]], record_property: Callable[[str, object], None]
) -> None:
    endings[name].result(timeout=900)
    if not name.endswith(LAST):
        record_property("promise", (6, "signals answered by saving", 1))


def test_a_second_writer_is_refused_until_the_first_is_killed(
    undisturbed: Place, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    place = Place(undisturbed.start, tmp_path)
    first, _ = place.open("alone", 1, "very_slow_training", save_steps=1)
    words = place.command("alone", 1, save_steps=1)
    second = subprocess.run(words, capture_output=True, text=True, timeout=120, env=launched.environment())
    assert second.returncode == 2, second.stderr[-4000:]
    line = next(line for line in second.stderr.splitlines() if line.startswith("graft finetune: "))
    assert f"{place.run}: another run is writing here (process {first.pid} on {os.uname().nodename}, since " in line
    reached = len(place.events("train"))
    wait_for(lambda: len(place.events("train")) > reached, 30)  # it has not noticed
    assert first.poll() is None
    first.kill()
    first.wait(30)
    assert place.steps()
    third = subprocess.run(words, capture_output=True, text=True, timeout=120, env=launched.environment())
    assert third.returncode == 0 and "continuing from" in third.stderr, third.stderr[-4000:]
    assert_same(place, undisturbed, exactly=True)
    record_property("promise", (11, "second writers refused", 1))
