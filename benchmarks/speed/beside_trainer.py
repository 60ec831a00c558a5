"""The same work by graft and by Hugging Face's Trainer, in turns on one machine: rows per second and peak memory.

    python -m benchmarks.speed.beside_trainer --data ../shared/data --encoder PATH_OF_ALL_MINILM_L6_V2 NAME ...

Start, rows and their order, batch, padding, precision, optimizer and rate are the same; both log every ten steps. A
turn is a run of WARM + STEPS optimizer steps, of which the first WARM are not timed, nor is what lies around the steps.
The first turn of each side is not counted: whoever is first pays for the start of the device. Results land in
results/NAME-DEVICE.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from pipeline import finetune, pretrain
from pipeline.accelerator import available_device, resolve_precision
from pipeline.manifest import describe_machine, write_json

WARM, STEPS = 10, 40
SHAPES = {
    "gpt2_small_blocks": {"n_embd": 128, "n_layer": 4, "n_head": 4, "n_positions": 256},
    "gpt2_124m_blocks": {"n_positions": 1024},
}
NAMES = ("minilm_mrpc", *SHAPES)
BATCH = {"minilm_mrpc": 32, "gpt2_small_blocks": 16, "gpt2_124m_blocks": 16}
RATE = 1e-4


class Clock:
    """Times the steps of one turn after WARM of them."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0

    def step(self, number: int) -> None:
        if number not in (WARM, WARM + STEPS):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number == WARM:
            self.began = time.perf_counter()
        else:
            self.seconds = time.perf_counter() - self.began


class Told(TrainerCallback):
    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.clock.step(state.global_step)


def by_graft(name: str, data: Path, encoder: Path, folder: Path, clock: Clock) -> None:
    recipe, settings = (finetune, mrpc(data, encoder)) if name == "minilm_mrpc" else (pretrain, text(name, data))
    recipe(
        settings,
        output_dir=str(folder / "graft"),
        max_steps=WARM + STEPS,
        train_batch_size=BATCH[name],
        learning_rate=RATE,
        warmup_steps=0,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        logging_steps=10,
        save_steps=10**6,
        resume="never",
        on_step=lambda event: clock.step(event.step),
    )


def mrpc(data: Path, encoder: Path) -> dict[str, Any]:
    files = {"train_file": str(data / "mrpc/train.jsonl"), "text_column": ["sentence1", "sentence2"]}
    return {
        "task": "text_classification",
        "model": {"model_name_or_path": str(encoder)},
        "data": {**files, "max_length": 128},
    }


def text(name: str, data: Path) -> dict[str, Any]:
    shape = SHAPES[name]
    return {
        "task": "causal_lm",
        "model": {"config": {"model_type": "gpt2", **shape}, "tokenizer_name_or_path": str(data / "gpt2_tokenizer")},
        "data": {"train_file": str(data / "tinyshakespeare/input.txt"), "max_length": shape["n_positions"]},
    }


def by_trainer(name: str, data: Path, encoder: Path, folder: Path, clock: Clock) -> None:
    set_seed(0)
    rows, model, collator = parts_of(name, data, encoder)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=WARM + STEPS,
        per_device_train_batch_size=BATCH[name],
        learning_rate=RATE,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        optim="adamw_torch_fused",
        max_grad_norm=1.0,
        bf16=resolve_precision("auto", available_device()) == "bf16",
        use_cpu=available_device().type == "cpu",
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[Told(clock)]).train()


def parts_of(name: str, data: Path, encoder: Path) -> tuple[datasets.Dataset, Any, Callable[..., Any]]:
    if name == "minilm_mrpc":
        tokenizer = AutoTokenizer.from_pretrained(encoder)
        read = [json.loads(line) for line in (data / "mrpc/train.jsonl").read_text(encoding="utf-8").splitlines()]
        pairs = [[row[column] for row in read] for column in ("sentence1", "sentence2")]
        columns = {**tokenizer(*pairs, truncation=True, max_length=128), "labels": [int(row["label"]) for row in read]}
        model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
        return datasets.Dataset.from_dict(columns), model, DataCollatorWithPadding(tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(data / "gpt2_tokenizer")
    ids = tokenizer((data / "tinyshakespeare/input.txt").read_text())["input_ids"]
    size = SHAPES[name]["n_positions"]
    blocks = [ids[start : start + size] for start in range(0, len(ids) - size, size)]
    config = AutoConfig.for_model("gpt2", vocab_size=len(tokenizer), **SHAPES[name])
    model = AutoModelForCausalLM.from_config(config)
    return datasets.Dataset.from_dict({"input_ids": blocks, "labels": blocks}), model, default_data_collator


SIDES = {"graft": by_graft, "trainer": by_trainer}


def turn(side: str, name: str, data: Path, encoder: Path) -> dict[str, float]:
    """Rows per second, and on a GPU the bytes of its memory in use at most."""
    on_gpu, clock = torch.cuda.is_available(), Clock()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        SIDES[side](name, data, encoder, Path(folder), clock)
    peak = {"peak_memory_bytes": float(torch.cuda.max_memory_allocated())} if on_gpu else {}
    return {"rows_per_second": STEPS * BATCH[name] / clock.seconds, **peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=NAMES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    options = parser.parse_args()
    machine = describe_machine(available_device())
    for name in options.names:
        turns: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for number in range(options.turns):
            for side in (list(SIDES), list(SIDES)[::-1])[number % 2]:
                turns[side].append(turn(side, name, options.data, options.encoder))
        counted = {side: [one["rows_per_second"] for one in found[1:]] for side, found in turns.items()}
        rates = {side: statistics.median(found) for side, found in counted.items()}
        result = {
            "name": name,
            "command": f"python -m benchmarks.speed.beside_trainer --data DATA --encoder ENCODER {name}",
            "ratio": rates["graft"] / rates["trainer"],
            "median_rows_per_second": rates,
            "turns": turns,
            "batch": BATCH[name],
            "steps_timed": STEPS,
            "precision": resolve_precision("auto", available_device()),
            "cpu_threads": torch.get_num_threads(),
            **machine,
        }
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / f"{name}-{machine['device'].replace(' ', '_')}.json", result)
        print(f"{name}: graft {rates['graft']:.1f}, Trainer {rates['trainer']:.1f} rows/s", flush=True)


if __name__ == "__main__":
    main()
