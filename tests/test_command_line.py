"""The `graft` command as people meet it: help, completion, mistakes, exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import rerun
from pipeline.__main__ import app, main
from pipeline.command_line import EXIT_CODES, LAUNCHER
from pipeline.completion import settings
from pipeline.environment import text, without_home
from pipeline.errors import UserError
from pipeline.failure import RunFailed
from pipeline.stopping import StopRequest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    *([name] for name in app.resolved_commands() if name != "config" and not name.startswith("-")),
    ["config", "show"],
    ["config", "schema"],
]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code or 0, out, err


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_begins_with_an_example(
    command: list[str], columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, _ = said(capsys, *command, "--help")
    assert code == 0 and out.startswith(f"  graft {' '.join(command)}")
    assert all(len(line) <= int(columns) for line in out.splitlines())
    assert " object at " not in out and "\x1b" not in out


def test_the_overview_says_each_command_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = said(capsys, "--help")
    for name in [name for name in app.resolved_commands() if not name.startswith("-")]:
        (line,) = re.findall(rf"^  {name}\b.*", out, re.MULTILINE)
        assert len(line) <= 80 and line.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lroa", "my.yaml"], "graft: unknown command 'lroa'; did you mean 'lora'?"),
        (["config", "sho"], "graft config: unknown command 'sho'; did you mean 'show'?"),
        (["my.yaml"], "graft: unknown command 'my.yaml'; a command comes before its file: graft train my.yaml"),
        (["--versoin"], "graft: unknown option '--versoin'; see graft --help"),
        (["compare", "--outptu_dir", "x"], "graft compare: unknown option: --outptu_dir; did you mean --output_dir?"),
        (["rerun"], "graft rerun: RUN_DIR is missing; graft rerun --help shows an example"),
        (["rerun", "a", "b"], "graft rerun: 'b' is more than this command takes; graft rerun --help shows an example"),
        (
            ["lora", "my.yaml", "--num_proceses", "2"],
            "graft: unknown option --num_proceses; did you mean --num_processes?",
        ),
        (["lora", "my.yaml", "--dryrun"], "graft: unknown option --dryrun; did you mean --dry_run?"),
        (["lora"], "graft: lora: a configuration is missing: graft lora my.yaml; graft lora --help"),
        (
            ["quickstart", "--seed", "x"],
            'graft quickstart: invalid value for --seed: unable to convert "x" into int; graft quickstart --help '
            "shows an example",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    assert said(capsys, *arguments) == (2, "", f"{message}\n")


def test_no_setting_is_taken_for_a_misspelt_option() -> None:
    from pipeline.command_line import refuse_misspelt

    names = [parameter.annotation.__metadata__[0].name for parameter in settings()]
    refuse_misspelt([name for group in names for name in group])
    refuse_misspelt([f"--{name}" for name in LAUNCHER])


def test_env_tells_no_secret_and_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:hunter2hunter2@hub.example")
    monkeypatch.setenv("ACCELERATE_LOG", f"{tmp_path}/somebody/log")
    shown = text()
    assert "hf_abc" not in shown and "hunter2" not in shown and "somebody" not in shown
    assert "HF_TOKEN=(set)" in shown and "ACCELERATE_LOG=~/log" in shown
    assert {"graft", "python", "packages", "devices", "hub"} <= {line.split()[0] for line in shown.splitlines()}
    assert without_home("/elsewhere") == "/elsewhere"


def test_exit_codes_are_those_of_the_code_and_of_the_page() -> None:
    signals = {128 + number for number in StopRequest.SIGNALS}
    reruns = {rerun.IDENTICAL, rerun.DIFFERENT, rerun.NOT_REPEATED, *rerun.STOPPED}
    assert {0, UserError.exit_code, RunFailed.exit_code} | signals | reruns == set(EXIT_CODES)
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE))
    assert {int(code): says for code, says in rows.items()} == EXIT_CODES


def test_the_page_and_the_command_know_the_same_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert {name for name in app.resolved_commands() if not name.startswith("-")} == set(
        re.findall(r"^\| `graft (\w+)", page, re.MULTILINE)
    )


def test_as_a_process_a_mistake_is_exit_code_two_and_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "lroa"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
