"""Short runs on real data and a real checkpoint, where they are; full runs are in benchmarks/quality."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import finetune, freeze, lora
from pipeline.api import read_config
from pipeline.data_report import describe_data, lines
from pipeline.prepare import prepare
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
    run = finetune(given, max_steps=20, output_dir=str(tmp_path / "run"))
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
    limits: dict[str, Any] = {
        "max_train_samples": 300,
        "max_eval_samples": 100,
        "max_steps": 6,
        "output_dir": str(tmp_path / "run"),
    }
    run = finetune(given, **limits)
    assert run.results["num_samples"] == {"train": 300, "validation": 100}


DEMO = DATA / "llama_factory_demo"


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        (
            "alpaca_en_demo",
            {"prompt_column": ["instruction", "input"], "response_column": "output", "packing": "best_fit"},
            999,
        ),
        ("glaive_toolcall_en_demo", {"messages_column": "conversations", "tools_column": "tools"}, 300),
        ("kto_en_demo", {"messages_column": "messages", "packing": "best_fit"}, 300),
    ],
)
def test_llama_factory_files_are_read_as_they_are(
    name: str, columns: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    """Every row, with the assistant's words and calls learned and nothing else."""
    if not DEMO.is_dir():
        pytest.skip(f"{DEMO.name} is not there")
    start = tiny_checkpoint(tmp_path / "start", "llama", "AutoModelForCausalLM", max_position_embeddings=65536)
    raw = json.loads((DEMO / f"{name}.json").read_text())
    given: dict[str, Any] = {
        "task": {"name": "causal_lm", "chat_template": "chatml"},
        "model": {"model_name_or_path": str(start)},
        "data": {"train_file": str(DEMO / f"{name}.json"), "max_length": 65536, **columns},
    }
    prepared = prepare(read_config("finetune", {**given, "output_dir": str(tmp_path / "run")}))
    train, tokenizer = prepared.splits["train"], prepared.task.tokenizer
    assert len(prepared.rows["train"]) == rows == len(raw) and not any(train["truncated"])
    if columns.get("packing") == "best_fit":
        (line,) = lines(describe_data(prepared.data))
        assert f"{rows} rows packed into {len(train)} blocks of 65536 tokens, 9" in line
        assert sum(len(lengths) for lengths in train["document_lengths"]) == rows
        return
    for feature, row in zip(train, raw, strict=True):
        learned = [token for token, flag in zip(feature["input_ids"], feature["trained"], strict=True) if flag]
        said = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
        calls = [json.loads(turn["value"])["name"] for turn in row["conversations"] if turn["from"] == "function_call"]
        text = tokenizer.decode(learned)
        assert text.count("<|im_end|>") == len(said) + len(calls)
        assert text.count("<tool_call>") == len(calls) and all(f'"name": "{call}"' in text for call in calls)
        assert all(words.strip()[:20] in text for words in said)
