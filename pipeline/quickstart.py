"""The main job: pretrain a small Llama on the standard library's own sources, then adapt it four ways and compare.

Real text that is on every machine, real files held out, fixed steps and one seed: the same machine and versions print
the same table. What is compared is the question graft exists for: scratch, freeze, adapt or tune everything?
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pipeline.api import run_recipe
from pipeline.data.stdlib import StdlibCorpus, collect, train_tokenizer
from pipeline.reports.compare import Comparison, compare
from pipeline.run import Run

LLAMA = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
VOCABULARY = 1024
PRETRAINING = {"max_steps": 1000, "train_batch_size": 8, "learning_rate": 2e-3}
"""Steps of 8 blocks of 128 tokens."""
ADAPTING = {"max_steps": 150, "train_batch_size": 16}
FOUR_WAYS: dict[str, dict[str, Any]] = {
    "scratch": {"learning_rate": 2e-3},
    "full": {"learning_rate": 1e-3},
    "frozen": {"learning_rate": 2e-3, "freeze": {"num_layers": 3}},
    "LoRA": {"learning_rate": 5e-3, "lora": {"r": 8, "lora_alpha": 16}},
}
"""Each way at the learning rate that was best for it among several: one rate for all would decide the comparison."""
SAMPLES = 3


def quickstart(output_dir: Path = Path("runs/quickstart"), *, seed: int = 0, steps_scale: float = 1.0) -> Comparison:
    """Do the whole job and write `compare.md`, `compare.json` and `compare.png` into `output_dir`.

    `steps_scale` shrinks or stretches every number of steps (for a test, or for more patience).
    """
    console = Console(soft_wrap=True, highlight=False)
    corpus = collect()
    paths = corpus.write(output_dir / "data")
    tokenizer = output_dir / "tokenizer"
    train_tokenizer(corpus.pretrain_train, VOCABULARY, tokenizer)
    console.print(_describe(corpus))
    common = {"seed": seed, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.1, "resume": "never"}

    def scaled(settings: Mapping[str, Any]) -> dict[str, Any]:
        return {**common, **settings, "max_steps": max(1, round(settings["max_steps"] * steps_scale))}

    start = {"config": LLAMA, "tokenizer_name_or_path": str(tokenizer)}
    text = {
        "train_file": str(paths["pretrain_train"]),
        "validation_file": str(paths["pretrain_validation"]),
        "max_length": 128,
        "max_eval_samples": 8,
    }
    pretrained = _step(console, output_dir, "pretrain", {"model": start, "data": text}, scaled(PRETRAINING))
    pairs = {
        "train_file": str(paths["docstrings_train"]),
        "validation_file": str(paths["docstrings_validation"]),
        "prompt_column": "signature",
        "response_column": "docstring",
        "max_length": 128,
    }
    checkpoint = {"model_name_or_path": str(pretrained.output_dir / "model")}
    runs: dict[str, Run] = {}
    for name, settings in {"untouched": {}, **FOUR_WAYS}.items():
        adapting = scaled({**ADAPTING, **settings}) | ({"max_steps": 0} if name == "untouched" else {})
        model = start if name == "scratch" else checkpoint
        runs[name] = _step(console, output_dir, name, {"model": model, "data": pairs}, adapting)
    comparison = compare(
        {name: run.output_dir for name, run in runs.items()},
        output_dir,
        title="Signature -> docstring on held-out files of the standard library",
        samples=samples(runs, corpus),
    )
    comparison.print(console)
    return comparison


def _step(console: Console, output_dir: Path, name: str, parts: dict[str, Any], settings: dict[str, Any]) -> Run:
    """One run of the job, by the recipe that its settings make it."""
    recipe = "pretrain" if "config" in parts["model"] else "freeze" if "freeze" in settings else "finetune"
    recipe = "lora" if "lora" in settings else recipe
    console.print(f"\n[bold]{name}[/bold]: {settings['max_steps']} steps ({recipe})")
    evaluation = {"eval_steps": max(1, settings["max_steps"] // 3)}
    tracking = {"output_dir": str(output_dir / name), "logging_steps": 50}
    return run_recipe(
        recipe, {"task": {"name": "causal_lm", "separator": ""}, **parts}, {**settings, **evaluation, **tracking}
    )


def samples(runs: Mapping[str, Run], corpus: StdlibCorpus) -> list[dict[str, Any]]:
    """What each model writes, greedily, under a few held-out signatures."""
    count = len(corpus.docstrings_validation)
    chosen = [corpus.docstrings_validation[index * count // SAMPLES] for index in range(SAMPLES)]
    return [
        {
            "prompt": signature,
            "reference": docstring,
            "outputs": {name: write(run, signature) for name, run in runs.items()},
        }
        for signature, docstring in chosen
    ]


def write(run: Run, prompt: str, *, longest: int = 40) -> str:
    """Greedy continuation of a prompt up to EOS."""
    tokenizer, model = run.tokenizer, run.model
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    with torch.inference_mode():
        out = model.eval().generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def _describe(corpus: StdlibCorpus) -> str:
    size = sum(len(text) for text in corpus.pretrain_train)
    return (
        f"standard library of Python {corpus.python_version}, fingerprint {corpus.fingerprint[:12]}: "
        f"{len(corpus.pretrain_train)} files ({size / 1e6:.1f} M characters) to pretrain on, "
        f"{len(corpus.docstrings_train)} signature and docstring pairs to adapt on, "
        f"{len(corpus.docstrings_validation)} from other files to score"
    )
