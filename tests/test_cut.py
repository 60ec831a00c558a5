"""Rows that are set aside for validation."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.data import DataConfig, Kind, load_splits

COLUMNS: dict[str, Kind] = {"text": "text", "label": "label"}


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_rows_that_say_the_same_are_drawn_together(tmp_path: Path) -> None:
    """Whatever their label; and a group that is larger than what is drawn stays with the training rows."""
    rows = [{"text": str(n % 60 if n < 90 else 0), "label": str(n % 2)} for n in range(100)]
    file = write(tmp_path / "a.csv", rows)
    for seed in range(5):
        splits = load_splits(
            DataConfig(train_file=file, validation_split_fraction=0.1, validation_split_seed=seed), COLUMNS
        )
        train, validation = splits["train"]["text"][:], splits["validation"]["text"][:]
        assert len(train) + len(validation) == 100 and 9 <= len(validation) <= 10
        assert not set(train) & set(validation) and "0" not in validation
    file = write(tmp_path / "b.csv", [{"text": "a", "label": "1"}] * 10)
    assert len(load_splits(DataConfig(train_file=file, validation_split_fraction=0.1), COLUMNS)["validation"]) == 1
