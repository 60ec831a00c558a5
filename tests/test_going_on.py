"""Going on from a checkpoint in less usual ways: without the best model, from another folder, by the words we print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.api import _going_on, read_config, run_recipe
from pipeline.errors import ConfigError
from pipeline.heartbeat import BYTES, Heartbeat
from pipeline.stopping import Stopped
from tests.faults import stop_after
from tests.synthetic import checkpoint_for, data_of, settings


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("start"))


def run(start: Path, output: Path, *, stop: int | None = None, **more: Any) -> Any:
    config = settings("causal_lm", None, start, output, **{"max_steps": 6, "save_steps": 2, **more})
    with stop_after(stop):
        try:
            return run_recipe("finetune", config, datasets=data_of(read_config("finetune", config)))
        except Stopped:
            assert stop is not None
            return None


def test_patience_counts_on_when_the_best_model_is_not_kept(start: Path, tmp_path: Path) -> None:
    """The best evaluation may have no checkpoint then, and is not forgotten for that."""
    more: dict[str, Any] = {
        **{"load_best_model_at_end": False, "eval_steps": 1, "early_stopping_patience": 3, "save_steps": 100},
        **{"learning_rate": 3.0, "max_grad_norm": 0, "max_steps": 12},
    }
    straight = run(start, tmp_path / "straight", **more).results
    assert straight["stopped_early"] and straight["steps"] < 12
    run(start, tmp_path / "stopped", stop=straight["best_step"], **more)
    assert run(start, tmp_path / "stopped", **more).results == straight


def test_a_checkpoint_of_another_folder_starts_a_run_of_its_own(start: Path, tmp_path: Path) -> None:
    """What the output folder held is moved aside: its checkpoints and lines are another run's."""
    run(start, tmp_path / "one")
    run(start, tmp_path / "two", learning_rate=1e-3)
    named = tmp_path / "one" / "checkpoints" / "step-000004"
    going_on = run(start, tmp_path / "two", resume=str(named))
    assert going_on.metrics == run(start, tmp_path / "three").metrics
    assert (tmp_path / "two.earlier-1" / "checkpoints").is_dir()
    assert not (tmp_path / "two" / "checkpoints" / "step-000002").exists()


def test_another_precision_is_another_run(start: Path, tmp_path: Path) -> None:
    run(start, tmp_path / "run")
    with pytest.raises(ConfigError, match='train.mixed_precision: "no" there, "bf16" now'):
        run(start, tmp_path / "run", mixed_precision="bf16", max_steps=8)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["--checkpoint.resume", "never", "--lora.r", "8"], ["--lora.r", "8"]),
        (["--resume=runs/x/checkpoints/step-000100"], []),
        (["--data.train_file", "my file.csv"], ["--data.train_file", "my file.csv"]),
    ],
)
def test_the_command_that_continues_never_starts_again(given: list[str], expected: list[str]) -> None:
    assert _going_on(given) == [*expected, "--checkpoint.resume", "auto"]


def test_the_command_that_continues_keeps_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert _going_on([])[-2:] == ["--num_processes", "2"]


def test_a_long_reason_has_room_in_a_heartbeat(tmp_path: Path) -> None:
    one, other = Heartbeat(tmp_path, 0, 2), Heartbeat(tmp_path, 1, 2)
    one.fail(ValueError("\u4e2d\U0001f600" * 1000))
    (line,) = other.others()
    assert line["failure"].startswith("ValueError: \u4e2d")
    assert (tmp_path / ".processes" / "00000.json").stat().st_size == BYTES
