"""Words to labelled tokens and back: windows, merging, and a trained model that transformers' own pipeline can use."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline import finetune
from pipeline.data import DataConfig
from pipeline.errors import ConfigError
from pipeline.tasks import TASKS
from pipeline.tasks.base import IGNORED, TOGETHER
from pipeline.tasks.token_classification import TokenClassification
from pipeline.tasks.windows import needs_spaces, owners, windows_of
from tests.tiny import tiny_checkpoint, tiny_tokenizer

WORDS = ["the", "cat", "sat", "on", "everything", "0123456789", "moon", ",", "é"]
TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def task_of(tokenizer: Any, rows: dict[str, Any], max_length: int, **config: Any) -> TokenClassification:
    task = TASKS["token_classification"](
        TokenClassification.Config(name="token_classification", **config), DataConfig(train_file="none")
    )
    assert isinstance(task, TokenClassification)
    task.read_labels({"train": rows}, None)
    task.use_tokenizer(tokenizer, max_length)
    return task


def random_rows(count: int = 30, longest: int = 40) -> dict[str, Any]:
    draw = random.Random(0)
    tokens = [draw.choices(WORDS, k=draw.randint(1, longest)) for _ in range(count)]
    return {"tokens": tokens, "ner_tags": [[draw.choice(TAGS) for _ in row] for row in tokens]}


@given(lengths=st.integers(1, 60), room=st.integers(2, 12), stride=st.integers(0, 11))
@settings(max_examples=60)
def test_each_token_belongs_to_the_window_that_sees_most(lengths: int, room: int, stride: int) -> None:
    stride = min(stride, room - 1)
    starts = [0]
    while starts[-1] + room < lengths:
        starts.append(starts[-1] + room - stride)
    ends = [min(start + room, lengths) for start in starts]
    owner = owners(starts, [end - start for start, end in zip(starts, ends, strict=True)])

    def seen(window: int, token: int) -> float:
        left = token - starts[window] if starts[window] else np.inf
        return min(left, ends[window] - 1 - token if ends[window] < lengths else np.inf)

    for token in range(lengths):
        holding = [number for number in range(len(starts)) if starts[number] <= token < ends[number]]
        most = max(seen(window, token) for window in holding)
        assert owner[token] == next(window for window in holding if seen(window, token) == most)


@pytest.mark.parametrize("everything", [False, True])
def test_every_word_counts_once(tokenizer: Any, everything: bool) -> None:
    """However windows overlap, a word is learned once (or each of its tokens), and its tag is its own."""
    rows = random_rows()
    for max_length, stride in ((6, 3), (9, 0), (12, None), (64, 20)):
        task = task_of(tokenizer, rows, max_length, stride=stride, label_all_tokens=everything)
        features = task.encode(rows)
        learned: list[list[int]] = [[] for _ in rows["tokens"]]
        words: list[list[int]] = [[] for _ in rows["tokens"]]
        for row, labels, answers in zip(features["example"], features["labels"], features["words"], strict=True):
            learned[row] += [label for label in labels if label != IGNORED]
            words[row] += [word for word in answers if word >= 0]
        assert words == [list(range(len(row))) for row in rows["tokens"]]
        if not everything:
            assert learned == [[task.label_ids[tag] for tag in row] for row in rows["ner_tags"]]
        else:
            running = tokenizer([" ".join(row) for row in rows["tokens"]], add_special_tokens=False)["input_ids"]
            assert list(map(len, learned)) == list(map(len, running))
        assert max(map(len, features["input_ids"])) <= max_length


def test_tokens_after_the_first_of_a_word_continue_its_entity(tokenizer: Any) -> None:
    rows = {"tokens": [["everything", "everything"]], "ner_tags": [["B-a", "I-a"]]}
    task = task_of(tokenizer, rows, 64, label_all_tokens=True)
    (labels,) = task.encode(rows)["labels"]
    names = [task.label_names[label] for label in labels if label != IGNORED]
    assert names == ["B-a"] + ["I-a"] * (len(names) - 1) and len(names) > 4


def test_windows_are_put_together_again(tokenizer: Any) -> None:
    """Right at the tokens that answer for a word and wrong at all others: every word must come out right."""
    rows = random_rows()
    task = task_of(tokenizer, rows, 10, stride=5)
    features = task.encode(rows)
    assert len(features["example"]) > 2 * len(rows["tokens"])
    batch = task.collate([dict(zip(features, row, strict=True)) for row in zip(*features.values(), strict=True)], [])
    wrong = (batch["labels"].clamp(min=0) + 1) % len(task.label_names)
    chosen = torch.where(batch["labels"] == IGNORED, wrong, batch["labels"])
    logits = torch.nn.functional.one_hot(chosen, len(task.label_names)).float()
    columns = task.postprocess(logits, batch)
    assert columns["predictions"].shape == (len(features["example"]), 10)
    found = task.examples({"predictions": columns["predictions"].numpy()}, rows, features)
    assert found == {"predictions": rows["ner_tags"], "references": rows["ner_tags"]}


def test_a_word_without_a_token_is_scored_as_outside() -> None:
    """BERT's tokenizers leave out what nobody sees; the words after it keep their tags."""
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "cat": 2, "sat": 3}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Replace("\u200d", ""), pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    rows = {"tokens": [["\u200d", "cat", "\u200d", "sat"]], "ner_tags": [["B-a", "O", "B-a", "B-b"]]}
    task = task_of(tokenizer, rows, 8)
    features = task.encode(rows)
    assert features["input_ids"] == [[2, 3]] and features["words"] == [[1, 3]] and not task.spaced
    ids = np.array([[task.label_ids["O"], task.label_ids["B-b"], *[-1] * 6]])
    found = task.examples({"predictions": ids}, rows, features)
    assert found["predictions"] == [["O", "O", "O", "B-b"]] and found["references"] == rows["ner_tags"]


def test_words_of_byte_level_tokenizers_are_those_of_running_text(tokenizer: Any) -> None:
    """GPT-2, RoBERTa, Llama 3, Qwen: the space before a word is part of its token."""
    assert needs_spaces(tokenizer)
    rows = random_rows()
    task = task_of(tokenizer, rows, 512)
    running = tokenizer([" ".join(row) for row in rows["tokens"]])["input_ids"]
    assert task.encode(rows)["input_ids"] == running
    texts = {"text": ["Ann's cat, Al-so"], "spans": ['[{"start": 6, "end": 9, "label": "a"}]']}
    spans = task_of(tokenizer, texts, 512, label_format="spans")
    assert spans.encode(texts)["input_ids"] == tokenizer(texts["text"])["input_ids"]
    (window,) = windows_of(tokenizer, [["a", " cat"]], max_length=8, stride=2)[0]
    assert window.words[1] == 0 and window.owned == [False, *[True] * (len(window.owned) - 2), False]


def test_plain_tags_are_scored_word_by_word(tokenizer: Any) -> None:
    rows = {"tokens": [["the", "cat"], ["moon"]], "ner_tags": [["DET", "NOUN"], ["NOUN"]]}
    task = task_of(tokenizer, rows, 16)
    assert task.metrics() == ["accuracy", "f1_macro"] and task.main_metric == "accuracy"
    features = task.encode(rows)
    predictions = np.full((2, 16), task.label_ids["NOUN"])
    found = task.examples({"predictions": predictions}, rows, features)
    assert found["predictions"].tolist() == [1, 1, 1] and found["references"].tolist() == [0, 1, 1]
    assert found[TOGETHER].tolist() == [0, 0, 1], "the words of a sentence are not independent of each other"


def test_a_plain_tag_that_only_the_checkpoint_has_is_scored_as_outside(tokenizer: Any) -> None:
    """The head still predicts it now and then; seqeval takes no such tag."""
    rows = {"tokens": [["the", "cat"]], "ner_tags": [["O", "B-a"]]}
    task = TokenClassification(TokenClassification.Config(name="token_classification"), DataConfig(train_file="none"))
    task.read_labels({"train": rows, "validation": rows}, ["[CLS]", "O", "B-a", "I-a", "B-b"])
    task.use_tokenizer(tokenizer, 16)
    found = task.examples({"predictions": np.zeros((1, 16), dtype=int)}, rows, task.encode(rows))
    assert found == {"predictions": [["O", "O"]], "references": [["O", "B-a"]]}
    assert task.reported() == ["precision", "recall", "f1", "accuracy", "f1_a", "f1_b"]
    assert list(task.unscored()) == ["f1_b"]


def test_labels_of_spans_name_the_tags(tokenizer: Any) -> None:
    spans = [{"start": 0, "end": 3, "label": 1}, {"start": 4, "end": 7, "label": 0}]
    rows = {"text": ["cat sat"], "spans": [json.dumps(spans)]}
    task = task_of(tokenizer, rows, 16, label_format="spans")
    assert task.label_names == ["B-0", "B-1", "I-0", "I-1", "O"]
    named = TokenClassification(task.config, DataConfig(train_file="none", label_names=["place", "person"]))
    named.read_labels({"train": rows}, None)
    assert named.label_names == ["O", "B-place", "I-place", "B-person", "I-person"]
    named.use_tokenizer(tokenizer, 16)
    found = named.examples({"predictions": np.zeros((1, 16), dtype=int)}, rows, named.encode(rows))
    assert found == {"predictions": [["O", "O"]], "references": [["B-person", "B-place"]]}
    again = TokenClassification(task.config, DataConfig(train_file="none"))
    again.read_labels({"train": rows}, ["O", "B-1", "I-1", "B-0", "I-0"])
    assert again.label_names == ["O", "B-1", "I-1", "B-0", "I-0"], "a checkpoint's ids stay"


def test_a_model_for_the_pipeline_of_transformers(tmp_path: Path) -> None:
    """From CoNLL files to named entities in a text, with the best model picked by the F1 of one type."""
    draw = random.Random(0)
    for split, count in (("train", 60), ("validation", 12)):
        lines = []
        for _ in range(count):
            for word in draw.choices(["the", "cat", "sat", "on", "a", "dog", "moon"], k=draw.randint(3, 9)):
                lines.append(f"{word}\t{'B-animal' if word in ('cat', 'dog') else 'O'}")
            lines.append("")
        (tmp_path / f"{split}.conll").write_text("\n".join(lines))
    checkpoint = tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM")
    given: dict[str, Any] = {
        "task": {"name": "token_classification", "label_all_tokens": True},
        "model": {"model_name_or_path": str(checkpoint)},
        "data": {f"{split}_file": str(tmp_path / f"{split}.conll") for split in ("train", "validation")},
        **{"max_length": 10, "max_steps": 60, "train_batch_size": 16, "learning_rate": 1e-2, "allow_overlap": True},
        **{"metric_for_best_model": "f1_animal", "output_dir": str(tmp_path / "run")},
    }
    run = finetune(given)
    names = {"loss", "precision", "recall", "f1", "accuracy", "f1_animal", "support_animal"}
    assert set(run.metrics) == names and run.metrics["f1"] == run.metrics["f1_animal"] > 0.8
    find: Any = transformers.pipeline("token-classification", str(tmp_path / "run" / "model"))
    text = "the cat sat on a dog"
    parts = [(part["entity"], text[part["start"] : part["end"]].strip()) for part in find(text)]
    assert {entity for entity, _ in parts} == {"B-animal"} and "".join(word for _, word in parts) == "catdog"
    with pytest.raises(ConfigError, match="'f1_anmal' is not reported by this task; did you mean 'f1_animal'"):
        finetune({**given, "metric_for_best_model": "f1_anmal", "output_dir": str(tmp_path / "other")})
    with pytest.raises(ConfigError, match=r"f1_macro is for predictions \(int\)"):
        finetune({**given, "metrics": ["f1_macro"], "max_steps": 1, "output_dir": str(tmp_path / "third")})
