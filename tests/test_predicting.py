"""Every task: a saved model says of unlabelled rows what its evaluation scored, and gives its numbers again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from seqeval.metrics.sequence_labeling import get_entities
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.api import read_config, run_recipe
from pipeline.bootstrap import Intervals
from pipeline.errors import DataError
from pipeline.predicting import predict
from pipeline.scoring import evaluate
from pipeline.settings import make_task
from pipeline.tasks.entities import entities_of, in_text, in_words
from tests.synthetic import RECIPE_OF, VARIANTS, checkpoint_for, data_of, settings
from tests.tiny import tiny_checkpoint

CASES = [(variant, None) for variant in VARIANTS] + [("text_classification", "lora"), ("preference", "lora")]
"""Every task in all its forms, and adapters."""
MORE: dict[str, Any] = {
    "text_classification regression": {"task": {"label_scaling": "standard"}},
    "text_classification multi-label": {"task": {"threshold": "auto"}},
    "causal_lm prompted": {"task": {"generate": {"max_new_tokens": 6}}},
    "causal_lm chat": {"task": {"generate": {"max_new_tokens": 6}}},
}
TO_ROUNDING = {"text_classification regression"}
"""Where the saved head speaks another unit than the trained one."""


class Trained:
    """A finished run of a case, and what was seen while it was evaluated."""

    def __init__(self, variant: str, strategy: str | None, folder: Path):
        self.variant = variant
        base = checkpoint_for(variant, folder / "base")
        if "causal_lm" in variant:  # room for what is written
            tiny_checkpoint(base, "llama", "AutoModelForCausalLM", max_position_embeddings=256)
        given = settings(variant, strategy, base, folder / "run", max_steps=2)
        if "causal_lm" in variant:
            given["data"]["max_length"] = 160
        for key, value in MORE.get(variant, {}).items():
            name = given[key] if isinstance(given[key], dict) else {"name": given[key]}
            given[key] = {**name, **value}
        config = read_config(RECIPE_OF[strategy], given)
        self.rows = data_of(config)
        self.examples: dict[str, Any] = {}
        self.folder = run_recipe(RECIPE_OF[strategy], given, datasets=self.rows).output_dir
        self.results = json.loads((self.folder / "results.json").read_text())
        self.names = self.results["label_names"]

    def unlabelled(self) -> Dataset:
        """The validation rows without their labels; with masks to fill in where a task wants them."""
        config = read_config("train", self.folder / "config.yaml")
        task = make_task(config)
        task.to_predict()
        rows = self.rows["validation"].select_columns(task.asked())
        if config.task.name == "masked_lm":
            rows = rows.map(lambda row: {"text": f"[MASK] {row['text']} [MASK]"}, load_from_cache_file=False)
        return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Trained]:
    return {}


@pytest.fixture
def run(request: pytest.FixtureRequest, trained: dict[Any, Trained], tmp_path_factory: Any) -> Trained:
    variant, strategy = request.param
    if request.param not in trained:
        trained[request.param] = Trained(variant, strategy, tmp_path_factory.mktemp("case"))
    return trained[request.param]


def named(case: tuple[str, str | None]) -> str:
    return "-".join(filter(None, case))


every_case = pytest.mark.parametrize("run", CASES, indirect=True, ids=named)


@every_case
def test_the_numbers_of_the_run_come_out_again(run: Trained) -> None:
    found = evaluate(run.folder, datasets=run.rows)
    expected = run.results["metrics"]["validation"]
    if run.variant in TO_ROUNDING:
        assert found.metrics["validation"] == pytest.approx(expected, rel=1e-4)
    else:
        assert found.metrics["validation"] == expected
    assert found.num_samples["validation"] == run.results["num_samples"]["validation"]


@every_case
def test_rows_without_labels_get_what_was_scored(run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the run folder and from its model folder the same bytes; the labels are those the metrics were made from."""
    rows = run.unlabelled()
    for folder in (run.folder, run.folder / "model"):
        predict(folder, rows, tmp_path / f"{folder.name}.jsonl")
    written = (tmp_path / "run.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in written.splitlines()]
    assert written == (tmp_path / "model.jsonl").read_text(encoding="utf-8") and len(lines) == len(rows)
    assert predict(run.folder, rows) == lines

    scored: dict[str, Any] = {}
    monkeypatch.setattr(Intervals, "draw", lambda self, split, columns: scored.update(columns))
    evaluate(run.folder, datasets=run.rows)
    said, expected = SAID.get(run.variant, SAID[run.variant.split()[0]])(lines, scored, run)
    if isinstance(said[0], float):
        assert said == pytest.approx(expected, abs=1e-5)
    else:
        assert said == list(expected)


def by_name(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    assert all(1 / len(run.names) <= line["score"] <= 1 for line in lines)
    return [line["label"] for line in lines], [run.names[label] for label in scored["predictions"]]


def several(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    assert all(list(line["scores"]) == run.names for line in lines)
    expected = [[name for name, on in zip(run.names, row, strict=True) if on] for row in scored["predictions"]]
    return [line["labels"] for line in lines], expected


def entities(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    for line, text in zip(lines, run.rows["validation"]["text"], strict=True):
        assert all(text[found["start"] : found["end"]] == found["text"] for found in line["entities"])
    return [len(line["entities"]) for line in lines], [len(get_entities(row)) for row in scored["predictions"]]


def test_entities_stand_where_their_words_do() -> None:
    """By the scheme of all tags: BIO as conlleval reads it, BIOES and BILOU strictly."""
    text, known = "Ada  Lovelace, of London", ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    spans = entities_of(["B-PER", "I-PER", "O", "O", "I-LOC"], known)
    assert [(span.start, span.end, span.label) for span in spans] == [(0, 2, "PER"), (4, 5, "LOC")]
    assert in_text(text, spans) == {
        "entities": [
            {"start": 0, "end": 13, "label": "PER", "text": "Ada  Lovelace"},
            {"start": 18, "end": 24, "label": "LOC", "text": "London"},
        ]
    }
    assert in_words(["Ada", "Lovelace"], ["B-PER", "I-PER"], spans[:1])["entities"] == [
        {"start": 0, "end": 2, "label": "PER", "words": ["Ada", "Lovelace"]}
    ]
    strict = [*known, "E-PER", "S-LOC"]
    assert [span.label for span in entities_of(["B-PER", "I-PER", "O", "O", "S-LOC"], strict)] == ["LOC"]


def cosines(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    other = predict(run.folder, run.rows["validation"].select_columns("sentence2"), text_column="sentence2")
    pairs = zip(lines, other, strict=True)
    return [float(np.dot(one["embedding"], two["embedding"])) for one, two in pairs], scored["predictions"]


def fills(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    """As transformers' own pipeline fills the masks in."""
    from transformers import pipeline

    filler = pipeline("fill-mask", str(run.folder / "model"), device="cpu")
    expected = [[[part["score"] for part in mask] for mask in filler(text)] for text in run.unlabelled()["text"]]
    found = [[[part["score"] for part in mask] for mask in line["fills"]] for line in lines]
    return np.ravel(found).tolist(), np.ravel(expected).tolist()


def continued(lines: list[Any], scored: dict[str, Any], run: Trained) -> tuple[Any, Any]:
    """Nothing was scored; by transformers' own `generate`, one row at a time."""
    model: Any = AutoModelForCausalLM.from_pretrained(run.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")
    expected = []
    for row in run.unlabelled().select(range(3)):
        text = "\n".join(filter(None, row.values())) + ("" if list(row) == ["text"] else "\n")
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        found = model.generate(**inputs, max_new_tokens=64, do_sample=False, num_beams=1)
        expected.append(tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return [line["generated_text"] for line in lines[:3]], expected


SAID: dict[str, Callable[[list[Any], dict[str, Any], Trained], tuple[Any, Any]]] = {
    "text_classification": by_name,
    "text_classification multi-label": several,
    "text_classification regression": lambda lines, scored, run: (
        [line["label"] for line in lines],
        scored["predictions"],
    ),
    "token_classification": lambda lines, scored, run: ([line["tags"] for line in lines], scored["predictions"]),
    "token_classification spans": entities,
    "question_answering": lambda lines, scored, run: ([line["answer"] for line in lines], scored["predictions"]),
    "seq2seq": lambda lines, scored, run: ([line["generated_text"] for line in lines], scored["predictions"]),
    "causal_lm": continued,
    "causal_lm prompted": lambda lines, scored, run: (
        [line["generated_text"] for line in lines],
        scored["predictions"],
    ),
    "causal_lm chat": lambda lines, scored, run: ([line["generated_text"] for line in lines], scored["predictions"]),
    "masked_lm": fills,
    "multiple_choice": lambda lines, scored, run: ([line["number"] for line in lines], scored["predictions"]),
    "image_classification": by_name,
    "embedding": lambda lines, scored, run: ([float(np.linalg.norm(line["embedding"])) for line in lines], [1.0] * 13),
    "embedding scored": cosines,
    "preference": lambda lines, scored, run: ([line["chosen_reward"] for line in lines], scored["chosen_rewards"]),
}
"""Task, or form of a task -> what its lines say and what was scored."""


@pytest.mark.parametrize("run", [("causal_lm prompted", None)], indirect=True, ids=named)
def test_a_prompt_without_room_to_write_is_named(run: Trained) -> None:
    written = ["--task.generate.max_new_tokens", "255"]
    with pytest.raises(DataError, match=r"\['test'\]\[0\]: prompt gives a prompt of \d+ tokens; 255 written ones"):
        predict(run.folder, run.unlabelled(), overrides=written)
