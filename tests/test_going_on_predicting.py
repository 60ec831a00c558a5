"""Predictions that are stopped or killed go on where they were and give the same bytes; nothing is written over."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import predicting
from pipeline.__main__ import main
from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError, DataError, UserError
from pipeline.predicting import predict
from pipeline.stopping import Stopped, StopRequest
from tests.synthetic import checkpoint_for, data_of, rows, settings
from tests.test_resume import fill

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with windows: several features per row, so that chunks of rows and of features differ."""
    folder = tmp_path_factory.mktemp("run")
    base = checkpoint_for("question_answering", folder / "base")
    given = settings("question_answering", None, base, folder / "run", max_steps=1)
    return run_recipe("finetune", given, datasets=data_of(read_config("finetune", given))).output_dir


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    made = rows({"question": "text", "context": "text"}, 50, seed=5)
    path.write_text("".join(f"{json.dumps({'question': 'cat', 'context': row['context']})}\n" for row in made))
    return path


@pytest.fixture(scope="module")
def whole(run: Path, file: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """All lines, written at once in chunks of eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicting, "CHUNK", 8)
        found = predict(run, file, tmp_path_factory.mktemp("whole") / "out.jsonl").read_bytes()
    assert found.count(b"\n") == 50
    return found


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "CHUNK", 8)


def stopped_after_two_chunks(*arguments: Any) -> None:
    """A prediction that is asked to stop while its third chunk is made."""

    class Request(StopRequest):
        chunks = 0

        def __call__(self) -> bool:
            return self.chunks >= 2

    def counted(self: Any, first: int) -> Any:
        for lines in original(self, first):
            yield lines
            request.chunks += 1

    request, original = Request(), predicting.Job.chunks
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(predicting.Job, "chunks", counted)
        predict(*arguments, stop=request)


@pytest.mark.parametrize("torn", [0, 7, None])
def test_a_stopped_prediction_goes_on(run: Path, file: Path, whole: bytes, tmp_path: Path, torn: int | None) -> None:
    """Also when it was killed in the middle of a line, or left half a line of another one's bytes."""
    out = tmp_path / "out.jsonl"
    stopped_after_two_chunks(run, file, out)
    (part,) = tmp_path.iterdir()
    written = part.read_bytes()
    assert not out.exists() and whole.startswith(written) and written.count(b"\n") == 16
    if torn is None:
        part.write_bytes(written + whole[len(written) :][:300] + b"\0\0\0")
    else:
        part.write_bytes(written[: len(written) - torn])
    assert predict(run, file, out) == out and out.read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_what_is_said_of_a_row_does_not_depend_on_its_chunk(
    run: Path, file: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "CHUNK", 1024)
    expected = [line["answer"] for line in predict(run, str(file))]
    assert [json.loads(line)["answer"] for line in whole.splitlines()] == expected
    assert len(set(expected)) > 4


def test_what_is_there_is_kept(run: Path, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A finished file is not written over, nor one that was begun over other rows or with other settings."""
    (tmp_path / "out.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match="is there already and nothing is written over"):
        predict(run, file, tmp_path / "out.jsonl")
    stopped_after_two_chunks(run, file, tmp_path / "new.jsonl")
    (begun,) = tmp_path.glob("new.jsonl.*.part")
    before = begun.read_bytes()
    predict(run, file, tmp_path / "new.jsonl", eval_batch_size=3)
    assert begun.read_bytes() == before and "left as it is" in caplog.text
    assert (tmp_path / "new.jsonl").read_bytes().count(b"\n") == 50


def test_too_little_memory_halves_the_batch(
    run: Path, file: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.tasks.question_answering import QuestionAnswering

    original, sizes = QuestionAnswering.outputs, []

    def cramped(self: Any, model: Any, batch: Any) -> Any:
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError
        return original(self, model, batch)

    monkeypatch.setattr(QuestionAnswering, "outputs", cramped)
    predict(run, file, tmp_path / "out.jsonl")
    assert sizes[:3] == [8, 4, 2]
    pairs = zip((tmp_path / "out.jsonl").read_bytes().splitlines(), whole.splitlines(), strict=True)
    assert all(json.loads(one)["answer"] == json.loads(other)["answer"] for one, other in pairs)


def test_rows_that_cannot_be_read_are_named(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "cat", "context": "a cat"}\n{"question": "cat", "context": ""}\n')
    with pytest.raises(DataError, match=r"rows.jsonl:2: context is empty"):
        predict(run, path, tmp_path / "out.jsonl")
    with pytest.raises(DataError, match=r"file: .*nowhere.jsonl: no such file"):
        predict(run, tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl")
    (tmp_path / "other.jsonl").write_text('{"query": "cat"}\n')
    with pytest.raises(DataError, match="no column 'question'.*did you mean 'query'|no column 'question'"):
        predict(run, tmp_path / "other.jsonl", tmp_path / "out.jsonl")
    assert not list(tmp_path.glob("out*"))


def ended(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return stopped.value.code


def test_commands(run: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out.jsonl")
    assert ended("predict", str(run), "--file", str(file), "--out", out, "--eval_batch_size", "4") in (0, None)
    assert f"predictions: {tmp_path / 'out.jsonl'}" in capsys.readouterr().err
    assert ended("predict", str(run), "--file", str(file), "--out", out) == 2
    assert "graft predict: out: " in capsys.readouterr().err
    assert ended("predict", str(run), "--file", str(file), "--out", str(tmp_path / "b"), "--num_processes", "2") == 2
    assert "predict works in one process" in capsys.readouterr().err
    assert ended("evaluate", "--config", str(run / "config.yaml")) == 2
    assert "name one model" in capsys.readouterr().err
    assert ended("evaluate", str(run)) == 2
    assert "there are no validation or test rows to score on" in capsys.readouterr().err
    assert ended("merge", str(run), "--out", str(tmp_path / "merged")) == 2
    assert "is no adapter but a whole model" in capsys.readouterr().err


def test_a_signal_ends_with_how_to_go_on(run: Path, file: Path, tmp_path: Path) -> None:
    """A real process: SIGTERM in the middle, then the command that it prints, and the same bytes as without a stop."""
    many = tmp_path / "many.jsonl"
    many.write_text(file.read_text() * 45)
    command = ["predict", str(run), "--file", str(many), "--out", str(tmp_path / "out.jsonl")]
    command += ["--eval_batch_size", "64"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    started = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *command], env=variables, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("out.jsonl.*.part")):
        assert started.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=120)
    assert started.returncode == 143 and f"to continue: graft {' '.join(command)}" in said
    again = subprocess.run(
        [sys.executable, "-m", "pipeline", *command], env=variables, capture_output=True, text=True, check=True
    )
    assert "going on at row" in again.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicting, "CHUNK", 1024)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        expected = predict(run, many, tmp_path / "at_once.jsonl", eval_batch_size=64).read_bytes()
    assert (tmp_path / "out.jsonl").read_bytes() == expected


def test_a_full_disk_ends_in_one_sentence_and_the_same_command_goes_on(
    run: Path,
    file: Path,
    small_disk: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file system of 2 MB that fills up after the second chunk; what is begun grows by less than a page at a time."""
    many = tmp_path / "many.jsonl"
    many.write_text(file.read_text() * 5)
    original = predicting.Job.chunks

    def until_full(self: Any, first: int) -> Any:
        for number, lines in enumerate(original(self, first)):
            if number == 2:
                fill(small_disk)
            yield lines

    out = str(small_disk / "out.jsonl")
    command = ["predict", str(run), "--file", str(many), "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(predicting.Job, "chunks", until_full)
        assert ended(*command) == 1
    said = capsys.readouterr().err
    assert f"{out}: cannot be written (No space left on device); what was written is kept" in said
    assert f"to continue: graft {' '.join(command)}" in said and "Traceback" not in said
    assert not (small_disk / "out.jsonl").exists()
    (small_disk / "filler").unlink()
    with caplog.at_level(logging.INFO, "graft"):
        assert ended(*command) in (0, None)
    assert "going on at row" in caplog.text
    at_once = predict(run, many, tmp_path / "at_once.jsonl")
    assert (small_disk / "out.jsonl").read_bytes() == at_once.read_bytes()


def test_two_writers_of_one_file(run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = predicting.Job.chunks

    def during(self: Any, first: int) -> Any:
        with monkeypatch.context() as patch, pytest.raises(UserError, match="another process is writing"):
            patch.setattr(predicting.Job, "chunks", original)
            predict(run, file, tmp_path / "out.jsonl")
        yield from original(self, first)

    monkeypatch.setattr(predicting.Job, "chunks", during)
    predict(run, file, tmp_path / "out.jsonl")
