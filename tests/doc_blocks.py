"""The code blocks of the documentation, and the checks of what stands in a shell."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt

from pipeline.__main__ import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARKER = re.compile(r"<!-- not run: (.+?) -->")
OUTPUT = ("text", "json", "diff", "mermaid")
"""Languages of what programs print; there is nothing to run."""
DIRECTIVES = ("{toctree}", "{note}", "{tip}", "{warning}", "{include}")
"""What the documentation generator reads."""
ELSEWHERE = {
    *("cd", "export", "unset", "source", "touch", "ls", "cat", "head", "tail", "git"),
    *("hf", "sbatch", "scontrol", "tensorboard"),
}
"""Commands of others, whose arguments are not ours to check."""
BEFORE = {"do", "then", "else", "time", "nohup", "exec"}
"""Words after which a command begins."""
NOT_COMMANDS = {"[", "for", "done", "fi", "if", "while", "set", "echo", "sleep"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@dataclass(frozen=True)
class Block:
    """One block of code on a page."""

    page: Path
    line: int
    """Of the code's first line."""
    language: str
    code: str
    not_run: str | None
    """The reason that stands before it in `<!-- not run: ... -->`."""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The fenced and the indented blocks of a page; what is indented is for a shell."""
    found, marker = [], None
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text() if text is None else text):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            fenced = token.type == "fence"
            language = token.info.strip() if fenced else "bash"
            found.append(Block(page, token.map[0] + 1 + fenced, language, token.content, marker))
            marker = None
        elif token.type == "html_block" and (given := MARKER.fullmatch(token.content.strip())):
            assert marker is None, f"{page.name}: two markers for one block ({marker})"
            marker = given[1]
        else:
            assert marker is None, f"{page.name}: a marker with no block right after it ({marker})"
    assert marker is None, f"{page.name}: a marker with no block right after it ({marker})"
    return found


def commands_of(code: str) -> Iterator[list[str]]:
    """The commands of a shell script, each as its words, without comments, redirections and assignments."""
    code = re.sub(r"\$\(\(.*?\)\)", "1", code.replace("\\\n", " "))
    for line in code.splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            ends = set(word) <= set(";&|()<>")
            if not ends and (words or not re.match(r"\w+=", word)):
                words.append(re.sub(r"\$(\w+|\{.*?\})", "1", word))
            if ends or words == [word] and word in BEFORE:
                if words and words[0] not in BEFORE and words[0] not in NOT_COMMANDS:
                    words = without_launcher(words)
                    yield from commands_of(words[2]) if words[:2] == ["bash", "-c"] else [words]
                words = []
                if ends and "<" in word or ">" in word:
                    break  # a file, which is not looked at


def without_launcher(words: list[str]) -> list[str]:
    """`srun --option graft ...` -> `graft ...`."""
    known = [number for number, word in enumerate(words) if word in ("graft", "accelerate", "python", "bash")]
    return words[known[0] :] if words[0] == "srun" and known else words


def check_shell(block: Block) -> list[list[str]]:
    """Parse every line as what reads it would; returns the words of the `graft` commands."""
    done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True)
    assert done.returncode == 0, f"{block.place}: {done.stderr}"
    found = []
    for words in commands_of(block.code):
        name, *rest = words
        if words[:3] == ["python", "-m", "pipeline"]:
            name, rest = "graft", words[3:]
        if name == "graft":
            app.parse_args(rest, exit_on_error=False, print_error=False)
            found.append(rest)
        elif name == "make":
            check_make(rest, block)
        elif name == "pip":
            check_pip(rest, block)
        elif name == "accelerate":
            found.append(check_accelerate(rest, block))
        elif name in ("pytest", "python"):
            check_python(rest, block)
        else:
            assert name in ELSEWHERE, f"{block.place}: {name}: say `<!-- not run: reason -->` or teach doc_blocks.py"
    return found


def check_make(words: Sequence[str], block: Block) -> None:
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    wanted = [word for word in words if "=" not in word]
    assert wanted and set(wanted) <= set(targets), f"{block.place}: make has no {wanted}"


def check_pip(words: Sequence[str], block: Block) -> None:
    """Packages, extras and files that are named are ours."""
    known = {re.split(r"[\[<>=~! ]", line)[0] for line in PROJECT["dependencies"]} | {"graft-pipeline", "."}
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word == "-c":
            assert (ROOT / rest.pop(0)).is_file(), block.place
        elif word.startswith("--"):
            rest = rest if "=" in word else rest[1:]
        elif word != "-e":
            name, extras = re.fullmatch(r"([\w.-]+?)(?:\[([\w,-]+)\])?", word).groups()  # type: ignore[union-attr]
            assert name in known, f"{block.place}: pip install {name}"
            assert set((extras or "").split(",")) <= {"", *PROJECT["optional-dependencies"]}, f"{block.place}: {word}"


def check_accelerate(words: Sequence[str], block: Block) -> list[str]:
    """`accelerate launch` with a recipe: what its parser leaves over is a command of graft."""
    assert words[0] == "launch", f"{block.place}: accelerate {words[0]}"
    options, unknown = launch_command_parser().parse_known_args(words[1:])
    assert not unknown, f"{block.place}: {unknown}"
    assert options.config_file is None or (ROOT / options.config_file).is_file(), block.place
    script = ROOT / options.training_script
    assert script.is_file() and script.parent.name == "recipes", f"{block.place}: {script}"
    return [script.stem, *options.training_script_args]


def check_python(words: Sequence[str], block: Block) -> None:
    """Files and modules that are named are there."""
    if words[:1] == ["-m"]:
        assert importlib.util.find_spec(words[1]), f"{block.place}: there is no module {words[1]}"
        words = words[2:]
    files = [word.partition("::")[0] for word in words if word.endswith(".py") or "/" in word]
    assert all((ROOT / file).exists() for file in files), f"{block.place}: {files}"
