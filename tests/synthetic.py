"""Rows and settings made from what a task declares, so that a new task or strategy is tested without editing a test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from benchmarks.reliability.runs import WORDS
from pipeline.settings import RunConfig, make_task
from pipeline.strategies import STRATEGIES
from pipeline.tasks import TASKS, Task
from tests.tiny import DECODERS, ENCODER_DECODERS, VISION, tiny_checkpoint

ARCHITECTURES = {
    "AutoModelForCausalLM": "llama",
    "AutoModelForMaskedLM": "bert",
    "AutoModelForSequenceClassification": "bert",
    "AutoModelForTokenClassification": "bert",
    "AutoModelForQuestionAnswering": "bert",
    "AutoModelForMultipleChoice": "bert",
    "AutoModelForImageClassification": "vit",
    "AutoModel": "bert",
    "AutoModelForSeq2SeqLM": "t5",
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
    "image_classification augmented": {
        "task": {"name": "image_classification", "random_resized_crop": {"scale": [0.6, 1.0]}, "horizontal_flip": 0.3}
    },
    "embedding scored": {
        "task": {"name": "embedding", "score_range": [0, 3]},
        "data": {"text_column": ["sentence1", "sentence2"], "label_column": "score"},
    },
    "token_classification spans": {
        "task": {"name": "token_classification", "label_format": "spans", "label_all_tokens": True, "stride": 3},
        "data": {"max_length": 12},
    },
    **{name: {"task": name} for name in TASKS},
    "question_answering": {"task": "question_answering", "data": {"max_length": 16}},  # windows that overlap
    # the usual scale of 20 makes gradients, and what rounding does to them, many times those of the other tasks
    "embedding": {"task": {"name": "embedding", "scale": 5.0}},
    "seq2seq": {"task": {"name": "seq2seq", "generate": {"max_new_tokens": 8}}},
}
"""Every task, and the forms that some have."""


MATRIX: list[tuple[str, str | None]] = [
    (variant, strategy)
    for variant in VARIANTS
    for strategy in (None, *STRATEGIES)
    if strategy is None or variant in TASKS
]
"""Every task with every strategy, and the other forms of a task with all weights."""
SHORT_MATRIX = [
    (task, strategy) for task, strategy in MATRIX if task in TASKS and (strategy is None or task == "causal_lm")
]
"""Every task, and every strategy with one of them: for what takes long."""


def turned(texts: list[str], by: int) -> list[str]:
    """The same texts beginning elsewhere."""
    return texts[by:] + texts[:by]


def answer_at(words: list[str], number: int) -> dict[str, Any]:
    """A word of a text as an answer, with the number of its first character."""
    return {"text": words[number], "answer_start": len(" ".join([*words[:number], ""]))}


def picture(words: list[str]) -> Any:
    """Noise, brighter in one half when the words speak of cats, in the other when of dogs."""
    pixels = np.random.default_rng(list(" ".join(words).encode())).integers(0, 120, (20, 24, 3), dtype=np.uint8)
    pixels[:, :12] += np.uint8(120 * ("cat" in words))
    pixels[:, 12:] += np.uint8(120 * ("dog" in words))
    return Image.fromarray(pixels)


MADE: dict[str, Callable[[list[str]], Any]] = {
    "text": " ".join,
    "text chosen": lambda words: " ".join(["good", *words[:3]]),
    "text rejected": lambda words: " ".join(["bad", *reversed(words)]),
    "any_text": lambda words: "" if "sun" in words else words[0],
    "label": lambda words: "cats" if "cat" in words else "dogs" if "dog" in words else "other",
    "labels": lambda words: [word for word in ("cat", "dog", "moon") if word in words] or ["none"],
    "number": lambda words: len(words) / 4,
    "texts choices": lambda words: turned(["cats", "dogs", "other", "birds"][: 3 + len(words) % 2], len(words) % 3),
    "text question": lambda words: words[-1],
    "json answers": lambda words: [] if "moon" in words else [answer_at(words, len(words) - 1)],
    "image": picture,
    "text positive": lambda words: " ".join(reversed(words)),
    "text sentence2": lambda words: words[0],
    "texts": list,
    "tags": lambda words: [f"B-{word}" if word in ("cat", "dog") else "O" for word in words],
    "json spans": lambda words: json.dumps(
        [
            {"start": sum(map(len, words[:place])) + place, "end": len(" ".join(words[: place + 1])), "label": word}
            for place, word in enumerate(words)
            if word in ("cat", "dog")
        ]
    ),
    "text target": lambda words: " ".join(reversed(words)),
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
    length = {"max_length": 64} if task_of(variant).modality == "text" else {}
    found["data"] = {**length, "allow_overlap": True, **found.get("data", {})}
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
    return task_of(variant).model_class


def task_of(variant: str) -> type[Task]:
    """The class of a variant's task."""
    task = VARIANTS[variant]["task"]
    return TASKS[task if isinstance(task, str) else task["name"]]


def checkpoint_for(variant: str, folder: Path) -> Path:
    """A tiny random checkpoint for a task: the base model where the task brings its own head."""
    name = model_class(variant)
    kind = ARCHITECTURES[name]
    if kind in VISION:
        return tiny_checkpoint(folder, kind, "AutoModelForMaskedImageModeling")
    if kind in ENCODER_DECODERS:
        return tiny_checkpoint(folder, kind, name, dropout_rate=0.0)
    start = name if kind in DECODERS or name in ("AutoModelForMaskedLM", "AutoModel") else "AutoModelForMaskedLM"
    return tiny_checkpoint(folder, kind, start, attention_dropout=0.0) if kind in DECODERS else tiny_checkpoint(
        folder, kind, start, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )  # fmt: skip


RECIPE_OF: dict[str | None, str] = {None: "finetune", **dict.fromkeys(STRATEGIES, "finetune")}
RECIPE_OF |= {"freeze": "freeze", "lora": "lora"}
__all__ = ["RECIPE_OF", "WORDS", "RunConfig", "answer_at", "checkpoint_for", "data_of", "rows", "settings"]
