"""YAML files: version 1.2, no code, no duplicate keys, bounded; what is wrong is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load, read_yaml
from pipeline.errors import ConfigError
from tests.config_models import Reader, Run


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.chdir(tmp_path)
    return Reader(tmp_path)


def test_files_that_are_no_configuration(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "lora_sst2.yaml").write_text("task: x\n", encoding="utf-8")
    (tmp_path / "big.yaml").write_text("a: " + "x" * 1_000_001, encoding="utf-8")
    (tmp_path / "latin.yaml").write_bytes(b"task: x\ndata: \xe9\n")
    expected = {
        "lora_sst.yaml": "lora_sst.yaml: no such file; did you mean 'lora_sst2.yaml'?",
        "nowhere/a.yaml": "nowhere/a.yaml: no such file; the folder 'nowhere' does not exist either",
        ".": ".: is a folder, expected a YAML file; it holds big.yaml, latin.yaml, lora_sst2.yaml",
        "big.yaml": "big.yaml: larger than 1 MB",
        "latin.yaml": "latin.yaml:2: not UTF-8 text (byte 14)",
        "~no_such_user_here/a.yaml": "~no_such_user_here/a.yaml: Could not determine home directory",
    }
    for path, message in expected.items():
        with pytest.raises(ConfigError) as caught:
            load(Run, path)
        assert str(caught.value).startswith(message)


BROKEN = {
    "- a\n- b\n": "run.yaml: expected keys and values such as `task: causal_lm`, got a list",
    "task\n": "run.yaml: expected keys and values such as `task: causal_lm`, got 'task'",
    "task: x\ndata: {a: [1, 2}\n": "run.yaml:2: not valid YAML",
    "task: x\ndata:\n\ta: 1\n": "run.yaml:3: not valid YAML: while scanning for the next token, found character '\\t' "
    "that cannot start any token; indent with spaces, not tabs",
    "task: x\n---\ntask: y\n": "run.yaml:2: not valid YAML",
    "task: x\ndata: \x01\n": "run.yaml:2: not valid YAML: it holds the control character",
    "task: !!python/object/apply:os.system [exit 1]\n": "run.yaml:1: the tag '!!python/object/apply:os.system' is not",
    "task: !include other.yaml\n": "run.yaml:1: the tag '!include' is not allowed",
    "task: x\n<<: {a: 1}\n": "run.yaml:2: merge keys (<<) are not supported",
    "task: x\n[a]: 1\n": "run.yaml:2: a key must be text, not a list",
    "task: x\n~: 1\n": "run.yaml:2: a key must be text, got '~'",
    "task: x\ndata: &a [*a]\n": "run.yaml:2: its aliases (*name) stand for too many values",
    "task: x\nseed: " + "9" * 5000: "run.yaml:2: a number of 5000 digits",
    "task: x\ndata: " + "[" * 5000: "run.yaml:2: not valid YAML: nested more than 40 deep",
    "task: x\nseed: !!int a\n": "run.yaml:2: 'a' does not go with its tag '!!int'",
    "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)): "run.yaml:",
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_yaml_is_named_with_its_line(read: Reader, text: str) -> None:
    assert read.problem(text).startswith(BROKEN[text])


def test_yaml_reads_version_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: 1e-4\r\nb: [NO, on, y, true, 0o17, 0x1F, 010, ~]\r\nc:\r\n  d: .5\r\n", encoding="utf-8")
    values, lines = read_yaml(path)
    assert values == {"a": 1e-4, "b": ["NO", "on", "y", True, 15, 31, 10, None], "c": {"d": 0.5}}
    assert {name: lines[name] for name in ("a", "b", "c", "c.d")} == {"a": 1, "b": 2, "c": 3, "c.d": 4}
    path.write_text("# nothing here\n", encoding="utf-8")
    assert read_yaml(path) == ({}, {})
