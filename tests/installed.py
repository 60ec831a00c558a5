"""What a user gets: `make wheel-test` runs this with the Python of an environment that holds the built wheel alone.

In a folder outside of the checkout that has a `pipeline/` of its own, every command works, every recipe's file runs
under accelerate's launcher, and what needs an extra says which line installs it. Not one of pytest's files.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from PIL import Image  # matplotlib brings it along

import pipeline
from pipeline.__main__ import app

BIN, SITE = Path(sys.executable).parent, Path(pipeline.__file__).parents[1]
INHERITED = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
DATA = {"train_file": "train.csv", "validation_file": "validation.csv"}
START = {"model_name_or_path": "start"}
TINY = {"data": DATA, "train": {"max_steps": 2, "train_batch_size": 8}}
CONFIGS: dict[str, dict[str, Any]] = {
    "my": {**TINY, "task": "text_classification", "model": START},
    "scratch": {**TINY, "task": "causal_lm"},  # its model is added below
    "tagged": {"task": "token_classification", "model": START, "data": dict.fromkeys(DATA, "tagged.conll")},
    "pictured": {"task": "image_classification", "model": START, "data": {"train_file": "images"}},
    "said": {
        "task": "seq2seq",
        "model": {"model_name_or_path": "start-t5"},
        "data": {**DATA, "text_column": "text", "target_column": "label"},
    },
}
RECIPES = {
    "pretrain": "scratch.yaml",
    "finetune": "my.yaml",
    "freeze": "my.yaml --freeze.num_layers 1",
    "lora": "my.yaml",
    "train": "my.yaml",
}
TRACKERS = ["tensorboard", "trackio", "wandb", "mlflow"]
WITHOUT = {
    "graft finetune tagged.yaml": ["metrics"],  # seqeval
    "graft finetune said.yaml --eval.metrics [bleu]": ["metrics"],  # sacrebleu
    "graft finetune said.yaml --eval.metrics [rouge]": ["metrics"],  # rouge-score
    f"graft finetune my.yaml --max_steps 1 --report_to [{','.join(TRACKERS)}]": TRACKERS,
}
"""Command that needs packages which are not there -> the extras that its message has to name."""
WITHOUT_PILLOW = "graft finetune pictured.yaml"
NOT_NAMED = ["all", "dev", "trackers", "gpu"]
"""Extras of other extras, what only developers need, and one that is named where there is a GPU."""
FIRST = [
    "graft predict runs/lora --file validation.csv --out labels.jsonl",
    "graft evaluate runs/finetune",
    "graft merge runs/lora --out merged",
    "graft push runs/finetune --hub_model_id me/mine --dry_run",
    "graft data my.yaml",
    "graft env",
    "graft config show my.yaml",
    "graft config schema",
    "graft completion --shell bash --output completion.bash",
]
SECOND = [  # one after another, and beside those that lack a package
    "graft lora my.yaml --num_processes 2 --output_dir runs/two",
    "graft sweep my.yaml --learning_rate 1e-4,1e-3",
    "graft rerun runs/finetune",
    "graft compare runs/finetune runs/lora",
]


def make_folder(folder: Path) -> None:
    """Rows, tiny random models, configurations, and a package of the user's that has our name."""
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "__init__.py").write_text("raise RuntimeError('the pipeline of this folder was imported')\n")
    tiny = runpy.run_path(str(Path(__file__).with_name("tiny.py")))
    tiny["tiny_checkpoint"](folder / "start", "bert", "AutoModelForMaskedLM")
    tiny["tiny_tokenizer"](folder / "tokenizer", style="decoder")
    tiny["tiny_checkpoint"](folder / "start-t5", "t5", "AutoModelForSeq2SeqLM")
    CONFIGS["scratch"]["model"] = {"config": tiny["tiny_config"]("llama"), "tokenizer_name_or_path": "tokenizer"}
    for name, config in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(json.dumps(config))  # JSON is YAML
    for name in ("train", "validation"):
        rows = [f"{name}: the cat number {n} is good,good\n{name}: the dog number {n} is bad,bad\n" for n in range(12)]
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    for name in ("good", "bad"):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "images" / name / "1.png")
    (folder / "tagged.conll").write_text("Ada B-person\nsings O\n\n" * 8)


def said_by(folder: Path, command: str) -> tuple[int, str]:
    """Exit code and output of a command that is run in the folder, offline."""
    words = command.split()
    alone = {"HOME": str(folder), "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([BIN / words[0], *words[1:]], cwd=folder, env={**INHERITED, **alone}, capture_output=True)
    print(f"exit code {done.returncode}: {command}", flush=True)
    return done.returncode, (done.stdout + done.stderr).decode()


def works(folder: Path, *commands: str) -> None:
    for command in commands:
        code, said = said_by(folder, command)
        assert code == 0, f"{command}\n{said}"


def names_its_extras(folder: Path, command: str, extras: list[str]) -> None:
    _, said = said_by(folder, f"{command} --output_dir runs/without-{extras[0]}")
    lines = [f"pip install 'graft-pipeline[{extra}]'" for extra in extras]
    assert all(line in " ".join(said.split()) for line in lines), f"{command}\n{said}"


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Without a package, where another one brings it along."""
    package = Path(str(importlib.import_module(name).__file__)).parent
    aside = package.rename(package.with_name(f"{name}-aside"))
    try:
        yield
    finally:
        aside.rename(package)


def is_whole(run: Path) -> None:
    """A run's folder as the README shows it."""
    wanted = ["README.md", "config.yaml", "manifest.json", "results.json", "curves.png", "model/config.json"]
    missing = [name for name in wanted if not (run / name).is_file()]
    assert not missing, f"{run} has no {', '.join(missing)}"


def main(folder: Path) -> None:
    make_folder(folder)
    assert "site-packages" in pipeline.__file__, pipeline.__file__
    assert (SITE / "pipeline" / "py.typed").is_file()
    assert all(pipeline.__getattr__(name) for name in pipeline.__all__)
    commands = [name for name in app if not name.startswith("-")]
    ours, theirs = [], []
    for recipe, config in RECIPES.items():
        ours.append(f"graft {recipe} {config} --output_dir runs/{recipe}")
        theirs.append(f"accelerate launch {SITE}/recipes/{recipe}.py {config} --output_dir runs/{recipe}-launched")
    assert set(RECIPES) == {path.stem for path in SITE.glob("recipes/[!_]*.py")}
    with hidden("PIL"):
        names_its_extras(folder, WITHOUT_PILLOW, ["vision"])
    with ThreadPoolExecutor(2) as both:
        helps = [f"graft {name} --help" for name in [*commands, "config show", "config schema"]]
        done = [both.submit(works, folder, *ours, *FIRST), both.submit(works, folder, *theirs, *helps)]
        [job.result() for job in done]
        for recipe in RECIPES:
            is_whole(folder / "runs" / recipe)
            is_whole(folder / "runs" / f"{recipe}-launched")
        done = [both.submit(works, folder, *SECOND)]
        done += [both.submit(names_its_extras, folder, *case) for case in WITHOUT.items()]
        [job.result() for job in done]
    is_whole(folder / "runs" / "two")
    tried = {command.split()[1] for command in [*ours, *FIRST, *SECOND]}
    assert tried | {"quickstart"} == set(commands), f"not tried here: {set(commands) - tried}"  # quickstart: `make run`
    named = {"vision", *(extra for extras in WITHOUT.values() for extra in extras)}
    assert named | set(NOT_NAMED) == set(metadata("graft-pipeline").get_all("Provides-Extra") or [])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
