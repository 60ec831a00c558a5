"""Completion as it is used: in real interactive shells, with the script that `graft completion` writes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.__main__ import app
from pipeline.completion import install
from pipeline.config import load
from pipeline.errors import UserError
from pipeline.settings import RunConfig
from tests.shells import STARTS, completed

NAMES = {"bash": "graft", "zsh": "_cyclopts_graft", "fish": "graft.fish"}
"""What the scripts are called where the shells look for them."""
ASKED = {
    "lo": ["lora"],
    "config sc": ["config", "schema"],
    "lora my.y": ["lora", "my.yaml"],
    "lora sub": ["lora", "sub/"],
    "lora sub/": ["lora", "sub/other.yaml"],
    "lora my.yaml --optim.le": ["lora", "my.yaml", "--optim.learning_rate"],
    "finetune my.yaml --learning_r": ["finetune", "my.yaml", "--learning_rate"],
    "finetune my.yaml --mixed_precision b": ["finetune", "my.yaml", "--mixed_precision", "bf16"],
    "lora my.yaml --task=text": ["lora", "my.yaml", "--task=text_classification"],
    "lora my.yaml --dry": ["lora", "my.yaml", "--dry_run"],
    "lora my.yaml --train_file tr": ["lora", "my.yaml", "--train_file", "train.csv"],
    "lora my.yaml --accelerate_config cpu_": ["lora", "my.yaml", "--accelerate_config", "cpu_2proc"],
    "config show my.yaml --lora.r": ["config", "show", "my.yaml", "--lora.r"],
    "predict ru": ["predict", "runs/"],
    "predict runs --file tr": ["predict", "runs", "--file", "train.csv"],
    "evaluate runs --boot": ["evaluate", "runs", "--bootstrap"],
    "push runs --hub_ta": ["push", "runs", "--hub_tag"],
    "push runs --dry": ["push", "runs", "--dry_run"],
    "compare ru": ["compare", "runs/"],
    "rerun ru": ["rerun", "runs/"],
}


@pytest.mark.parametrize("shell", STARTS)
def test_a_shell_completes_commands_settings_choices_and_files(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    scripts, folder = tmp_path / "scripts", tmp_path / "work"
    for made in (scripts, folder / "runs", folder / "sub"):
        made.mkdir(parents=True)
    for name in ("my.yaml", "train.csv", "sub/other.yaml"):
        (folder / name).touch()
    install(app, shell, scripts / NAMES[shell])  # type: ignore[arg-type]
    found = completed(shell, scripts / NAMES[shell], [f"graft {line}" for line in ASKED], folder)
    assert [without_slash(words) for words in found] == [without_slash(words) for words in ASKED.values()]
    if shell != "zsh":  # which takes the slash away again when the line goes on with a blank
        assert found == list(ASKED.values())


def without_slash(words: list[str]) -> list[str]:
    return [word.rstrip("/") for word in words]


def test_it_says_what_else_a_shell_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ZSH_CUSTOM", raising=False)
    monkeypatch.delenv("ZSH", raising=False)
    assert "does not turn completion on" in install(app, "zsh", None)
    (tmp_path / ".zshrc").write_text("autoload -Uz compinit\ncompinit\n")
    said = install(app, "zsh", None)
    assert said.endswith("_cyclopts_graft; open a new shell to use it")
    assert (tmp_path / ".zshrc").read_text().startswith("# graft completions\nfpath=(")
    assert "source" in install(app, "bash", tmp_path / "graft.bash")
    monkeypatch.setattr("pipeline.completion.detect_shell", unknown)
    with pytest.raises(UserError, match="--shell bash"):
        install(app, None, None)


def unknown() -> None:
    from cyclopts.completion.detect import ShellDetectionError

    raise ShellDetectionError("no shell")


def test_every_setting_can_be_completed() -> None:
    from pipeline.completion import settings

    names = {name for parameter in settings() for name in parameter.annotation.__metadata__[0].name}
    assert len(names) > 150
    dumped = load(RunConfig, {"task": "causal_lm"}).model_dump()
    assert {f"--optim.{key}" for key in dumped["optim"]} | {"--lora.r", "--task", "--output_dir"} <= names
