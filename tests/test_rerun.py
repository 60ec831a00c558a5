"""The same command gives the same bytes, and `graft rerun` proves it from the run folder alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.__main__ import main
from pipeline.api import read_config, run_recipe
from pipeline.manifest import describe_machine
from pipeline.rerun import DIFFERENT, IDENTICAL, compare_bytes, differences, files
from tests.synthetic import RECIPE_OF, SHORT_MATRIX, checkpoint_for, data_of, settings

ROOT = Path(__file__).resolve().parents[1]


def graft(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def in_process(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def write_files(folder: Path, config: Any) -> dict[str, str]:
    """Synthetic rows as the files of a configuration; returns its `data` settings."""
    named = {}
    for split, rows in data_of(config).items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows.column_names)
            writer.writeheader()
            writer.writerows(rows)
        named[f"{split}_file"] = str(folder / f"{split}.csv")
    return named


def prepared_run(folder: Path, strategy: str | None = "lora", **more: Any) -> Path:
    """A configuration file with its data and checkpoint beside it."""
    checkpoint = checkpoint_for("text_classification", folder / "start")
    given = settings("text_classification", strategy, checkpoint, folder / "run", **more)
    given["data"] |= write_files(folder, read_config(RECIPE_OF[strategy], given))
    (folder / "my.yaml").write_text(yaml.safe_dump(given))
    return folder / "my.yaml"


def bytes_of(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files(run)}


@pytest.mark.promise(14, "tasks x strategies that gave the same bytes twice")
@pytest.mark.parametrize(("variant", "strategy"), SHORT_MATRIX)
def test_twice_the_same_run_is_the_same_bytes(variant: str, strategy: str | None, tmp_path: Path) -> None:
    """Into two folders, one after the other in one process, with dropout, so that nothing hangs on what came before."""
    checkpoint = checkpoint_for(variant, tmp_path / "start")
    for name in ("one", "two"):
        given = settings(variant, strategy, checkpoint, tmp_path / name, dropout=0.1, max_steps=2)
        run_recipe(RECIPE_OF[strategy], given, datasets=data_of(read_config(RECIPE_OF[strategy], given)))
        torch.rand(1), torch.manual_seed(len(name))
    one, two = bytes_of(tmp_path / "one"), bytes_of(tmp_path / "two")
    assert one == two and "results.json" in one and any(name.endswith(".safetensors") for name in one)
    for word in ("seconds", "time", "date", str(tmp_path)):
        assert word not in one["results.json"].decode()


@pytest.mark.promise(14, "runs of `graft rerun` that gave the same bytes")
def test_two_processes_of_their_own_and_a_rerun_are_the_same_bytes(tmp_path: Path) -> None:
    """Other hash seeds, other thread counts around it, another folder: the command line's whole way."""
    config = prepared_run(tmp_path, dropout=0.1)
    done = graft("lora", str(config), PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    other = graft("lora", str(config), "--output_dir", str(tmp_path / "other"), PYTHONHASHSEED="2")
    assert other.returncode == 0, other.stderr
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "other")
    again = graft("rerun", str(tmp_path / "run"), PYTHONHASHSEED="3", OMP_NUM_THREADS="2")
    assert again.returncode == IDENTICAL, again.stdout + again.stderr
    assert again.stdout.startswith("identical: model/ and results.json (") and again.stdout.count("\n") == 1
    assert bytes_of(tmp_path / "run") == bytes_of(tmp_path / "run.rerun")
    manifest = json.loads((tmp_path / "run.rerun" / "manifest.json").read_text())
    assert manifest["recipe"] == "lora" and manifest["cpu_threads"] == 1


@pytest.mark.promise(14, "runs of `graft rerun` that gave the same bytes")
def test_a_run_of_two_processes_is_repeated_with_two(tmp_path: Path) -> None:
    config = prepared_run(tmp_path, None, train_batch_size=7)
    done = graft("finetune", str(config), "--num_processes", "2", "--accelerate_config", "cpu_2proc")
    assert done.returncode == 0, done.stderr
    again = graft("rerun", str(tmp_path / "run"), "--output_dir", str(tmp_path / "new"), ACCELERATE_USE_CPU="true")
    assert again.returncode == IDENTICAL, again.stdout + again.stderr
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["world_size"] == 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    config = prepared_run(folder, max_steps=1)
    assert in_process("lora", str(config)) == 0
    return folder


def copy_of(finished: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"


def edit_manifest(run: Path, **changes: Any) -> None:
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_changed_rows_are_refused_by_split(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file = copy_of(finished, tmp_path), finished / "validation.csv"
    before = file.read_text()
    try:
        file.write_text(before[:-3] + ("x" if before[-3] != "x" else "y") + before[-2:])
        assert in_process("rerun", str(run)) == 2
        message = capsys.readouterr().err
        assert "validation: the data changed since the run" in message and "train:" not in message
        file.unlink()
        assert in_process("rerun", str(run)) == 2
        assert "no such file" in capsys.readouterr().err
    finally:
        file.write_text(before)
    assert not (tmp_path / "run.rerun").exists()


def test_each_file_that_differs_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(finished, tmp_path)
    (run / "model" / "config.json").write_text("{}")
    (run / "model" / "extra.json").write_text("{}")
    assert in_process("rerun", str(run)) == DIFFERENT
    said = capsys.readouterr().out
    assert said.startswith("different: model/config.json, model/extra.json (2 of ") and said.count("\n") == 1
    assert in_process("rerun", str(run)) == 2
    assert "not empty; give a new folder with --output_dir" in capsys.readouterr().err
    assert compare_bytes(run, run) == IDENTICAL


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda run: (run / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda run: (run / "manifest.json").write_text('{"recipe": "lo'), "manifest.json:1: not JSON"),
        (lambda run: (run / "manifest.json").write_text("[]"), "expected an object"),
        (lambda run: edit_manifest(run, world_size="2"), "expected int under 'world_size', found str"),
        (lambda run: edit_manifest(run, recipe="dance"), "unknown recipe 'dance'"),
        (lambda run: edit_manifest(run, status="running"), "this run is not finished"),
        (lambda run: edit_manifest(run, rows_in_memory=True), "its rows were handed over from Python"),
        (lambda run: edit_manifest(run, script="mine.py"), "its model was built by your own mine.py"),
    ],
)
def test_what_cannot_be_repeated_is_said(
    damage: Any, says: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished, tmp_path)
    damage(run)
    assert in_process("rerun", str(run)) == 2
    message = capsys.readouterr().err
    assert says in message and "Traceback" not in message
    assert not (tmp_path / "run.rerun").exists()


def test_a_dry_run_checks_and_runs_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(finished, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert in_process("rerun", str(run), "--dry_run") == 0
    said = capsys.readouterr().err
    assert f"would run lora on 1 process(es) with 1 thread(s) each in {run}.rerun" in said
    edit_manifest(run, recipe="other")
    assert in_process("rerun", str(run), "--dry_run") == 2
    assert "unknown recipe 'other'" in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before


def test_other_versions_are_a_warning(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy_of(finished, tmp_path)
    versions = json.loads((run / "manifest.json").read_text())["versions"]
    edit_manifest(run, versions=versions | {"torch": "1.0"}, python="2.7")
    assert in_process("rerun", str(run)) == IDENTICAL
    message = capsys.readouterr().err
    assert f"torch: 1.0 then, {version('torch')} now; the bytes may differ" in message and "python: 2.7 then" in message
    machine = describe_machine(torch.device("cpu"))
    assert not differences(machine, machine)


def test_rows_from_python_and_own_scripts_are_in_the_manifest(tmp_path: Path) -> None:
    from pipeline.prepare import whole_model

    checkpoint = checkpoint_for("text_classification", tmp_path / "start")
    given = settings("text_classification", None, checkpoint, tmp_path / "run", max_steps=1)
    run_recipe(
        "finetune",
        given,
        build_model=lambda config, task: whole_model(config, task),
        datasets=data_of(read_config("finetune", given)),
    )
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["rows_in_memory"] is True and manifest["script"] == Path(__file__).name
