"""Rows and settings made from what a task declares, so that a new task or strategy is tested without editing a test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.reliability.runs import WORDS
from pipeline.settings import RunConfig, make_task
from pipeline.strategies import STRATEGIES
from pipeline.tasks import TASKS
from tests.tiny import DECODERS, tiny_checkpoint

ARCHITECTURES = {
    "AutoModelForCausalLM": "llama",
    "AutoModelForMaskedLM": "bert",
    "AutoModelForSequenceClassification": "bert",
    "AutoModelForTokenClassification": "bert",
    "AutoModelForQuestionAnswering": "bert",
    "AutoModelForMultipleChoice": "bert",
    "AutoModel": "bert",
}
"""A new model class of a new task takes the next line."""
STRATEGY_SETTINGS: dict[str, dict[str, Any]] = {"freeze": {"num_layers": 1}, "lora": {"r": 2, "lora_alpha": 4}}
"""Settings a strategy cannot do without; one that is not here runs with its defaults."""
VARIANTS: dict[str, dict[str, Any]] = {
    "causal_lm": {"task": "causal_lm"},
    "causal_lm prompted": {"task": "causal_lm", "data": {"prompt_column": "prompt", "response_column": "response"}},
    "causal_lm chat": {
        "task": {"name": "causal_lm", "chat_template": "zephyr"},
        "data": {"messages_column": "messages", "system_column": "system"},
    },
    "causal_lm packed": {
        "task": "causal_lm",
        "data": {"prompt_column": ["prompt", "input"], "response_column": "response", "packing": "best_fit"},
    },
    "text_classification pair": {"task": "text_classification", "data": {"text_column": ["first", "second"]}},
    "text_classification multi-label": {
        "task": {"name": "text_classification", "problem_type": "multi_label_classification"}
    },
    "text_classification regression": {"task": {"name": "text_classification", "problem_type": "regression"}},
    **{name: {"task": name} for name in TASKS},
}
"""Every task, and the forms that some have."""


MADE: dict[str, Callable[[list[str]], Any]] = {
    "text": " ".join,
    "any_text": lambda words: "" if "sun" in words else words[0],
    "label": lambda words: "cats" if "cat" in words else "dogs" if "dog" in words else "other",
    "labels": lambda words: [word for word in ("cat", "dog", "moon") if word in words] or ["none"],
    "number": lambda words: len(words) / 4,
    "json messages": lambda words: json.dumps(
        [
            {"role": ("user", "assistant")[turn % 2], "content": words[turn % 2]}
            for turn in range(2 * (1 + len(words) % 2))
        ]
    ),
}
"""What a cell of a kind looks like, made from random words; `kind column` where a column needs cells of its own."""


def rows(columns: Mapping[str, str], count: int, seed: int = 0) -> Dataset:
    """Ragged rows of the kinds a task declares; labels follow from the text, so that there is something to learn."""
    draw = random.Random(seed)
    texts = [draw.choices(WORDS, k=draw.randint(2, 9)) for _ in range(count)]
    makers = {name: MADE.get(f"{kind} {name}") or MADE[kind] for name, kind in columns.items()}
    return Dataset.from_dict({name: [make(words) for words in texts] for name, make in makers.items()})


def settings(variant: str, strategy: str | None, checkpoint: Path, output_dir: Path, **more: Any) -> dict[str, Any]:
    """A complete small run as a mapping; `more` are flat overrides such as `max_steps=2`."""
    found: dict[str, Any] = {**VARIANTS[variant], "model": {"model_name_or_path": str(checkpoint)}}
    found["data"] = {"max_length": 64, "allow_overlap": True, **found.get("data", {})}
    if strategy:
        found[strategy] = STRATEGY_SETTINGS.get(strategy, {})
    flat = {"max_steps": 3, "train_batch_size": 8, "learning_rate": 1e-2, "mixed_precision": "no", "logging_steps": 1}
    return {**found, **flat, "output_dir": str(output_dir), **more}


def data_of(config: Any, count: int = 40) -> dict[str, Dataset]:
    """Synthetic train and validation rows for a configuration."""
    columns = make_task(config).columns()
    return {"train": rows(columns, count, seed=1), "validation": rows(columns, 13, seed=2)}


def model_class(variant: str) -> str:
    """The auto class of a variant's task."""
    task = VARIANTS[variant]["task"]
    return TASKS[task if isinstance(task, str) else task["name"]].model_class


def checkpoint_for(variant: str, folder: Path) -> Path:
    """A tiny random checkpoint for a task: the base model where the task brings its own head."""
    name = model_class(variant)
    kind = ARCHITECTURES[name]
    start = name if kind in DECODERS or name == "AutoModelForMaskedLM" else "AutoModelForMaskedLM"
    return tiny_checkpoint(folder, kind, start, attention_dropout=0.0) if kind in DECODERS else tiny_checkpoint(
        folder, kind, start, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )  # fmt: skip


RECIPE_OF: dict[str | None, str] = {None: "finetune", **dict.fromkeys(STRATEGIES, "finetune")}
RECIPE_OF |= {"freeze": "freeze", "lora": "lora"}
__all__ = ["RECIPE_OF", "RunConfig", "checkpoint_for", "data_of", "rows", "settings"]
