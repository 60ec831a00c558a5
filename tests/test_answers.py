"""Choices, thresholds per label, units of a regression: what is chosen, and what the saved model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline import finetune, lora
from pipeline.api import read_config, run_recipe
from pipeline.data import DataConfig
from pipeline.errors import ConfigError, DataError
from pipeline.tasks.multiple_choice import MultipleChoice, among_choices, form_of
from pipeline.tasks.thresholds import best_thresholds
from tests.synthetic import data_of, settings
from tests.tiny import tiny_checkpoint, tiny_tokenizer


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("encoder"), "bert", "AutoModelForMaskedLM")


def choices_task(tokenizer: Path, **data: Any) -> MultipleChoice:
    task = MultipleChoice(MultipleChoice.Config(name="multiple_choice"), DataConfig(**data))
    task.use_tokenizer(AutoTokenizer.from_pretrained(tokenizer), 24)
    return task


SWAG = {
    "text_column": ["sent1", "sent2"],
    "choices_column": ["ending0", "ending1", "ending2", "ending3"],
    "label_column": "label",
}


def test_a_row_becomes_context_then_question_and_choice(tmp_path: Path) -> None:
    row = {"sent1": ["the cat sat"], "sent2": ["she"], "label": ["2"]}
    row |= {f"ending{number}": [text] for number, text in enumerate(["ran", "looked at the moon", "sat", "sells"])}
    task = choices_task(tiny_tokenizer(tmp_path), **SWAG)
    task.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    task.read_labels({"train": row}, None)
    features = task.encode(row)
    texts = [task.tokenizer.decode(tokens) for tokens in features["input_ids"][0]]
    assert texts[1] == "[CLS]the cat sat[SEP]she looked at the moon[SEP]" and len(texts) == 4
    assert features["label"] == [2]
    longest = max(map(len, features["input_ids"][0]))
    assert features["length"] == [4 * longest] == features["full_length"]
    kinds = features["token_type_ids"][0][1]
    assert kinds[0] == 0 and kinds[-1] == 1
    batch = task.collate([{key: found[0] for key, found in features.items()}], [])
    assert {tuple(batch[key].shape) for key in ("input_ids", "token_type_ids", "attention_mask")} == {(1, 4, longest)}


def test_a_padding_choice_changes_nothing(encoder: Path) -> None:
    """Two and four choices in one batch give the loss and the gradients they give alone."""
    from transformers import AutoModelForMultipleChoice

    rows: dict[str, Any] = {
        "text": ["the cat sat", "a small dog ran over the green hill"],
        "choices": [["on the mat", "sad"], ["in the rain", "she", "good movies make people happy", "sea"]],
        "label": ["1", "0"],
    }
    task = choices_task(encoder)
    task.read_labels({"train": rows}, None)
    found = task.encode(rows)
    features = [{key: found[key][index] for key in found} for index in range(2)]
    torch.manual_seed(0)
    model = AutoModelForMultipleChoice.from_pretrained(encoder).eval()

    def losses(batches: list[list[dict[str, Any]]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total = torch.zeros(())
        for batch in batches:
            total = total + task.loss(model, task.collate(batch, []))[0]
        total.backward()
        return float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    together, alone = losses([features]), losses([features[:1], features[1:]])
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    assert torch.isfinite(together[1]).all() and torch.allclose(together[1], alone[1], atol=1e-5)
    batch = task.collate(features, [])
    high_on_padding = torch.tensor([[0.0, 1.0, 9.0, 9.0], [0.0, 1.0, 2.0, 3.0]])
    assert among_choices(high_on_padding, batch).argmax(-1).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("labels", "choices", "form"),
    [
        (["0", "1"], [["a", "b"], ["a", "b"]], "number"),
        (["A", "C"], [["x", "y", "z"]] * 2, "letter"),
        (["seven", "two"], [["two", "seven"]] * 2, "text"),
        (["4", "5"], [["5", "4"], ["4", "5"]], "text"),
        (["1", "2"], [["a", "b"]] * 2, "number"),
        (["0", "1"], [["0", "1"]] * 2, "number"),
    ],
)
def test_what_a_label_is(labels: list[str], choices: list[list[str]], form: str) -> None:
    assert form_of(labels, choices) == form


def test_labels_of_two_meanings_are_refused() -> None:
    with pytest.raises(DataError, match="as number and as text of the right choice, and these differ"):
        form_of(["0", "1"], [["1", "0"], ["1", "0"]])


def test_thresholds_are_the_best_there_are() -> None:
    """Against scikit-learn over a fine grid; a label that no row has keeps 0.5; ties go to the middle."""
    draw = np.random.default_rng(0)
    references = (draw.random((60, 5)) < [0.5, 0.1, 0.9, 0.3, 0.0]).astype("i8")
    scores = np.clip(0.3 * references + draw.random((60, 5)) * 0.7, 0, 1).astype("f4").round(2)
    found = best_thresholds(scores, references)
    for label in range(4):
        ours = f1_score(references[:, label], scores[:, label] > found[label])
        grid = [
            f1_score(references[:, label], scores[:, label] > at, zero_division=0) for at in np.arange(-1, 1, 0.005)
        ]
        assert ours == pytest.approx(max(grid), abs=1e-12)
        assert ours >= f1_score(references[:, label], scores[:, label] > 0.5)
    assert found[4] == 0.5
    assert best_thresholds(np.array([[0.2], [0.9], [0.4]]), np.array([[0], [1], [0]])) == pytest.approx([0.65])
    everything = best_thresholds(np.array([[0.02], [0.01]]), np.array([[1], [1]]))
    assert 0 < everything[0] < 0.01


def multi_label(checkpoint: Path, folder: Path, threshold: Any) -> dict[str, Any]:
    given = settings("text_classification multi-label", None, checkpoint, folder, max_steps=6, eval_steps=2)
    return {**given, "task": {**given["task"], "threshold": threshold}}


def test_thresholds_of_the_kept_weights_are_applied_to_the_test_rows(encoder: Path, tmp_path: Path) -> None:
    given = multi_label(encoder, tmp_path / "run", "auto")
    given["eval"] = {"metric_for_best_model": "loss", "greater_is_better": True}  # the first weights, not the last
    data = data_of(read_config("finetune", given))
    data["test"] = data_of(read_config("finetune", given), 30)["train"].select(range(20))
    run = finetune(given, datasets=data)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert run.results["best_step"] < 6
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    thresholds = again.config.label_thresholds
    assert thresholds == results["label_thresholds"] and len(thresholds) == 4 and len(set(thresholds)) > 1
    scores = {}
    for split in ("validation", "test"):
        with torch.inference_mode():
            scores[split] = [
                again(**run.tokenizer(text, return_tensors="pt")).logits[0].sigmoid().numpy()
                for text in data[split]["text"]
            ]
    names = list(again.config.id2label.values())
    truth = {
        split: np.array([[int(name in labels) for name in names] for labels in data[split]["label"]])
        for split in scores
    }
    assert np.allclose(best_thresholds(np.array(scores["validation"]), truth["validation"]), thresholds, atol=1e-5)
    for split in scores:
        predictions = np.array(scores[split]) > thresholds
        expected = f1_score(truth[split], predictions, average="macro", zero_division=0)
        assert results["metrics"][split]["multilabel_f1_macro"] == pytest.approx(expected)
    assert "optimistic" in results["notes"][0]


def test_thresholds_need_validation_rows(encoder: Path, tmp_path: Path) -> None:
    given = multi_label(encoder, tmp_path / "run", "auto")
    data = data_of(read_config("finetune", given))
    with pytest.raises(DataError, match="auto chooses thresholds on validation rows, and there are none"):
        finetune({**given, "eval_steps": None}, datasets={"train": data["train"]})


@pytest.mark.parametrize("how", ["full", "freeze", "lora", "lora merged"])
def test_the_saved_regression_speaks_the_labels_unit(how: str, encoder: Path, tmp_path: Path) -> None:
    """Labels around 5000: learned standardized, scored and saved as they are."""
    strategy = None if how == "full" else how.split()[0]
    given = settings("text_classification regression", strategy, encoder, tmp_path / "run", max_steps=6)
    given["task"] = {**given["task"], "label_scaling": "standard"}
    if how == "lora merged":
        given["lora"] = {"r": 2, "merge": True}
    name = strategy or "finetune"
    data = {
        split: rows.map(lambda row: {"label": 5000 + 400 * row["label"]})
        for split, rows in data_of(read_config(name, given)).items()
    }
    run = run_recipe(name, given, datasets=data)
    labels = np.array(data["train"]["label"])
    scaling = run.results["label_scaling"]
    assert (scaling["mean"], scaling["std"]) == (pytest.approx(labels.mean()), pytest.approx(labels.std()))
    start = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert start["loss"] < 10, "the loss is over standardized labels"
    base = AutoModelForSequenceClassification.from_pretrained(
        encoder if how == "lora" else tmp_path / "run" / "model", num_labels=1, problem_type="regression"
    )
    again = PeftModel.from_pretrained(base, str(tmp_path / "run" / "model")) if how == "lora" else base
    with torch.inference_mode():
        inputs = [run.tokenizer(text, return_tensors="pt") for text in data["validation"]["text"]]
        outputs = np.array([float(again.eval()(**one).logits) for one in inputs])
    assert abs(outputs.mean() - labels.mean()) < 1000
    error = np.mean((outputs - np.array(data["validation"]["label"])) ** 2)
    assert run.metrics["mse"] == pytest.approx(error, rel=1e-3) and error < 5 * labels.std() ** 2


def test_scaling_is_refused_where_it_cannot_be_saved(encoder: Path, tmp_path: Path) -> None:
    task = {"name": "text_classification", "problem_type": "regression", "label_scaling": "standard"}
    decoder = tiny_checkpoint(tmp_path / "llama", "llama", "AutoModelForCausalLM")
    scorer = tiny_checkpoint(tmp_path / "scorer", "bert", "AutoModelForSequenceClassification", num_labels=1)
    for start, says in ((decoder, "has no bias that could take"), (scorer, "has a head already")):
        given = {**settings("text_classification regression", None, start, tmp_path / "run"), "task": task}
        with pytest.raises(ConfigError, match=f"task.label_scaling: .*{says}"):
            finetune(given, datasets=data_of(read_config("finetune", given)))


def test_intervals_hold_the_scores(encoder: Path, tmp_path: Path) -> None:
    given = settings("multiple_choice", "lora", encoder, tmp_path / "run", max_steps=2, bootstrap=200)
    data = data_of(read_config("lora", given))
    run = lora(given, datasets={**data, "test": data["train"]})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for split, rows in {"validation": 13, "test": 40}.items():
        low, high = results["intervals"][split]["accuracy"]
        assert 0 <= low <= results["metrics"][split]["accuracy"] <= high <= 1 and low < high
        assert results["num_samples"][split] == rows and "num_samples" not in results["metrics"][split]
    with pytest.raises(ConfigError, match="eval.bootstrap: there are no validation or test rows"):
        lora({**given, "output_dir": str(tmp_path / "two")}, datasets={"train": data["train"]})
    card = (run.output_dir / "README.md").read_text()
    low, high = results["intervals"]["test"]["accuracy"]
    assert f"({low:.4f} to {high:.4f})" in card and "13 validation and 40 test examples" in card


def test_multiple_choice_from_columns_of_swag(encoder: Path, tmp_path: Path) -> None:
    rows = {"sent1": ["the cat sat"] * 8, "sent2": ["she"] * 8, "label": ["0", "1", "2", "3"] * 2}
    rows |= {f"ending{number}": [text] * 8 for number, text in enumerate(["ran", "the moon", "sat", "sells"])}
    given = settings("multiple_choice", None, encoder, tmp_path / "run", max_steps=1)
    given["data"] = {**given["data"], **SWAG}
    run = finetune(given, datasets={"train": Dataset.from_dict(rows), "validation": Dataset.from_dict(rows)})
    assert set(run.metrics) == {"loss", "accuracy"}
