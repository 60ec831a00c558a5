"""Every code block of the README and of docs/ is run, or read by what would read it; new pages need no line here.

`python` runs, a page's blocks one after another as in a notebook, in the folder that tests/doc_folder.py makes. In
`bash` and in what is indented, every command is parsed by the program that it names, graft's settings are read, and
training is tried as a dry run. `yaml` is read as a configuration. Outputs are `text`. What cannot be run has
`<!-- not run: the reason -->` right before it, which is counted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import api
from pipeline.__main__ import app
from pipeline.accelerator import config_path
from pipeline.config import load
from pipeline.settings import RunConfig, check, user_strategy
from tests.doc_blocks import DIRECTIVES, OUTPUT, PAGES, ROOT, Block, blocks_of, check_shell, commands_of
from tests.doc_folder import make_folder

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
TO_RUN = [block for block in BLOCKS if block.language not in (*OUTPUT, *DIRECTIVES)]
READERS: dict[str, Any] = {"json": json.loads, "toml": tomllib.loads}
RUN_HERE = ("data", "config", "compare", "env", "predict", "evaluate", "merge")
"""Commands of graft that are quick and need nothing but the folder."""


def of(*languages: str) -> list[Any]:
    return [
        pytest.param(block, id=block.place) for block in TO_RUN if block.language in languages and not block.not_run
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    before = Path.cwd()
    os.chdir(folder)
    try:
        make_folder(folder)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy for one page."""
    shutil.copytree(made, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "work")
    return tmp_path / "work"


def test_there_are_blocks() -> None:
    assert len(PAGES) >= 3 and len(TO_RUN) >= 30


def test_every_block_says_what_it_is() -> None:
    known = {"python", "bash", "yaml", "toml", *OUTPUT, *DIRECTIVES}
    assert not [f"{block.place}: {block.language!r}" for block in BLOCKS if block.language not in known]


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [block for block in TO_RUN if block.not_run]
    assert all(len((block.not_run or "").split()) >= 3 for block in left_out)
    assert len(left_out) <= len(TO_RUN) / 10, [f"{block.place}: {block.not_run}" for block in left_out]


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_a_configuration(block: Block) -> None:
    given: dict[str, Any] = {
        "task": "causal_lm",
        "model": {"model_name_or_path": "somewhere"},
        **yaml.safe_load(block.code),
    }
    check(load(RunConfig, given, extra_section=user_strategy), has_validation=True)


def test_other_files_are_read() -> None:
    for block in BLOCKS:
        if block.language in READERS:
            READERS[block.language](block.code)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.page == page for b in TO_RUN if b.language == "python")]
)
def test_python_runs(page: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in TO_RUN:
        if block.page == page and block.language == "python" and not block.not_run:
            program = "\n" * (block.line - 1) + block.code  # so that a traceback names the page's own line
            exec(compile(program, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("block", of("bash"))
def test_shell_commands_are_understood(
    block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in check_shell(block):
        try_out(words, monkeypatch)


def try_out(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what is quick; of a recipe the settings are read, and where its rows are here a dry run is made."""
    name = words[0] if words and (words[0] in RUN_HERE or words[0] in api.RECIPES) else None
    if {"--help", "--version"} & {*words}:
        ends_well(lambda: app(words), monkeypatch)
    elif name in api.RECIPES:
        arguments = without_launcher(words[1:])
        source = arguments[0] if arguments and not arguments[0].startswith("--") else None
        settings = [word for word in arguments[source is not None :] if word not in ("--dry_run", "--dry-run")]
        config = api.read_config(name, source, settings)
        if Path(config.data.train_file or "").is_file():
            ends_well(lambda: api.main(name, arguments=[*arguments, "--dry_run"]), monkeypatch)
    elif name is not None:
        ends_well(lambda: app(words), monkeypatch)


def without_launcher(words: list[str]) -> list[str]:
    """A recipe's own arguments; the launcher's are looked at and taken out."""
    _, bound, _ = app.parse_args(["train", *words], exit_on_error=False, print_error=False)
    if bound.kwargs.get("accelerate_config"):
        config_path(bound.kwargs["accelerate_config"])
    return [str(word) for word in bound.args]


def ends_well(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        job()
    except SystemExit as left:
        assert left.code in (0, None), f"exit code {left.code}"


def test_blocks_and_commands_are_found() -> None:
    page = ROOT / "docs" / "page.md"
    text = (
        "A\n\n    graft lora x.yaml \\\n      --r 4   # why\n\n<!-- not run: no GPU here -->\n```python\n1 / 0\n```\n"
    )
    shell, python = blocks_of(page, text)
    assert (shell.language, shell.line, python.language, python.line) == ("bash", 3, "python", 8)
    assert python.not_run == "no GPU here" and shell.not_run is None
    assert list(commands_of(shell.code)) == [["graft", "lora", "x.yaml", "--r", "4"]]
    script = "for s in 0 1; do graft train a.yaml --seed $s > log; done\nA=1 srun -n1 graft env && make run"
    assert list(commands_of(script)) == [["graft", "train", "a.yaml", "--seed", "1"], ["graft", "env"], ["make", "run"]]
    assert list(commands_of("srun -n 2 bash -c 'graft lora $A --r $((2 * 3))'")) == [["graft", "lora", "1", "--r", "1"]]


@pytest.mark.parametrize("text", ["<!-- not run: no GPU here -->\nText\n", "<!-- not run: no GPU here -->\n"])
def test_a_marker_without_a_block_is_an_error(text: str) -> None:
    with pytest.raises(AssertionError, match="marker"):
        blocks_of(ROOT / "docs" / "page.md", text)


@pytest.mark.parametrize(
    "code",
    ["graft lorra my.yaml", "make runn", "pip install 'graft-pipeline[metric]'", "pytest tests/test_no.py", "grft"],
)
def test_a_wrong_command_is_seen(code: str) -> None:
    with pytest.raises(Exception, match=r".*"):
        check_shell(Block(ROOT / "docs" / "page.md", 1, "bash", code, None))
