"""Rows are encoded once, by one process, into a file that is whole or absent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, List, Value
from filelock import FileLock

from pipeline.data import default_cache_dir, encode_cached
from pipeline.errors import DataError

ROWS = Dataset.from_dict({"text": [f"row {n}" for n in range(2500)]})


def encode(batches: Iterator[dict[str, list[Any]]]) -> Iterator[dict[str, list[Any]]]:
    for batch in batches:
        yield {
            "input_ids": [[ord(letter) for letter in text] for text in batch["text"]],
            "size": [1.5] * len(batch["text"]),
        }


def test_encodes_once_and_memory_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def counted(batches: Iterator[dict[str, list[Any]]]) -> Iterator[dict[str, list[Any]]]:
        calls.append(1)
        return encode(batches)

    options: dict[str, Any] = {"key": "k", "cache_dir": tmp_path / "new", "description": "encode [train]"}
    first = encode_cached(ROWS, counted, **options)
    assert "encode [train]: 2500 rows in" in capsys.readouterr().err
    second = encode_cached(ROWS, counted, **options)
    assert capsys.readouterr().err == ""
    assert len(calls) == 1 and len(first) == len(second) == 2500
    assert second.features == {"input_ids": List(Value("int32")), "size": Value("float64")}
    assert "".join(map(chr, second[2499]["input_ids"])) == "row 2499"
    assert [file["filename"] for file in second.cache_files] == [str(tmp_path / "new" / "k.arrow")]
    assert {file.name for file in (tmp_path / "new").iterdir()} <= {"k.arrow", "k.arrow.lock"}
    other = encode_cached(ROWS.select(range(3)), counted, **{**options, "key": "other"})
    assert len(other) == 3 and len(calls) == 2


def test_rows_may_become_more_or_fewer(tmp_path: Path) -> None:
    def join(batches: Iterator[dict[str, list[Any]]]) -> Iterator[dict[str, list[Any]]]:
        texts = [text for batch in batches for text in batch["text"]]
        yield {"count": []}
        yield {"count": [len(texts)]}

    rows = encode_cached(ROWS, join, key="k", cache_dir=tmp_path, description="join", batch_size=7)
    assert rows.to_list() == [{"count": 2500}]


def test_poll_interrupts_and_leaves_no_file(tmp_path: Path) -> None:
    polled = []

    def stop() -> None:
        polled.append(1)
        if len(polled) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_cached(ROWS, encode, key="k", cache_dir=tmp_path, description="d", poll=stop, batch_size=100)
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == []
    assert len(encode_cached(ROWS, encode, key="k", cache_dir=tmp_path, description="d")) == 2500


def test_a_process_that_waits_polls(tmp_path: Path) -> None:
    def stop() -> None:
        raise SystemExit

    with FileLock(f"{tmp_path / 'k.arrow'}.lock"), pytest.raises(SystemExit):
        encode_cached(ROWS, encode, key="k", cache_dir=tmp_path, description="d", poll=stop)


WORKER = """
import sys, time
from pathlib import Path
from datasets import Dataset
from pipeline.data import encode_cached

def encode(batches):
    with open(sys.argv[1] + "/calls", "a") as file:
        file.write("x")
    for batch in batches:
        time.sleep(0.01)
        yield batch

rows = Dataset.from_dict({"a": list(range(100))})
print(len(encode_cached(rows, encode, key="k", cache_dir=Path(sys.argv[1]), description="d", batch_size=1)))
"""


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    root = str(Path(__file__).parents[1])
    workers = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [worker.communicate(timeout=120)[0].strip() for worker in workers] == ["100", "100"]
    assert (tmp_path / "calls").read_text() == "x"


def test_nothing_left_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="encode: 0 rows are left"):
        encode_cached(ROWS, lambda batches: iter(()), key="k", cache_dir=tmp_path, description="encode")
    for damaged in (b"", b"half a file"):
        (tmp_path / "k.arrow").write_bytes(damaged)
        with pytest.raises(DataError, match="the cached rows are damaged"):
            encode_cached(ROWS, encode, key="k", cache_dir=tmp_path, description="d")


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "graft"
