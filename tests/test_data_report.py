"""What graft says of the rows before it trains, and the rows it refuses to be scored on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from pipeline import finetune
from pipeline.__main__ import main
from pipeline.data import overlap, see
from pipeline.data_report import _lengths
from pipeline.errors import DataError
from tests.tiny import tiny_checkpoint


def column(*texts: str) -> Dataset:
    return Dataset.from_dict({"text": list(texts)})


def test_overlap_counts_rows_that_say_the_same() -> None:
    train = column("The cat sat.", "A dog ran", "!!!", "one", "one", "One")
    other = column("the  CAT sat", "A dog ran", "???", "!!!", "a new one")
    found = overlap(see(train, ["text"]), see(other, ["text"], keep=True))
    assert (found.rows, found.exact, found.normalized, found.share) == (5, 2, 3, 0.6)
    assert found.first == [(0, 0), (1, 1), (3, 2)]
    assert see(train, ["text"]).repeated == 1


def test_lengths_by_hand() -> None:
    found = _lengths(Dataset.from_dict({"length": [2, 4, 9], "truncated": [False, True, False]}), 9)
    assert (found["tokens"], found["truncated"], found["truncated_share"]) == (15, 1, 0.333333)
    assert {key: found["length"][key] for key in ("min", "median", "max")} == {"min": 2, "median": 4, "max": 9}
    assert sum(found["length"]["histogram"]["counts"]) == 3


def test_two_cells_are_not_one() -> None:
    train = Dataset.from_dict({"first": ["a b"], "second": ["c"]})
    other = Dataset.from_dict({"first": ["a"], "second": ["b c"]})
    columns = ["first", "second"]
    assert overlap(see(train, columns), see(other, columns, keep=True)).normalized == 0


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """A classification with 300 training rows and 150 validation rows, of which one is in both: 0.7 %."""
    rows = [f"text number {number},{'yes' if number % 3 else 'no'}" for number in range(449)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows[:300]]))
    (tmp_path / "validation.csv").write_text("\n".join(["text,label", *rows[299:]]))
    checkpoint = tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM")
    return {
        "task": "text_classification",
        "model": {"model_name_or_path": str(checkpoint)},
        "data": {"train_file": str(tmp_path / "train.csv"), "validation_file": str(tmp_path / "validation.csv")},
        "max_steps": 1,
        "output_dir": str(tmp_path / "run"),
    }


def test_the_report_is_saved_and_a_small_overlap_is_said(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(given)
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert report["train"]["labels"] == {"yes": 200, "no": 100}
    assert report["validation"]["in_train"] == {"exact": 1, "normalized": 1, "share": round(1 / 150, 6)}
    length = report["train"]["length"]
    assert sum(length["histogram"]["counts"]) == report["train"]["rows"] == 300
    assert length["min"] <= length["median"] <= length["p95"] <= length["max"]
    said = capsys.readouterr().err
    assert "labels yes 67 %, no 33 %" in said and "1 rows (0.67 %) are also in train" in said


def test_more_than_one_percent_is_refused_with_places(given: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "validation.csv").open("a") as file:
        file.write("\nTEXT number 7!,yes")
    with pytest.raises(DataError) as caught:
        finetune(given)
    message = str(caught.value)
    assert "2 of 151 validation rows (1.3 %) are training rows too, 1 of them letter by letter" in message
    assert "data.allow_overlap: true" in message
    assert f"{tmp_path / 'validation.csv'}:152: is also {tmp_path / 'train.csv'}:9: 'TEXT number 7!'" in message
    assert not (tmp_path / "run" / "model").exists()
    given["data"]["allow_overlap"] = True
    finetune(given)


def test_the_command_shows_the_rows_alone(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.yaml").write_text(json.dumps(given))
    with pytest.raises(SystemExit):
        main(["data", str(tmp_path / "my.yaml")])
    shown = capsys.readouterr().out
    assert "validation.csv:2: is also" in shown and "yes" in shown and "█" in shown
    assert not (tmp_path / "run").exists()
