"""The folder in which the documentation's examples run: what they name is there, small enough to be done in seconds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline import finetune, lora
from tests.doc_blocks import PAGES, ROOT, blocks_of
from tests.tiny import tiny_checkpoint

TEXTS = [
    ("a good film", "good"),
    ("a bad film", "bad"),
    ("the cat is happy", "good"),
    ("the dog is sad", "bad"),
    ("happy people in the sea", "good"),
    ("sad people in the rain", "bad"),
]
NAMED = re.compile(r"#\s*([\w-]+\.yaml)\b")
METRIC = """
import datasets
import evaluate


class MyMetric(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"my_metric": float(sum(a == b for a, b in zip(predictions, references)))}
"""


def make_folder(folder: Path) -> None:
    """Write `my.yaml` (the README's, and every other block that begins with `# NAME.yaml`) with a tiny model in place
    of the named one and two steps, `train`, `validation` and `test` files, `my_metric.py`, the recipes, and finished
    runs: `runs/x`, `runs/full`, `runs/frozen` and `runs/a` of all weights, `runs/lora` and `runs/b` with adapters,
    and `adapter`, which is what PEFT
    alone would have written."""
    tiny_checkpoint(folder / "start", "bert", "AutoModelForMaskedLM", num_hidden_layers=6)
    for split, copies in {"train": 5, "validation": 2, "test": 2}.items():
        rows = [
            {"text": f"{text} {split} {number}", "label": label} for number in range(copies) for text, label in TEXTS
        ]
        cells = "".join(f"{row['text']},{row['label']}\n" for row in rows)
        (folder / f"{split}.csv").write_text(f"text,label\n{cells}")
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "my_metric.py").write_text(METRIC)
    for name in ("recipes", "accelerate_configs"):
        (folder / name).symlink_to(ROOT / name)
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "yaml" and (named := NAMED.match(block.code)):
                (folder / named[1]).write_text(yaml.safe_dump(shrunk(yaml.safe_load(block.code))))
    make_runs(folder)


def shrunk(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration with the tiny model and two steps."""
    if "model_name_or_path" in config.get("model", {}):
        config["model"] = {**config["model"], "model_name_or_path": "start"}
    config["train"] = {**config.get("train", {}), "max_steps": 2, "train_batch_size": 8}
    return config


def make_runs(folder: Path) -> None:
    data = {"train_file": str(folder / "train.csv"), "validation_file": str(folder / "validation.csv")}
    given = {"task": "text_classification", "model": {"model_name_or_path": str(folder / "start")}, "data": data}
    finetune(given, max_steps=2, train_batch_size=8, output_dir=str(folder / "runs" / "full"))
    lora(given, max_steps=2, train_batch_size=8, output_dir=str(folder / "runs" / "lora"))
    for name, like in {"x": "full", "frozen": "full", "a": "full", "b": "lora"}.items():
        shutil.copytree(folder / "runs" / like, folder / "runs" / name)
    (folder / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(folder / "runs" / "lora" / "model" / name, folder / "adapter")
