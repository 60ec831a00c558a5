"""What a user gets: `make wheel-test` runs this with the Python of an environment that holds the built wheel alone.

In a folder outside of the checkout that has a `pipeline/` of its own, every command works, every recipe's file runs
under accelerate's launcher, and what needs an extra says which line installs it. Not one of pytest's files.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
}
WITHOUT = {
    "graft finetune tagged.yaml": "metrics",  # seqeval
    "graft finetune said.yaml --eval.metrics [bleu]": "metrics",  # sacrebleu
    "graft finetune said.yaml --eval.metrics [rouge]": "metrics",  # rouge-score
    "graft finetune my.yaml --report_to [tensorboard]": "tensorboard",
}
"""Command that needs a package which is not there -> the extra that its message has to name."""
SECOND = [  # one after another, and both lists at once
    "graft train my.yaml --dry_run",
    "graft sweep my.yaml --learning_rate 1e-4,1e-3",
    "graft rerun runs/finetune",
    "graft compare runs/finetune runs/lora",
]
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


def names_its_extra(folder: Path, command: str, extra: str) -> None:
    _, said = said_by(folder, f"{command} --output_dir runs/without-{extra}")
    assert f"pip install 'graft-pipeline[{extra}]'" in " ".join(said.split()), f"{command}\n{said}"


def main(folder: Path) -> None:
    make_folder(folder)
    assert "site-packages" in pipeline.__file__, pipeline.__file__
    commands = [name for name in app if not name.startswith("-")]
    ours, theirs = [], []
    for recipe, config in RECIPES.items():
        ours.append(f"graft {recipe} {config} --output_dir runs/{recipe}")
        theirs.append(f"accelerate launch {SITE}/recipes/{recipe}.py {config} --output_dir runs/{recipe}-launched")
    with ThreadPoolExecutor(2) as both:
        helps = [f"graft {name} --help" for name in commands]
        done = [both.submit(works, folder, *ours, *FIRST), both.submit(works, folder, *theirs, *helps)]
        [job.result() for job in done]
        done = [both.submit(works, folder, *SECOND)]
        done += [both.submit(names_its_extra, folder, *case) for case in WITHOUT.items()]
        [job.result() for job in done]
    tried = {command.split()[1] for command in [*ours, *FIRST, *SECOND] if command.startswith("graft")}
    assert tried | {"quickstart"} == set(commands), f"not tried here: {set(commands) - tried}"  # quickstart: `make run`


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
