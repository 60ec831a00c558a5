"""Whole predictions, from what a model gives to the numbers, against the values that others published for them.

Every test goes the way of an evaluation: rows encoded into windows or targets, `postprocess`, `examples`, the metrics.
What single metrics say of published examples is in test_metrics.py, test_generated.py and test_question_answering.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from pipeline.data import DataConfig
from pipeline.evaluation import joined
from pipeline.metrics import load_metric
from pipeline.tasks import TASKS, Task
from tests.test_generated import PUBLISHED
from tests.tiny import tiny_tokenizer

CHUNKS = Path(__file__).parent / "published" / "conll2000_output.txt"
"""Of 40 sentences the tags that are right and those that were predicted, a line each: the last two columns of the file
`output.txt` of the CoNLL-2000 shared task, which seqeval 1.2.2 keeps as tests/data/ground_truth.txt.
"""
CONLLEVAL = {  # www.cnts.ua.ac.be/conll2000/chunking/output.html: what the task's own conlleval prints for that file
    "accuracy": "84.08",
    "precision": "68.83",
    "recall": "80.83",
    "f1": "74.35",
    "f1_ADJP": "0.00",
    "f1_ADVP": "52.63",
    "f1_NP": "71.16",
    "f1_PP": "90.36",
    "f1_SBAR": "44.44",
    "f1_VP": "73.80",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def task_of(name: str, tokenizer: Any, max_length: int, **data: Any) -> Any:
    task: Task = TASKS[name](TASKS[name].Config(name=name), DataConfig(train_file="none", **data))
    task.use_tokenizer(tokenizer, max_length)
    return task


def scored(task: Any, columns: dict[str, Any], rows: dict[str, Any], features: Any) -> dict[str, float]:
    found = task.examples({key: value.numpy() for key, value in columns.items()}, Dataset.from_dict(rows), features)
    results: dict[str, float] = {}
    for name in task.metrics():
        metric = load_metric(name)
        if set(metric.inputs) <= set(found):
            results |= metric.compute(**{key: found[key] for key in metric.inputs})
    return results


def one_by_one(features: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(features, row, strict=True)) for row in zip(*features.values(), strict=True)]


@pytest.mark.parametrize("max_length", [16, 512])
def test_chunks_as_conlleval_scores_them(tokenizer: Any, max_length: int) -> None:
    """961 words of 40 sentences; with 16 tokens at once nearly every sentence is cut into windows."""
    lines = [line.split() for line in CHUNKS.read_text().splitlines() if line]
    right, predicted = lines[::2], lines[1::2]
    assert len(right) == 40 and sum(map(len, right)) == 961
    rows = {"tokens": [["moon", "everything"] * 30] * 40, "ner_tags": right}
    rows["tokens"] = [words[: len(tags)] for words, tags in zip(rows["tokens"], right, strict=True)]
    task = task_of("token_classification", tokenizer, max_length)
    task.read_labels({"train": rows}, None)
    features = task.encode(rows)
    parts, windows = [], one_by_one(features)
    for start in range(0, len(windows), 7):
        batch = task.collate(windows[start : start + 7], [])
        logits = torch.rand((*batch["input_ids"].shape, len(task.label_names)))
        for window, scores in zip(windows[start : start + 7], logits, strict=True):
            for place, word in enumerate(window["words"]):
                if word >= 0:
                    scores[place, task.label_ids[predicted[window["example"]][word]]] = 2.0
        parts.append(task.postprocess(logits, batch)["predictions"])
    found = scored(task, {"predictions": joined(parts)}, rows, features)
    assert {name: f"{100 * found[name]:.2f}" for name in CONLLEVAL} == CONLLEVAL
    assert sum(value for name, value in found.items() if name.startswith("support_")) == 459, "phrases, as it counts"


@pytest.mark.parametrize("name", PUBLISHED)
def test_texts_as_their_sources_score_them(tokenizer: Any, name: str) -> None:
    """What a model wrote, as token ids, back to texts and to the published number."""
    predictions, references, expected = PUBLISHED[name]
    task = task_of("seq2seq", tokenizer, 64)
    ids = tokenizer(predictions, add_special_tokens=False)["input_ids"]
    written = joined([torch.tensor([[*row, tokenizer.eos_token_id]]) for row in ids])
    rows = {"text": ["a"] * len(references), "target": references}
    found = task.examples({"written": written.numpy()}, Dataset.from_dict(rows), None)
    results = load_metric(name).compute(predictions=found["predictions"], references=found["references"])
    assert {key: f"{results[key]:.{len(value.partition('.')[2])}f}" for key, value in expected.items()} == expected


def test_answers_as_squad_scores_them(tokenizer: Any) -> None:
    """Two of three answers right: the card of evaluate's `squad` (metrics/squad/README.md), which wraps the official
    script, prints 66.66666666666667 for both numbers."""
    answers = ["1976", "Beyoncé and Bruno Mars", "climate change"]
    context = "In 1976 climate change was seen by Beyonce, and later by Beyoncé and Bruno Mars, and then by all others"
    wanted = [json.dumps([{"text": text, "answer_start": context.index(text)}]) for text in answers]
    rows = {"question": ["who"] * 3, "context": [context] * 3, "answers": wanted}
    task = task_of("question_answering", tokenizer, 40)
    task.read_labels({"train": Dataset.from_dict(rows)}, None)
    features = task.encode(rows)
    assert len(features["example"]) > 6, "windows"
    batch = task.collate(one_by_one(features), [])
    logits = torch.rand((*batch["input_ids"].shape, 2))
    for row, example in enumerate(features["example"]):
        text = ["1976", "Beyonce", "climate change"][example]
        first = batch["char_starts"][row] == context.index(text)
        last = batch["char_ends"][row] == context.index(text) + len(text)
        if first.any() and last.any():
            logits[row, first, 0] = logits[row, last, 1] = 5.0
    found = scored(task, task.postprocess(logits, batch), rows, features)
    assert found == pytest.approx({"squad_exact_match": 66.66666666666667, "squad_f1": 66.66666666666667})
