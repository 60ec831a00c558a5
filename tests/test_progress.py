"""What a run shows while it works: on a terminal, in a notebook, and where neither is."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
import types
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.__main__ import app
from pipeline.api import run_recipe
from pipeline.last_words import last_words
from pipeline.progress import Progress, clock, kind_of
from tests.tiny import tiny_checkpoint

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(?:3[0-9]|4[0-9]|9[0-7])\b[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def console(file: io.StringIO | None = None, **more: Any) -> Console:
    environment = {"TERM": "xterm-256color", "COLUMNS": "100", **more.pop("environment", {})}
    return Console(file=file or Terminal(), _environ=environment, **more)


@pytest.mark.parametrize(
    ("shown", "plain", "kind"),
    [
        (console(), False, "terminal"),
        (console(), True, "plain"),
        (console(io.StringIO()), False, "plain"),
        (console(io.StringIO(), environment={"FORCE_COLOR": "1"}), False, "plain"),
        (console(environment={"TERM": "dumb"}), False, "plain"),
        (console(environment={"NO_COLOR": "1"}), False, "terminal"),
        (console(force_jupyter=True), False, "notebook"),
        (console(force_jupyter=True), True, "plain"),
    ],
)
def test_where_lines_can_stay_in_place(shown: Console, plain: bool, kind: str) -> None:
    assert kind_of(shown, plain=plain) == kind


def test_a_terminal_without_the_characters_gets_plain_lines() -> None:
    class Old(Terminal):
        encoding = "ascii"

    assert kind_of(console(Old())) == "plain"


def halfway(kind: Any = "plain", steps: int = 1500) -> Progress:
    progress = Progress(console(), kind, steps, lambda: 612 * 2**20)
    done = iter(range(0, 10**6, 480))
    progress.start(0, lambda: (next(done), "tokens"), "accuracy")
    for step in range(1, steps // 2 + 1):
        progress.advance(step)
        progress.event({"event": "train", "step": step, "loss": 2.5 - step / steps, "learning_rate": 3e-4})
    progress.event({"event": "evaluate", "step": 700, "loss": 1.0, "accuracy": 0.8712})
    progress.advance(751)
    progress.advance(752)
    return progress


def test_a_line_never_wraps() -> None:
    progress = halfway(steps=200)
    for width in range(12, 200):
        for line in progress.lines(width):
            assert len(line.plain) < width and "\n" not in line.plain


def test_a_wide_line_says_everything_and_a_narrow_one_what_matters() -> None:
    progress = halfway()
    first, second = (line.plain for line in progress.lines(100))
    assert re.match(r"752/1,500 ━+─+ +50 %  left \d+:\d\d  [\d,]+ tokens/s  612 MiB$", first)
    assert re.match(r"loss 2 [▁▂▃▄▅▆▇█]{30}  lr 0\.0003  accuracy 0\.8712 at 700$", second)
    narrow = [line.plain for line in progress.lines(44)]
    assert "50 %" in narrow[0] and "loss 2" in narrow[1] and "accuracy 0.8712" in narrow[1]
    progress.doing = "evaluation"
    assert "  evaluation  " in progress.lines(100)[0].plain


def test_before_the_first_loss_there_is_no_number_to_show() -> None:
    progress = Progress(console(), "plain", 10, lambda: 0)
    progress.start(0, lambda: (0, "rows"), "loss")
    assert progress.lines(80)[1].plain == "starting" and progress.seconds_left() is None


def test_a_notebook_keeps_one_place_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    handle = types.SimpleNamespace(update=shown.append)

    def display(html: str, display_id: bool) -> Any:
        shown.append(html)
        return handle

    module = types.ModuleType("IPython.display")
    vars(module).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("pipeline.progress.NOTEBOOK_SECONDS", 0.0)
    progress = halfway("notebook", steps=1500)
    progress.stop()
    progress.stop()
    assert len(shown) > 700 and "━" in shown[300] and "\x1b" not in "".join(shown)
    assert re.fullmatch(r"<pre>752/1,500 steps in \d+:\d\d  loss 2[.\d]*</pre>", shown[-1])


def test_times_are_read_at_a_glance() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 725, 12000)] == ["0:00", "1:00", "12:05", "3:20:00"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with its data and checkpoint."""
    root = tmp_path_factory.mktemp("progress")
    tiny_checkpoint(root / "bert", "bert", "AutoModelForMaskedLM")
    rows = "".join(f"the cat sat on the mat {row},{'good' if row % 2 else 'bad'}\n" for row in range(32))
    for split in ("train", "validation"):
        (root / f"{split}.csv").write_text(f"text,label\n{rows.replace('cat', split)}")
    given = {
        "task": "text_classification",
        "model_name_or_path": "bert",
        "data": {"train_file": "train.csv", "validation_file": "validation.csv"},
        "train": {"max_steps": 6, "train_batch_size": 8, "logging_steps": 2},
    }
    given["data"] |= {"text_column": "text", "label_column": "label"}  # type: ignore[operator]
    (root / "my.yaml").write_text(yaml.safe_dump(given))
    return root


def graft(folder: Path, *arguments: str, **variables: str) -> tuple[list[str], dict[str, Any]]:
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-m", "pipeline", *arguments]
    environment = {**os.environ, "PYTHONPATH": root, "TERM": "xterm-256color", **variables}
    return command, {"cwd": folder, "env": environment, "timeout": 300}


def in_a_terminal(folder: Path, columns: int, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and every byte that a terminal of that width was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    command, more = graft(folder, *arguments, **variables)
    more.pop("timeout")
    for name in ("COLUMNS", "LINES"):  # of whatever the tests were started in
        more["env"].pop(name, None)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **more) as process:
        os.close(theirs)
        sent = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux: the other side was closed
                break
            if not piece:
                break
            sent += piece
    os.close(ours)
    return process.returncode, sent.decode()


def test_a_terminal_sees_two_lines_in_place_and_no_colour_when_it_wants_none(folder: Path) -> None:
    code, sent = in_a_terminal(folder, 70, "finetune", "my.yaml", "--output_dir", "runs/pty", NO_COLOR="1")
    assert code == 0, sent
    assert "\x1b[1A" in sent and "━" in sent and "/6 " in sent  # the cursor goes up: the lines stay in place
    assert not COLOUR.findall(sent)
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h")  # the cursor is shown again
    drawn = [CONTROL.sub("", piece) for piece in re.split(r"[\r\n]+|\x1b\[\d*[AK]", sent)]  # up, and a line erased
    live = [line for line in drawn if re.match(r"\d/6 [━─]", line)]
    assert live and not [line for line in live if len(line) >= 70]
    assert "step 6/6  validation: " in sent and "it/s]" not in sent
    assert "  model    runs/pty/model" in sent
    end = CONTROL.sub("", sent).split("  model    ")[1]
    for name in re.findall(r"graft (\w+)", end):
        assert name in app.resolved_commands()


def test_a_pipe_gets_one_plain_line_per_step_that_is_logged(folder: Path) -> None:
    command, more = graft(folder, "finetune", "my.yaml", "--output_dir", "runs/pipe", FORCE_COLOR="1")
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    trained = [line for line in lines if re.match(r"step \d/6  epoch", CONTROL.sub("", line))]
    assert len(trained) == 3 and "tokens/s" in trained[-1] and "left 0:00" in trained[-1]
    assert "\r" not in done.stderr and "━" not in done.stderr and "\x1b[1A" not in done.stderr
    assert done.stdout == ""


def test_the_last_words_can_be_followed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    given = ["--output_dir", "runs/longer", "--train.max_steps", "2", "--resume", "never"]
    run = run_recipe("finetune", "my.yaml", given)
    lines = {
        words[0]: words[1:] for words in map(shlex.split, last_words(run, "finetune", "my.yaml", given).splitlines())
    }
    names = {"ROWS": "validation.csv", "PREDICTIONS.jsonl": "runs/labels.jsonl"}
    with pytest.raises(SystemExit) as ended:
        app([names.get(word, word) for word in lines["predict"][1:]])
    assert ended.value.code in (0, None) and (folder / "runs" / "labels.jsonl").is_file()
    words = ["longer", *lines["longer"]]
    assert "never" not in words and lines["push"][:3] == ["graft", "push", "runs/longer"]
    assert words[:4] == ["longer", "graft", "finetune", "my.yaml"]
    again = run_recipe("finetune", "my.yaml", words[4:])
    assert again.results["steps"] == 4 and again.output_dir == run.output_dir
    assert not list(folder.glob("runs/longer.earlier-*"))
