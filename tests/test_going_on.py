"""Going on from a checkpoint in less usual ways: without the best model, from another folder, by the words we print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import accelerator, api
from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError
from pipeline.heartbeat import BYTES, Heartbeat
from pipeline.last_words import going_on
from pipeline.launch import launch
from pipeline.resume import identity
from pipeline.settings import make_task
from pipeline.stopping import Stopped
from pipeline.tasks import TASKS
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
    assert going_on(given) == [*expected, "--checkpoint.resume", "auto"]


def test_the_command_that_continues_keeps_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert going_on([])[-2:] == ["--num_processes", "2"]


def test_the_command_that_continues_starts_processes_in_the_same_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "says.py"
    script.write_text("from pipeline.last_words import going_on\nprint(*going_on([]))\n")
    assert launch(str(script), [], accelerate_config="cpu") == launch(str(script), []) == 0
    resume = "--checkpoint.resume auto"
    assert capsys.readouterr().out.splitlines() == [f"{resume} --accelerate_config cpu", resume]


def test_the_configuration_of_accelerates_own_launcher_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(accelerator.config_path("cpu_2proc"))
    words = ["python", "accelerate", "launch", "--config_file", file, "--num_processes", "2", "recipes/lora.py"]
    monkeypatch.setattr(accelerator, "words_of_parent", lambda: words)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert going_on([])[-4:] == ["--accelerate_config", file, "--num_processes", "2"]
    typed = api._typed("lora", ["my.yaml"], "recipes/lora.py")
    assert typed == [*words[1:], "my.yaml"]


def test_a_long_reason_has_room_in_a_heartbeat(tmp_path: Path) -> None:
    one, other = Heartbeat(tmp_path, 0, 2), Heartbeat(tmp_path, 1, 2)
    one.fail(ValueError("\u4e2d\U0001f600" * 1000))
    (line,) = other.others()
    assert line["failure"].startswith("ValueError: \u4e2d")
    assert (tmp_path / ".processes" / "00000.json").stat().st_size == BYTES


SCORING = [
    ("causal_lm prompted", {}, {"generate": {"max_new_tokens": 3}, "sample_prompts": ["the cat"]}),
    ("text_classification multi-label", {"threshold": 0.5}, {"threshold": 0.3}),
    ("question_answering", {}, {"max_answer_length": 2, "null_score_diff_threshold": 1.0}),
    ("embedding", {}, {"eval_group_size": 4, "normalize": False}),
    ("seq2seq", {}, {"generate": False}),
]


@pytest.mark.parametrize(("variant", "before", "after"), SCORING, ids=[variant for variant, _, _ in SCORING])
def test_how_rows_are_scored_may_change_and_what_is_learned_may_not(
    variant: str, before: dict[str, Any], after: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are those of a run that was never stopped; every setting a task declares so is tried."""
    recipe, start = "finetune", checkpoint_for(variant, tmp_path / "start")
    runs = {}
    for name, stop, changed in (("straight", None, before), ("stopped", 3, before), ("stopped", None, after)):
        given = settings(
            variant, None, start, tmp_path / name, max_steps=6, save_steps=100, load_best_model_at_end=False
        )
        given["data"] = {**given["data"], "max_length": min(48, given["data"]["max_length"])}  # room to write
        own = {"name": given["task"]} if isinstance(given["task"], str) else given["task"]
        given["task"] = {**own, **changed}
        config = read_config(recipe, given)
        with stop_after(stop):
            try:
                runs[name] = run_recipe(recipe, given, datasets=data_of(config))
            except Stopped:
                assert stop is not None
    task = make_task(config)
    assert set(after) == {*task.settings_of_scores, *task.settings_of_outputs}
    assert "its best model was measured otherwise" in caplog.text
    for left, right in zip(runs["straight"].model.parameters(), runs["stopped"].model.parameters(), strict=True):
        assert left.equal(right)
    others = type(config.task).model_fields.keys() - {"name", *after}
    saved = identity(config, {"train": ""}, "no", None)
    assert {key for key in saved if key.startswith("task.")} == {f"task.{key}" for key in ("name", *others)}


def test_settings_of_scores_are_settings() -> None:
    tried = {variant.split()[0] for variant, _, _ in SCORING}
    for name, task in TASKS.items():
        declared = {*task.settings_of_scores, *task.settings_of_outputs}
        assert declared <= task.Config.model_fields.keys() and (not declared or name in tried)


def test_what_is_learned_makes_another_run(start: Path, tmp_path: Path) -> None:
    run(start, tmp_path / "run", stop=3)
    with pytest.raises(ConfigError, match='task.separator: .* there, "X" now'):
        run(start, tmp_path / "run", task={"name": "causal_lm", "separator": "X"})
