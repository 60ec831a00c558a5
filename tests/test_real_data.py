"""Short runs on real data and a real checkpoint, where they are; full runs are in benchmarks/quality."""

from __future__ import annotations

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pipeline import finetune, freeze, lora
from pipeline.api import read_config
from pipeline.data_report import describe_data, lines
from pipeline.errors import UserError
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
ALPACA: dict[str, Any] = {"prompt_column": ["instruction", "input"], "response_column": "output"}
CHATML, ZEPHYR = ({"name": "causal_lm", "chat_template": name} for name in ("chatml", "zephyr"))
GLAIVE = {"messages_column": "conversations", "tools_column": "tools"}
PAIRS = {"messages_column": "conversations"}
END = "<|endoftext|>"
"""EOS of the GPT-2 tokenizer."""


def alpaca(row: dict[str, Any]) -> list[str]:
    return [row["output"] + END]


def glaive(row: dict[str, Any]) -> list[str]:
    """Every turn of the assistant, a call as chatml writes it, up to the mark that ends it."""
    said = []
    for turn in row["conversations"]:
        if turn["from"] == "function_call":
            call = json.loads(turn["value"])
            if isinstance(call["arguments"], str):
                call["arguments"] = json.loads(call["arguments"])
            said.append(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call><|im_end|>")
        elif turn["from"] == "gpt":
            said.append(turn["value"] + "<|im_end|>")
    return said


def dpo(row: dict[str, Any]) -> list[str]:
    return [row["chosen"]["value"] + END, row["rejected"]["value"] + END]


FORMS: list[Any] = [
    ("identity", "causal_lm", ALPACA, alpaca),
    ("identity", ZEPHYR, ALPACA, alpaca),
    ("alpaca_en_demo", "causal_lm", ALPACA, alpaca),
    ("glaive_toolcall_en_demo", CHATML, GLAIVE, glaive),
    ("dpo_en_demo", {"name": "preference", "chat_template": "zephyr"}, PAIRS, dpo),
]


@pytest.fixture(scope="module")
def gpt2_start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama that reads GPT-2's tokens: real text has its real length."""
    if not DEMO.is_dir():
        pytest.skip(f"{DEMO.name} is not there")
    folder = tmp_path_factory.mktemp("start")
    tiny_checkpoint(folder, "llama", "AutoModelForCausalLM", vocab_size=50257, max_position_embeddings=16384)
    for file in (DATA / "gpt2_tokenizer").iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def demo(start: Path, name: str, task: Any, columns: dict[str, Any]) -> dict[str, Any]:
    rows = {"train_file": str(DEMO / f"{name}.json"), "max_length": 16384, **columns}
    return {"task": task, "model": {"model_name_or_path": str(start)}, "data": rows}


def learned_runs(tokenizer: Any, ids: list[int], trained: list[int]) -> list[str]:
    """The text of each run of tokens with a loss."""
    runs = [list(run) for flag, run in groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1]) if flag]
    return [tokenizer.decode([token for token, _ in run]) for run in runs]


@pytest.mark.parametrize(("name", "task", "columns", "said"), FORMS)
def test_llama_factory_files_are_read_as_they_are(
    name: str, task: Any, columns: dict[str, Any], said: Any, gpt2_start: Path, tmp_path: Path
) -> None:
    """Every row, and what is learned is letter by letter what the assistant says, {{name}} and calls included."""
    raw = json.loads((DEMO / f"{name}.json").read_text())
    given = {**demo(gpt2_start, name, task, columns), "output_dir": str(tmp_path / "run")}
    prepared = prepare(read_config("finetune", given))
    train, tokenizer = prepared.splits["train"], prepared.task.tokenizer
    assert len(train) == len(raw) and not any(train["truncated"])
    for feature, row in zip(train, raw, strict=True):
        if said is dpo:
            start = feature["num_prompt_tokens"]
            found = [tokenizer.decode(feature[f"{side}_input_ids"][start:]) for side in ("chosen", "rejected")]
        else:
            found = learned_runs(tokenizer, feature["input_ids"], feature["trained"])
        assert found == said(row)


@pytest.mark.parametrize("recipe", [finetune, lora], ids=lambda recipe: recipe.__name__)
@pytest.mark.parametrize(("name", "task", "columns"), [form[:3] for form in FORMS[1:]])
def test_llama_factory_files_are_learned_from(
    name: str, task: Any, columns: dict[str, Any], recipe: Any, gpt2_start: Path, tmp_path: Path
) -> None:
    """The shortest rows of each, by a real checkpoint of 512 positions where they fit."""
    given = demo(gpt2_start if "tools_column" in columns else STORIES, name, task, columns)
    rows = sorted(json.loads((DEMO / f"{name}.json").read_text()), key=lambda row: len(json.dumps(row)))
    (tmp_path / "rows.json").write_text(json.dumps(rows[:12]))
    given["data"] |= {"train_file": str(tmp_path / "rows.json"), "max_length": 512, "validation_split_fraction": 0.3}
    given |= {"num_train_epochs": 3, "train_batch_size": 4, "learning_rate": 1e-2, "mixed_precision": "no"}
    recipe({**given, "output_dir": str(tmp_path / "run"), "eval_steps": 100, "logging_steps": 1})
    events = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [event["loss"] for event in events if event["event"] == "train"]
    assert min(losses[-2:]) < losses[0]


def test_packed_demo_rows_are_counted(gpt2_start: Path, tmp_path: Path) -> None:
    given = demo(gpt2_start, "alpaca_en_demo", "causal_lm", {**ALPACA, "packing": "best_fit"})
    prepared = prepare(read_config("finetune", {**given, "output_dir": str(tmp_path / "run")}))
    train = prepared.splits["train"]
    (line,) = lines(describe_data(prepared.data))
    assert f"999 rows packed into {len(train)} blocks of 16384 tokens, 9" in line
    assert sum(len(lengths) for lengths in train["document_lengths"]) == 999


def test_what_marks_answers_one_by_one_is_refused(gpt2_start: Path, tmp_path: Path) -> None:
    """KTO's rows are no pairs, and no columns that are there can make them so."""
    for task, named in (("kto", "task: unknown name 'kto'"), ("preference", "no column 'chosen'")):
        given = demo(gpt2_start, "kto_en_demo", task, {"messages_column": "messages"})
        with pytest.raises(UserError, match=rf"{named}; .*only marked good or bad \(KTO\) are not learned from; give"):
            prepare(read_config("finetune", {**given, "output_dir": str(tmp_path / "run")}))
