"""The catalogue of bad inputs: each ends in exactly the message beside it, before a weight is read or a file written.

Every YAML below `bad_inputs/` is a case; `WRITE_EXPECTED=1` writes the messages anew, to be read before they are kept.
A first line `# graft lora` names the recipe (otherwise train). Paths count from the folder of the case, and the good
data and tiny checkpoints that cases share are in `../good` and `../models`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from torch import nn

from pipeline.api import read_config
from pipeline.errors import UserError
from pipeline.models import build, load
from pipeline.prepare import prepare
from tests.tiny import tiny_checkpoint, tiny_tokenizer

FOLDER = Path(__file__).parent / "bad_inputs"
NOT_CASES = ("good", "models")
CASES = sorted(
    path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.yaml") if path.parent.name not in NOT_CASES
)
AREAS = {
    "config",
    "csv",
    "jsonl",
    "labels",
    "encodings",
    "lengths",
    "vocabularies",
    "checkpoints",
    "combinations",
    "chat",
    "tags",
}
AS_COMMANDS = (
    "config/misspelled_keys.yaml",
    "csv/ragged_rows.yaml",
    "labels/unseen_in_validation.yaml",
    "checkpoints/encoder_for_causal_lm.yaml",
    "paths/no_such_train_file.yaml",
)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the cases with the checkpoints they name."""
    folder = tmp_path_factory.mktemp("bad") / "inputs"
    shutil.copytree(FOLDER, folder)
    models = folder / "models"
    named: dict[str, Any] = {"id2label": {0: "negative", 1: "positive"}}
    tiny_checkpoint(models / "bert", "bert", "AutoModelForMaskedLM")
    tiny_checkpoint(models / "llama", "llama", "AutoModelForCausalLM")
    tiny_checkpoint(models / "t5", "t5", "AutoModelForSeq2SeqLM")
    tiny_checkpoint(models / "sentiment", "bert", "AutoModelForSequenceClassification", **named)
    tiny_checkpoint(models / "llama_classifier", "llama", "AutoModelForSequenceClassification")
    tiny_checkpoint(models / "few_tokens", "bert", "AutoModelForMaskedLM", vocab_size=64)
    tiny_tokenizer(models / "tokenizer")
    without_tokens(tiny_tokenizer(models / "no_mask"), "mask_token")
    without_tokens(tiny_tokenizer(models / "no_pad"), "pad_token", "eos_token")
    damaged = tiny_checkpoint(models / "damaged", "bert", "AutoModelForMaskedLM") / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    return folder


def without_tokens(folder: Path, *kinds: str) -> None:
    """Take special tokens away from a saved tokenizer."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in kinds}))


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reading weights or drawing them fails the test; names and shapes may be read."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    original = load._load

    def outlines_only(*arguments: Any) -> tuple[Any, dict[str, Any]]:
        model, report = original(*arguments)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}, "weights were read"
        return model, report

    monkeypatch.setattr(load, "_load", outlines_only)
    monkeypatch.setattr(build, "initialize", lambda *arguments, **settings: pytest.fail("weights were drawn"))
    yield


def no_model(config: Any, task: Any) -> nn.Module:
    pytest.fail("everything was taken, and a model would now be built")


def recipe_of(case: Path) -> str:
    first = case.read_bytes().split(b"\n", 1)[0].decode("utf-8", "replace")
    return first.removeprefix("# graft ").strip() if first.startswith("# graft ") else "train"


def files_of(folder: Path) -> set[str]:
    return {path.as_posix() for path in folder.rglob("*")}


def test_the_catalogue_is_whole() -> None:
    """At least eighty, some of every kind, and no message or data file without its case."""
    assert len(CASES) >= 80, len(CASES)
    assert {case.split("/")[0] for case in CASES} == {*AREAS, "images", "paths"}
    messages = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*.txt")}
    assert messages == {case.replace(".yaml", ".txt") for case in CASES}


@pytest.mark.promise(12, "bad inputs refused with exactly the expected message")
@pytest.mark.parametrize("case", CASES)
def test_bad_input(case: str, catalogue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir((catalogue / case).parent)
    before, name = files_of(catalogue), Path(case).name
    with pytest.raises(UserError) as caught:
        prepare(read_config(recipe_of(Path(name)), name), build_model=no_model)
    message = f"{caught.value}\n".replace(os.getcwd(), "<here>").replace(constants.HF_HUB_CACHE, "<cache>")
    expected = (FOLDER / case).with_suffix(".txt")
    if "WRITE_EXPECTED" in os.environ:
        expected.write_text(message, encoding="utf-8")
    assert message == expected.read_text(encoding="utf-8")
    assert str(catalogue) not in message and "Traceback" not in message
    assert files_of(catalogue) == before, "a file was written"


@pytest.mark.promise(12, "of them as commands with exit code 2")
@pytest.mark.parametrize("case", AS_COMMANDS)
def test_bad_input_as_a_command(case: str, catalogue: Path) -> None:
    """The same message on stderr, exit code 2, and nothing of the machinery."""
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "train", Path(case).name],
        cwd=(catalogue / case).parent,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == f"graft train: {(FOLDER / case).with_suffix('.txt').read_text(encoding='utf-8')}"
    assert done.stdout == ""
