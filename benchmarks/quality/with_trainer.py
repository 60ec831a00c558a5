"""The same fine-tuning with Hugging Face's Trainer: what of a distance to a reference is graft's, and what is not.

    python -m benchmarks.quality.with_trainer --data ../shared/data --encoder PATH_OF_ALL_MINILM_L6_V2 NAME --seed 0

NAME is a text classification or regression of `encoder.py` with all weights tuned. Start, rows, truncation, batch size,
learning rate, schedule, weight decay, epochs and precision are those of the experiment; the order of rows, dropout and
the new head are drawn by Trainer. The result lands in results/trainer/NAME-SEED.json.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.quality.experiments import EXPERIMENTS
from benchmarks.quality.run import filled
from benchmarks.quality.tables import HERE, write_tables
from pipeline.accelerator import available_device, resolve_precision
from pipeline.data import DataConfig, load_splits
from pipeline.manifest import describe_machine
from pipeline.optim import OptimConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/trainer"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = filled(EXPERIMENTS[options.name][1], {"data": options.data, "encoder": options.encoder})
    began = time.monotonic()
    metrics = train(settings, options.seed, options.work / options.name)
    result = {
        "name": options.name,
        "seed": options.seed,
        "command": f"python -m benchmarks.quality.with_trainer --data DATA --encoder ENCODER --seed {options.seed} "
        f"{options.name}",
        "metrics": metrics,
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")},
        "cpu_threads": torch.get_num_threads(),
        "device": describe_machine(available_device())["device"],
        "seconds": round(time.monotonic() - began, 1),
    }
    (HERE / "results" / "trainer").mkdir(parents=True, exist_ok=True)
    path = HERE / "results" / "trainer" / f"{options.name}-{options.seed}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    write_tables()


def train(settings: dict[str, Any], seed: int, output: Path) -> dict[str, float]:
    """Validation metrics of the last step."""
    set_seed(seed)
    device = available_device()
    encoder = settings["model"]["model_name_or_path"]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    columns = settings["data"]["text_column"]
    columns = [columns] if isinstance(columns, str) else columns
    regression = settings["task"]["problem_type"] == "regression"
    target = settings["data"].get("label_column", "label")
    kinds = {**dict.fromkeys(columns, "text"), target: "number" if regression else "label"}
    splits = load_splits(DataConfig(**settings["data"]), kinds)
    if rows := settings.get("max_train_samples"):
        splits["train"] = splits["train"].select(range(rows))

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        inputs = tokenizer(
            *(batch[name] for name in columns), truncation=True, max_length=settings["data"]["max_length"]
        )
        return {**inputs, "labels": [float(label) if regression else int(label) for label in batch[target]]}

    encoded = {split: datasets.Dataset.from_dict(encode(part[:])) for split, part in splits.items()}
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=settings["num_train_epochs"],
        per_device_train_batch_size=settings.get("train_batch_size", 32),
        per_device_eval_batch_size=64,
        learning_rate=settings["learning_rate"],
        lr_scheduler_type=settings["lr_scheduler_type"],
        warmup_steps=settings["warmup_steps"],
        weight_decay=settings.get("weight_decay", OptimConfig().weight_decay),
        train_sampling_strategy=settings["train_sampling_strategy"],
        max_grad_norm=1.0,
        bf16=resolve_precision("auto", device) == "bf16",
        use_cpu=device.type == "cpu",
        seed=seed,
        save_strategy="no",
        report_to="none",
        logging_steps=100,
    )
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1 if regression else 2),
        args=arguments,
        train_dataset=encoded["train"],
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    found = trainer.predict(encoded["validation"])
    labels = found.label_ids
    if regression:
        scores = found.predictions[:, 0]
        return {"pearson": float(pearsonr(scores, labels)[0]), "spearman": float(spearmanr(scores, labels)[0])}
    predictions = np.argmax(found.predictions, axis=1)
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "f1": float(f1_score(labels, predictions)),
        "matthews_correlation": float(matthews_corrcoef(labels, predictions)),
    }


if __name__ == "__main__":
    main()
