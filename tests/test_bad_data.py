"""Whatever is wrong with a file or a row is named with its place, all at once."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import DataConfig, load_splits
from pipeline.errors import DataError

COLUMNS: dict[str, Any] = {"text": "text", "label": "label"}


def message(columns: dict[str, Any] = COLUMNS, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(DataConfig(**settings), columns)
    return str(caught.value)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


BAD_FILES = {
    "bad.jsonl": [
        (b'{"text": "a", "label": 1}\n{"text": "b", "lab\n', ["bad.jsonl:2: invalid JSON (Unterminated string"]),
        (b'{"text": "a", "label": 1}\n[1]\n', ["bad.jsonl:2: a JSON list, expected an object"]),
        (b'{"text": "a", "text": "b", "label": 1}\n', ["bad.jsonl:1: invalid JSON (the key 'text' appears twice)"]),
        (
            b'{"txt": "a", "label": 1}\n',
            ["bad.jsonl:1: no column 'text'; the columns are 'txt', 'label'; did you mean"],
        ),
        (b'{"text": "a", "label": 1}\n{"text": "a"}\n', ["bad.jsonl:2: no column 'label'"]),
        (
            b'{"text": null, "label": 1}\n{"text": "", "label": null}\n',
            [":1: text is missing", ":2: text is empty", ":2: label"],
        ),
        (b'{"text": 5, "label": 0.5}\n', ["text is 5 (int), expected text", "label is the fraction 0.5"]),
        (b'{"text": "a", "label": NaN}\n', ["bad.jsonl:1: label is missing (null)"]),
        (b'{"text": "\\ud800", "label": 1}\n', ["bad.jsonl:1: text has half a surrogate pair"]),
        (b'{"text": "caf\xe9", "label": 1}\n', ["bad.jsonl:1: byte 13 (0xe9) is not utf-8; maybe `encoding: cp1252`"]),
        ('{"text": "a", "label": 1}\n'.encode("utf-16"), ["byte 0 (0xff) is not utf-8; maybe `encoding: utf-16`"]),
        (b"[" * 100_000, ["bad.jsonl:1: invalid JSON (nested too deeply)"]),
        (b"", ["bad.jsonl: 0 rows"]),
        (b"\n\n", ["bad.jsonl: 0 rows"]),
    ],
    "bad.csv": [
        (b"text,label\na,1\nb\n", ["bad.csv:3: 1 cell, expected 2 (text, label)"]),
        (b'text,label\n"a\nb",1\nx, y, 2\n', ["bad.csv:4: 3 cells, expected 2"]),
        (
            b"text;label\na;1\n",
            ["bad.csv:1: no column 'text'; the header has one column and contains ';'; set data.delimiter"],
        ),
        (b"text\tlabel\na\t1\n", ["contains '\\t'"]),
        (b"txt,label\na,1\n", ["bad.csv:1: no column 'text'", "did you mean 'txt'?"]),
        (b"text,text,label\na,b,1\n", ["bad.csv:1: 2 columns are named 'text'"]),
        (
            b'text,label\na,1\n"b,2\nc,3\n',
            ["bad.csv:3: broken csv (unexpected end of data); the quote opened here is never"],
        ),
        (b'text,label\n"a" b,1\n', ["bad.csv:2: broken csv"]),
        (b"text,label\n,1\na,\n", ["bad.csv:2: text is empty", "bad.csv:3: label is empty"]),
        (b"text,label\n", ["bad.csv: 0 rows"]),
        (b"", ["bad.csv: 0 rows"]),
        (b"text,label\nok,1\ncaf\xe9,1\n", ["bad.csv:3: byte 19 (0xe9) is not utf-8"]),
    ],
    "bad.tsv": [(b"text\tlabel\na\t1\nb\t2\tc\n", ["bad.tsv:3: 3 cells, expected 2"])],
    "bad.json": [
        (b'[{"text": "a",\n "label": }]', ["bad.json:2: invalid JSON"]),
        (b'{"text": "a", "label": 1}', ["bad.json: holds one JSON object, expected a list of objects"]),
        (b'{"text": "a", "label": 1}\n{}', ["should be named .jsonl"]),
        (b'[{"text": "a", "label": 1}, 3]', ["bad.json[1]: a JSON number, expected an object"]),
        (b"[]", ["bad.json: 0 rows"]),
    ],
    "bad.parquet": [(b"PAR1 not really", ["bad.parquet: not a whole parquet file"])],
    "bad.arrow": [(b"not really", ["bad.arrow: not a whole Arrow file"])],
    "bad.txt": [(b"some text", ["bad.txt: no column 'label'"]), (b"", ["bad.txt"])],
}


@pytest.mark.parametrize(
    ("name", "content", "expected"), [(name, *case) for name, cases in BAD_FILES.items() for case in cases]
)
def test_bad_file(tmp_path: Path, name: str, content: bytes, expected: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    found = message(train_file=str(tmp_path / name))
    assert all(part in found for part in expected), found


@pytest.mark.parametrize("value", ["abc", "nan", "inf", "1_0", "", "3,5", True, None, math.inf, [1], "1e999", 10**400])
def test_bad_number(tmp_path: Path, value: Any) -> None:
    found = message({"score": "number"}, train_file=write_jsonl(tmp_path / "a.jsonl", [{"score": 1}, {"score": value}]))
    assert "a.jsonl:2: score is " in found and "number" in found


@pytest.mark.parametrize("value", [None, 1.5, {"a": 1}, [""], [None], [[1]], [0.5]])
def test_bad_labels(tmp_path: Path, value: Any) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"labels": [1]}, {"labels": value}])
    assert "a.jsonl:2: labels is " in message({"labels": "labels"}, train_file=file)


def test_problems_of_all_splits_come_at_once_and_are_counted(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", [{"text": "", "label": 1}] * 30)
    found = message(train_file=train, validation_file=str(tmp_path / "b.jsonl"), test_file=str(tmp_path / "*.csv"))
    assert found.count("text is empty") == 20 and "... and 12 more (32 in all)" in found
    good = write_jsonl(tmp_path / "c.jsonl", [{"text": "a", "label": 1}])
    found = message(train_file=good, validation_file=str(tmp_path / "b.jsonl"))
    assert "b.jsonl: no such file; did you mean 'c.jsonl'?" in found


def test_control_characters_do_not_reach_the_message(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": ["\x1b[31m"], "label": 1, "\x1b[2J": 1}, {"label": 1}])
    assert "\x1b" not in message(train_file=file)
    assert "\x1b" not in message({"other": "text"}, train_file=file)


def test_rows_of_other_kinds_are_left_out_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = '{"text": "a", "label": 1}\n{"text": "", "label": null}\n[]\n{"text": "b"}\n{\n{"text": "c", "label": 2}\n'
    files = {"a.jsonl": bad, "a.csv": "text,label\na,1\n,0\nb\nc,2\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        config = DataConfig(train_file=str(tmp_path / name), on_bad_row="skip")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_splits(config, COLUMNS)["train"]["text"] == ["a", "c"]
        assert f"left out {4 if name == 'a.jsonl' else 2} rows:" in caplog.text
        assert f"{name}:{2 if name == 'a.jsonl' else 3}: text is empty" in caplog.text
        with pytest.raises(DataError, match="no column 'txt'"):
            load_splits(config, {"txt": "text"})
    (tmp_path / "b.csv").write_text("text,label\n,0\n,1\n")
    with pytest.raises(DataError, match="no train row is left, such as .*b.csv:2: text is empty"):
        load_splits(DataConfig(train_file=str(tmp_path / "b.csv"), on_bad_row="skip"), COLUMNS)
