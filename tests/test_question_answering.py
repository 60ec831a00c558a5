"""Answers as spans: windows, the best span, no answer, SQuAD's files, and its official scores."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from pipeline.data import DataConfig, load_splits
from pipeline.errors import DataError
from pipeline.metrics import load_metric
from pipeline.tasks.question_answering import QuestionAnswering, best_span, windows
from tests.synthetic import WORDS, answer_at, rows
from tests.tiny import tiny_tokenizer

XQUAD = Path(__file__).parents[2] / "shared" / "data" / "xquad_en"


def make_task(folder: Path, max_length: int = 24, **config: Any) -> QuestionAnswering:
    task = QuestionAnswering(QuestionAnswering.Config(name="question_answering", **config), DataConfig())
    task.use_tokenizer(AutoTokenizer.from_pretrained(tiny_tokenizer(folder)), max_length)
    return task


# -- the official scores ---------------------------------------------------------------------------------------------

DOCUMENTED: list[tuple[list[str], list[list[str]], float, float]] = [
    # the examples on the cards of evaluate's `squad` and `squad_v2`, which wrap the official scripts
    (["1976"], [["1976"]], 100.0, 100.0),
    (["1999"], [["1976"]], 0.0, 0.0),
    (
        ["1976", "Beyonce", "climate change"],
        [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]],
        66.66666666666667,
        66.66666666666667,
    ),
    # worked out by hand: articles, case, punctuation and white space do not count
    (["The  Broncos!"], [["broncos"]], 100.0, 100.0),
    # 2 shared of 3 and of 4 words: 2 * 2 / 7; the best of the references counts, not the first
    (["red green blue"], [["yellow", "red green white black"]], 0.0, 400 / 7),
    (["red"], [["blue", "red"]], 100.0, 100.0),
    # a word counts as often as both have it: 1 shared of 1 and of 3
    (["very"], [["very very good"]], 0.0, 50.0),
    # nothing but an article: SQuAD 1.1 finds the texts alike and no word shared
    (["a"], [["the"]], 100.0, 0.0),
]


@pytest.mark.parametrize(("predictions", "references", "exact", "f1"), DOCUMENTED)
def test_documented_scores(predictions: list[str], references: list[list[str]], exact: float, f1: float) -> None:
    columns = {"predictions": predictions, "references": references}
    assert load_metric("squad_exact_match").compute(**columns) == {"squad_exact_match": pytest.approx(exact)}
    assert load_metric("squad_f1").compute(**columns) == {"squad_f1": pytest.approx(f1)}


def test_rows_without_an_answer_are_scored_as_squad_2_does() -> None:
    columns = {
        "predictions": ["", "moon", "green hill", "", "a"],
        "references": [[], [], ["the hill"], ["hill"], ["the"]],  # the last has no word left, so nothing is right
    }
    assert load_metric("squad_f1").compute(**columns) == {
        "squad_f1": pytest.approx(100 * (1 + 0 + 2 / 3 + 0 + 1) / 5),
        "squad_f1_has_answer": pytest.approx(100 * (2 / 3 + 0 + 1) / 3),
        "squad_f1_no_answer": 50.0,
    }
    exact = load_metric("squad_exact_match").compute(**columns)
    assert exact["squad_exact_match"] == 40.0 and exact["squad_exact_match_has_answer"] == pytest.approx(100 / 3)


# -- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_length", "stride"), [(20, 0), (20, 5), (24, 8), (40, 10), (64, 16)])
def test_windows_are_those_of_the_tokenizer(max_length: int, stride: int, tmp_path: Path) -> None:
    task = make_task(tmp_path, max_length, doc_stride=stride)
    task.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert "token_type_ids" in task.tokenizer("a", "b")
    contexts = [" ".join(random.Random(count).choices(WORDS, k=count)) for count in (1, 5, 20, 60)]
    questions = ["the cat", "a", "who ran", "good moon"]
    expected = task.tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    answers = ["[]"] * len(questions)
    found = task.encode({"question": questions, "context": contexts, "answers": answers})
    assert found["input_ids"] == expected["input_ids"] and len(found["input_ids"]) > len(questions)
    assert found["example"] == expected["overflow_to_sample_mapping"]
    assert found["token_type_ids"] == expected["token_type_ids"]


def test_windows_go_on_however_little_room_there_is() -> None:
    parts = [None, 0, 0, None, *[1] * 9, None]
    assert windows(parts, 6, 128) == [[0, 1, 2, 3, at, 13] for at in range(4, 13)]
    for max_length in range(6, 20):
        found = windows(parts, max_length, 128)
        assert {at for window in found for at in window} == set(range(14))
        assert max(map(len, found)) <= max_length and len(found) == len({tuple(window) for window in found})
    assert len(windows(parts, 5, 128)[0]) > 5, "no room for the context"


def test_an_answer_is_learned_where_it_stands_and_nowhere_else(tmp_path: Path) -> None:
    task = make_task(tmp_path, 20, doc_stride=3)
    context = " ".join(random.Random(0).choices(WORDS, k=30)).split()
    cells = [json.dumps([answer_at(context, number)]) for number in range(len(context))] + ["[]"]
    text = " ".join(context)
    split = {"question": ["which"] * len(cells), "context": [text] * len(cells), "answers": cells}
    found = task.encode(split)
    held = np.zeros(len(cells), dtype=int)
    for window, number in enumerate(found["example"]):
        start, end = found["start_position"][window], found["end_position"][window]
        if start:
            held[number] += 1
            first, last = found["char_starts"][window][start], found["char_ends"][window][end]
            assert text[first:last].strip() == context[number]
        else:
            assert end == 0 and found["input_ids"][window][0] == task.tokenizer.cls_token_id
    assert held[:-1].min() >= 1 and held.max() >= 2 and held[-1] == 0
    assert held.sum() < len(found["example"]) / 2, "most windows hold another part of the text"


# -- from logits to answers ------------------------------------------------------------------------------------------


def test_the_best_span_is_the_best_of_all(tmp_path: Path) -> None:
    logits = torch.randn(5, 12, 2, generator=torch.Generator().manual_seed(0))
    context = torch.ones(5, 12, dtype=torch.bool)
    context[:, :3] = context[1, 9:] = context[4] = False
    for longest in (1, 4, 30):
        first, last, score = best_span(logits, context, longest)
        for row in range(4):
            spans = {
                (one, two): float(logits[row, one, 0] + logits[row, two, 1])
                for one in range(12)
                for two in range(one, min(12, one + longest))
                if context[row, one] and context[row, two]
            }
            best = max(spans, key=lambda span: spans[span])
            assert (int(first[row]), int(last[row])) == best and float(score[row]) == pytest.approx(spans[best])
        assert float(score[4]) == -torch.inf


def predict(task: QuestionAnswering, split: Dataset, wrong: float = 0.0) -> dict[str, Any]:
    """What the task makes of a model that points exactly at the targets, `wrong` more at [CLS] in every window."""
    encoded = Dataset.from_dict(task.encode(split[:]))
    batch = task.collate([encoded[number] for number in range(len(encoded))], [])
    logits = torch.zeros(*batch["input_ids"].shape, 2)
    row = torch.arange(len(logits))
    logits[row, batch["start_positions"], 0] = logits[row, batch["end_positions"], 1] = 5.0
    logits[row, batch["cls_positions"]] += wrong
    columns = {key: value.numpy() for key, value in task.postprocess(logits, batch).items()}
    assert all(value.ndim == 1 for value in columns.values()), "no logits are kept"
    return task.examples(columns, split, encoded)


@pytest.mark.parametrize("word", [0, -1])
def test_a_model_that_knows_everything_scores_everything(word: int, tmp_path: Path) -> None:
    """Many windows of a question become one answer, and a window without the answer does not speak against it."""
    task = make_task(tmp_path, 16)
    given = rows(task.columns(), 40, seed=1).to_list()
    for row in given:
        words = row["context"].split()
        row["answers"] = json.dumps([answer_at(words, word % len(words))] if row["answers"] else [])
    split = load_splits(DataConfig(), task.columns(), {"train": Dataset.from_list(given)})
    task.read_labels(split, None)
    columns = predict(task, split["train"], wrong=0.1)
    assert task.may_be_empty and columns["predictions"].count("") == sum(not known for known in columns["references"])
    for name in task.metrics():
        assert set(load_metric(name).compute(**columns).values()) == {100.0}


def test_no_answer_is_a_matter_of_the_threshold(tmp_path: Path) -> None:
    answer = {"question": "who", "context": "the cat sat", "answers": [answer_at(["the", "cat", "sat"], 1)]}
    none = {"question": "what", "context": "a dog ran over the hill", "answers": []}
    cases: list[tuple[list[Any], dict[str, Any], float, list[str]]] = [
        ([answer, none], {}, 4.9, ["cat", ""]),
        ([answer, none], {}, 5.1, ["", ""]),
        ([answer, none], {"null_score_diff_threshold": 1.0}, 5.1, ["cat", ""]),
        ([answer, answer], {}, 9.0, ["cat", "cat"]),  # SQuAD 1.1: there always is one
        ([answer, answer], {"version_2_with_negative": True}, 9.0, ["", ""]),
    ]
    for rows_of, settings, wrong, expected in cases:
        task = make_task(tmp_path, 32, **settings)
        split = load_splits(DataConfig(), task.columns(), {"train": Dataset.from_list(with_json(rows_of))})
        task.read_labels(split, None)
        assert predict(task, split["train"], wrong)["predictions"] == expected, settings


def with_json(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """An empty list and a list of objects have no common type in a dataset; their JSON has."""
    return [{**row, "answers": json.dumps(row["answers"])} for row in given]


# -- SQuAD's own files -----------------------------------------------------------------------------------------------


def nested(*questions: dict[str, Any]) -> str:
    paragraphs = [{"context": "the cat sat", "qas": list(questions)}]
    return json.dumps({"version": "v2.0", "data": [{"title": "cats", "paragraphs": paragraphs}]})


def test_nested_files_become_rows_with_their_places(tmp_path: Path) -> None:
    cat = {"id": "1", "question": "who", "answers": [{"text": "cat", "answer_start": 4}]}
    never = {"id": "2", "question": "when", "is_impossible": True, "answers": [{"text": "sat", "answer_start": 8}]}
    path = tmp_path / "dev.json"
    path.write_text(nested(cat, never))
    task = make_task(tmp_path / "tokenizer")
    found = load_splits(DataConfig(train_file=str(path)), task.columns())["train"]
    assert found["question"] == ["who", "when"] and found["context"] == ["the cat sat"] * 2
    assert [json.loads(cell) for cell in found["answers"]] == [cat["answers"], []]
    path.write_text(nested(cat, {**cat, "answers": [{"text": "cat", "answer_start": 5}]}))
    task = QuestionAnswering(task.config, DataConfig(train_file=str(path)))
    with pytest.raises(DataError) as caught:
        task.read_labels(load_splits(task.data, task.columns()), None)
    assert str(caught.value) == (
        f"{path} data[0].paragraphs[0].qas[1]: answers says that 'cat' starts at character 5 of the context, "
        "where 'at ' stands; correct it to 4"
    )


@pytest.mark.skipif(not XQUAD.is_dir(), reason="needs ../shared/data/xquad_en")
def test_real_questions_are_the_same_nested_and_flat(tmp_path: Path) -> None:
    task = make_task(tmp_path, 512, max_answer_length=200)
    flat = [str(XQUAD / f"{split}.jsonl") for split in ("train", "validation")]
    one = load_splits(DataConfig(train_file=str(XQUAD / "xquad.en.json")), task.columns())["train"]
    other = load_splits(DataConfig(train_file=flat), task.columns())["train"]
    task.read_labels({"train": one}, None)
    assert len(one) == 1190 and not task.may_be_empty
    assert sorted(zip(one["question"], one["context"], strict=True)) == sorted(
        zip(other["question"], other["context"], strict=True)
    )
    columns = predict(task, one.select(range(60)))
    assert load_metric("squad_exact_match").compute(**columns)["squad_exact_match"] == 100.0
