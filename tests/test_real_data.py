"""Short runs on real data and a real checkpoint, where they are; full runs are in benchmarks/quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import finetune, freeze, lora
from tests.tiny import tiny_checkpoint

DATA = Path(__file__).parents[2] / "shared" / "data"
STORIES = DATA / "stories260K-llama"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not in {DATA.name} beside the project")


def test_stories_checkpoint_starts_where_it_was_measured_and_goes_down(tmp_path: Path) -> None:
    """The checkpoint's README: about 1.515 nats per token on pieces of this text."""
    text = (DATA / "tinystories_sample" / "tinystories.txt").read_text().replace("\n\n", "\n")
    pieces, current = [], ""
    for line in text.splitlines(keepends=True)[:2500]:
        if len(current) + len(line) > 1000:
            pieces.append(current)
            current = ""
        current += line
    for name, part in (("train", pieces[60:300]), ("validation", pieces[:60])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": piece}) + "\n" for piece in part))
    given: dict[str, Any] = {
        "task": "causal_lm",
        "model": {"model_name_or_path": str(STORIES)},
        "data": {
            "train_file": str(tmp_path / "train.jsonl"),
            "validation_file": str(tmp_path / "validation.jsonl"),
            "max_length": 512,
            "packing": "none",
        },
        **{"train_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 5, "mixed_precision": "no"},
    }
    start = finetune(given, max_steps=0, output_dir=str(tmp_path / "start"))
    run = finetune(given, max_steps=30, output_dir=str(tmp_path / "run"))
    assert 1.40 < start.metrics["loss"] < 1.65
    assert run.metrics["loss"] < start.metrics["loss"] - 0.01


@pytest.mark.parametrize("recipe", [finetune, freeze, lora], ids=lambda recipe: recipe.__name__)
def test_math_problems_as_prompts(recipe: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "task": "causal_lm",
        "model": {"model_name_or_path": str(STORIES)},
        "data": {
            "train_file": str(DATA / "gsm8k" / "train.jsonl"),
            "validation_file": str(DATA / "gsm8k" / "test.jsonl"),
            **{"prompt_column": "question", "response_column": "answer", "max_length": 512},
            **{"max_train_samples": 64, "max_eval_samples": 16},
        },
        **{"max_steps": 8, "train_batch_size": 8, "learning_rate": 3e-3, "output_dir": str(tmp_path / "run")},
    }
    given |= {"freeze": {"num_layers": 2}} if recipe is freeze else {}
    start = finetune({**given, "freeze": False, "max_steps": 0, "output_dir": str(tmp_path / "start")})
    assert recipe(given).metrics["loss"] < start.metrics["loss"]


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("text_classification", {"train_file": "sst2/train.tsv", "text_column": "sentence"}),
        ("text_classification", {"train_file": "mrpc/train.jsonl", "text_column": ["sentence1", "sentence2"]}),
        ("text_classification", {"train_file": "ag_news/train.csv"}),
        (
            {"name": "text_classification", "problem_type": "regression"},
            {"train_file": "stsb/train.csv", "text_column": ["sentence1", "sentence2"], "label_column": "score"},
        ),
        ("masked_lm", {"train_file": "tinyshakespeare/input.txt", "sample_by": "paragraph"}),
    ],
)
def test_data_sets_are_read_as_they_are(task: Any, data: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM")
    rows = {**data, "train_file": str(DATA / data["train_file"]), "max_length": 48, "validation_split_fraction": 0.1}
    given = {"task": task, "model": {"model_name_or_path": str(checkpoint)}, "data": rows}
    limits = {"max_train_samples": 300, "max_eval_samples": 100, "max_steps": 6, "output_dir": str(tmp_path / "run")}
    run = finetune(given, **limits)
    assert run.results["num_samples"] == {"train": 300, "validation": 100}
