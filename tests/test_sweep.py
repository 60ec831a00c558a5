"""`graft sweep`: the grid, its processes, going on, and the table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import sweeping
from pipeline.errors import ConfigError, DataError
from pipeline.grid import as_asked, axes_of, checked, plan, values_of
from pipeline.reports.sweep_table import tabulate
from pipeline.stopping import StopRequest
from pipeline.sweeping import as_text, run_sweep, share_of, sweep
from tests.fake_run import fake_run
from tests.tiny import tiny_checkpoint

CHILD = """
import json, os, signal, sys, time
from pathlib import Path
words = sys.argv[1:]
folder = Path(words[words.index("--output_dir") + 1])
folder.mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(folder / "began").write_text(str(time.monotonic()))
print("a word of", folder.name, os.environ.get("OMP_NUM_THREADS"))
if "seed-1" in folder.name and "fail" in os.environ["CHILD"]:
    sys.exit("the reason why")
if "wait" in os.environ["CHILD"]:
    time.sleep(60)
(folder / "ended").write_text(str(time.monotonic()))
"""
"""Stands in for a run, without its imports."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    tiny_checkpoint(root / "bert", "bert", "AutoModelForMaskedLM")
    for split in ("train", "validation"):
        rows = "".join(f"{split} cat number {row},{'good' if row % 2 else 'bad'}\n" for row in range(16))
        (root / f"{split}.csv").write_text(f"text,label\n{rows}")
    data = {"train_file": "train.csv", "validation_file": "validation.csv", "text_column": "text"}
    given = {
        "task": "text_classification",
        "model_name_or_path": "bert",
        "data": {**data, "label_column": "label"},
        "train": {"max_steps": 2, "train_batch_size": 8},
    }
    (root / "my.yaml").write_text(yaml.safe_dump(given))
    return root


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "START", (sys.executable, "-c", CHILD))
    monkeypatch.setattr(sweeping, "_table", lambda *_: None)
    monkeypatch.setenv("CHILD", "")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1e-5,3e-5", ["1e-5", "3e-5"]),
        ("[q,v],[q,k,v]", ["[q,v]", "[q,k,v]"]),
        ('"a,b",c', ['"a,b"', "c"]),
        ("{a: 1, b: 2}", ["{a: 1, b: 2}"]),
        ("don't,do", ["don't", "do"]),
        ("one", ["one"]),
        ("(a,b)|c,d", ["(a,b)|c", "d"]),
    ],
)
def test_commas_part_values_and_brackets_keep_them(text: str, values: list[str]) -> None:
    assert values_of(text) == values


@pytest.mark.parametrize("value", ["plain", "a,b", "true", "1", "[x]", "", 1e-5, 3, True, None, ["q", "v"], {"a": 1}])
def test_a_python_value_is_one_value_on_the_command_line(value: Any) -> None:
    from pipeline.yaml_file import read_value

    assert values_of(as_text(value)) == [as_text(value)] and read_value(as_text(value)).values == value


def test_a_grid_is_every_combination_with_a_readable_folder_each() -> None:
    words = ["--learning_rate=1e-4,1e-3", "--lora.target_modules", "[query],[query,value]", "--seed", "0,1", "--bf16x"]
    fixed, axes = axes_of(words)
    assert fixed == ["--bf16x"] and list(axes) == ["learning_rate", "lora.target_modules", "seed"]
    points = plan("my.yaml", words[:-1], recipe=None, output_dir="runs/grid")
    assert [point.name for point in points[:3]] == [
        "learning_rate-1e-4_target_modules-query_seed-0",
        "learning_rate-1e-4_target_modules-query_seed-1",
        "learning_rate-1e-4_target_modules-query-value_seed-0",
    ]
    assert len(points) == 8 and {point.recipe for point in points} == {"lora"}
    assert points[2].config.lora.target_modules == ["query", "value"] and points[1].config.train.seed == 1
    assert points[1].varied() == {"learning_rate": "1e-4", "target_modules": "[query]"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "sweep: nothing varies; give a setting several values, such as --learning_rate 1e-5,3e-5"),
        (["--seed", "0,0"], "--seed: 0 given more than once"),
        (["--seed", "0,"], "--seed: '0,' has an empty value; a value with a comma is written in quotes within"),
        (["--seed", "0,1", "--seed", "2,3"], "--seed: given twice; write all values in one list"),
        (
            ["--seed", "0,1", "--resume", "never"],
            "--resume: a sweep goes on by itself: what is finished is skipped, the rest is continued",
        ),
        (
            ["--learning_rate", "1e-3,0.001"],
            "sweep: learning_rate-1e-3 and learning_rate-0.001 are the same run; leave one out",
        ),
        (
            ["--seed", "0,1", "--push_to_hub", "true", "--hub_model_id", "me/x"],
            "--push_to_hub: every run of a sweep would be pushed to one place; turn it off, and push the best one with "
            "graft push",
        ),
        (
            ["--learning_rate", "1e-3,fast", "--sed", "1"],
            "2 configuration problems:\n  --sed: unknown key; did you mean 'seed'?\n"
            "  --learning_rate: expected a number greater than 0, got 'fast' (in learning_rate-fast)",
        ),
        (
            ["--seed", "0,1", "--data.validation_file", "null"],
            "--data.validation_file: a sweep chooses by validation rows and there are none; give some, or "
            "data.validation_split_fraction",
        ),
    ],
)
def test_what_is_wrong_with_a_grid_is_said_before_the_first_run(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping.Jobs, "_start", lambda *_: pytest.fail("a run was started"))
    with pytest.raises(ConfigError) as caught:
        run_sweep("my.yaml", words, output_dir="runs/wrong")
    assert str(caught.value) == message


def test_rows_that_no_run_can_use_are_said_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping.Jobs, "_start", lambda *_: pytest.fail("a run was started"))
    with pytest.raises((ConfigError, DataError), match=r"no column 'txt'.*\(in text_column-txt\)"):
        run_sweep("my.yaml", ["--text_column", "text,txt"], output_dir="runs/wrong")


def test_one_fails_and_the_rest_goes_on(
    child: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHILD", "fail")
    monkeypatch.delenv("OMP_NUM_THREADS")
    found = run_sweep("my.yaml", ["--seed", "0,1,2"], output_dir="runs/fails", jobs=2)
    assert found.status == {"seed-0": "finished", "seed-1": "failed, exit code 1", "seed-2": "finished"}
    assert found.exit_code == 1
    said = capfd.readouterr().err
    assert "  the reason why\n  all of it: runs/fails/logs/seed-1.log\n  alone: graft finetune my.yaml" in said
    assert (Path("runs/fails/logs/seed-0.log").read_text()).startswith("a word of seed-0 ")
    found.print()
    assert "1 of 3 runs failed: seed-1; the same command tries them again" in capfd.readouterr().err


def test_two_at_a_time_are_two_at_a_time(child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "POLL_SECONDS", 0.01)
    run_sweep("my.yaml", ["--seed", "0,1,2,3"], output_dir="runs/two", jobs=2)
    times = [(Path(f"runs/two/seed-{seed}/began"), Path(f"runs/two/seed-{seed}/ended")) for seed in range(4)]
    spans = [(float(began.read_text()), float(ended.read_text())) for began, ended in times]
    assert spans[2][0] > min(spans[0][1], spans[1][1])  # the third waited for one of the first two


def test_a_stop_reaches_the_runs_and_the_rest_is_not_started(child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHILD", "wait")

    def stop_when_at_work() -> None:
        while not Path("runs/stops/seed-0/began").exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_at_work)
    thread.start()
    found = run_sweep("my.yaml", ["--seed", "0,1"], output_dir="runs/stops")
    thread.join()
    assert found.status == {"seed-0": "stopped", "seed-1": "not started"} and found.exit_code == 143


def test_a_share_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert share_of(0, 1) == {}
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert share_of(1, 2) == {}
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 8)
    assert share_of(1, 4) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setattr(sweeping, "available_device", lambda: type("Device", (), {"type": "cuda"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,5")
    assert [share_of(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,5", "2"]
    assert [share_of(slot, 4)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["0", "2", "5", "0"]


def test_the_table_is_of_means_over_seeds_and_chooses_on_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for rate, ends in {"1e-4": (2.2, 2.4), "1e-3": (2.0, 2.1), "1e-2": (1.0,)}.items():
        for seed, end in enumerate((*ends, 9.0)[:2]):
            name = f"learning_rate-{rate}_seed-{seed}"
            broken = rate == "1e-2" and seed == 1
            if not broken:
                fake_run(tmp_path / name, end=end, test=True)
            status = "failed, exit code 1" if broken else "finished"
            row = {"name": name, "folder": tmp_path / name, "varied": {"learning_rate": rate}}
            runs.append({**row, "status": status, "again": "graft lora ..."})
    table = tabulate("A sweep", runs)
    table.write(tmp_path)
    values = [run["value"] for run in table.runs]
    first = table.rows[0]
    assert first["count"] == 2 and first["metrics"]["bits_per_byte"] == pytest.approx(sum(values[:2]) / 2)
    assert first["metrics"]["spread"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert table.rows[2]["metrics"]["spread"] is None and table.best() == ["learning_rate 1e-2"]
    assert table.sentence().startswith("Best bits_per_byte, chosen on validation (lower is better): learning_rate 1e-2")
    assert table.notes[0] == "learning_rate 1e-2: without learning_rate-1e-2_seed-1 (failed, exit code 1)."
    assert table.header()[:4] == ["setting", "bits_per_byte ↓", "spread", "bits_per_byte on test"]
    table.print()
    assert "learning_rate 1e-2" in capsys.readouterr().out
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["best"] == ["learning_rate 1e-2"] and written["chosen_on"] == "validation"
    assert written["best_run"].endswith("learning_rate-1e-2_seed-0") and "| failed, exit code 1 |" in (
        tmp_path / "sweep.md"
    ).read_text().replace("\\", "")


def test_the_same_run_twice_has_the_same_numbers_and_is_not_run_again(capfd: pytest.CaptureFixture[str]) -> None:
    """Real processes: the axis is a name that trains nothing."""
    axes = {"tracking.run_name": ["a", "b"]}
    found = sweep("my.yaml", axes, output_dir="runs/same", max_steps=2, learning_rate=1e-3)
    assert set(found.status.values()) == {"finished"} and found.exit_code == 0, capfd.readouterr().err
    one, two = (Path("runs/same") / f"run_name-{name}" for name in "ab")
    assert (one / "results.json").read_bytes() == (two / "results.json").read_bytes()
    assert (one / "model" / "model.safetensors").read_bytes() == (two / "model" / "model.safetensors").read_bytes()
    assert found.table is not None and found.table.rows[0]["count"] == 1 and found.best == {"run_name": "a"}

    def states(**more: Any) -> list[str]:
        words = [
            f"--{name}={as_text(value)}" for name, value in {"max_steps": 2, "learning_rate": 1e-3, **more}.items()
        ]
        points = plan("my.yaml", [*words, "--tracking.run_name", "a,b"], recipe=None, output_dir="runs/same")
        return [point.state for point in checked(points, StopRequest())]

    assert states() == ["finished", "finished"]
    assert states(max_steps=4) == ["half-finished", "half-finished"]  # longer: each goes on
    with pytest.raises(ConfigError, match="optim.learning_rate: 0.001 there, 0.01 now"):
        states(learning_rate=1e-2)
    (one / "results.json").unlink()
    assert states() == ["half-finished", "finished"]
    rows = Path("train.csv").read_text()
    Path("train.csv").write_text(rows.replace("cat", "dog"))
    try:
        with pytest.raises(ConfigError, match="the train rows are others"):
            states()
    finally:
        Path("train.csv").write_text(rows)


def test_the_command_lists_the_runs(folder: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "sweep", "my.yaml", "--lora.r", "2,4", "--dry_run"]
    root = str(Path(__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == 0, done.stderr
    assert "sweep: 2 runs in runs/my-sweep" in done.stderr and not Path("runs/my-sweep").exists()
    assert "  new           graft lora my.yaml --lora.r 2 --output_dir runs/my-sweep/r-2 " in done.stderr


def test_a_metric_of_the_hub_at_its_commit_is_the_one_that_was_asked_for() -> None:
    """Else a finished run, whose config.yaml has the commit, would be taken for another."""
    pinned = f"hub:user/name@{'0' * 40}"
    for asked in ("hub:user/name", "hub:user/name@v1", pinned):
        assert as_asked(pinned, ["accuracy", asked]) == asked
    assert as_asked("accuracy", ["accuracy"]) == "accuracy" and as_asked(pinned, ["accuracy"]) == pinned
