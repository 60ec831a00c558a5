"""Every row is read as it was written, and every problem is named with its place."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.data import DataConfig, fingerprint, load_splits
from pipeline.errors import ConfigError, DataError, UserError

DATA = Path(__file__).parents[2] / "shared" / "data"
COLUMNS: dict[str, Any] = {"text": "text", "label": "label"}
ROWS = [{"text": "good, film", "label": "1"}, {"text": 'so "bad"\nso long', "label": "0"}, {"text": "NA", "label": "2"}]


def load(columns: dict[str, Any] = COLUMNS, **settings: Any) -> dict[str, Dataset]:
    return load_splits(DataConfig(**settings), columns)


def message(columns: dict[str, Any] = COLUMNS, kind: type[UserError] = DataError, **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        load(columns, **settings)
    return str(caught.value)


def write_csv(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_jsonl(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    path.write_text("".join(json.dumps(row, **options) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# -- what is written is what is read ---------------------------------------------------------------------------------

TABLE = st.lists(st.fixed_dictionaries({"text": st.text(min_size=1), "other": st.text(min_size=1)}), min_size=1)
HARD = [
    {"text": text, "other": "x"} for text in ("\0", "\r", "\n", "\r\n", " ", "\u2028", "\x85", '"', ",", "\ufeff", "é")
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=TABLE)
def test_any_text_survives_csv_and_jsonl(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    columns: dict[str, Any] = {"text": "text", "other": "text"}
    files = [
        write_csv(tmp_path / "a.csv", rows + HARD),
        write_csv(tmp_path / "b.csv", rows + HARD, delimiter=",", quoting=csv.QUOTE_ALL, lineterminator="\n"),
        write_jsonl(tmp_path / "c.jsonl", rows + HARD),
        write_jsonl(tmp_path / "d.jsonl", rows + HARD, ensure_ascii=False),
    ]
    for file in files:
        assert load(columns, train_file=file)["train"].to_list() == rows + HARD


def test_long_cells_and_long_tables(tmp_path: Path) -> None:
    rows = [{"text": "x" * 300_000, "label": "0"}] + [{"text": f"row {n}", "label": "1"} for n in range(2500)]
    assert load(train_file=write_csv(tmp_path / "a.csv", rows))["train"].to_list() == rows


def test_fingerprint_is_of_the_rows_and_not_of_the_file(tmp_path: Path) -> None:
    as_int = [{"label": int(row["label"]), "text": row["text"], "id": 5} for row in ROWS]
    Dataset.from_list(as_int).to_parquet(tmp_path / "d.parquet")
    (tmp_path / "e.json").write_text(json.dumps(as_int))
    Dataset.from_list(as_int).save_to_disk(str(tmp_path / "f"))
    files = [write_csv(tmp_path / "a.csv", ROWS), write_csv(tmp_path / "b.csv", as_int)]
    files += [
        write_jsonl(tmp_path / "c.jsonl", as_int),
        *(str(tmp_path / name) for name in ("d.parquet", "e.json", "f")),
    ]
    splits = [load(train_file=file)["train"] for file in files]
    splits.append(load_splits(DataConfig(), COLUMNS, {"train": Dataset.from_list(as_int)})["train"])
    assert all(split.to_list() == ROWS for split in splits)
    assert len({fingerprint(split, COLUMNS) for split in splits}) == 1
    first = fingerprint(splits[0], COLUMNS)
    assert len(first) == 64 and first == fingerprint(splits[0], reversed(COLUMNS))
    for column in COLUMNS:
        rows = splits[0].to_list()
        rows[1][column] = rows[1][column][:-1] + chr(ord(rows[1][column][-1]) + 1)
        assert first != fingerprint(Dataset.from_list(rows), COLUMNS), f"one character of {column}"
    assert first != fingerprint(splits[0].select([1, 0, 2]), COLUMNS)
    assert first != fingerprint(splits[0].rename_columns({"text": "label", "label": "text"}), COLUMNS)


def test_tsv_has_no_quoting_and_na_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes('\ufefftext\tlabel\n"half a quote\tNA\nnull\t1\r\n\nlone \r return\t0\n'.encode())
    rows = load(train_file=str(tmp_path / "a.tsv"))["train"].to_list()
    assert [tuple(row.values()) for row in rows] == [('"half a quote', "NA"), ("null", "1"), ("lone \r return", "0")]


def test_kinds(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"labels": "labels", "score": "number"}
    cells = [{"labels": "4, 27", "score": "2.50"}, {"labels": "", "score": "-1e-3"}, {"labels": "7", "score": " 3"}]
    values: list[dict[str, Any]] = [
        {"labels": [4, 27], "score": 2.5},
        {"labels": [], "score": -0.001},
        {"labels": 7, "score": 3},
    ]
    expected = [{"labels": ["4", "27"], "score": 2.5}, {"labels": [], "score": -0.001}, {"labels": ["7"], "score": 3.0}]
    assert load(columns, train_file=write_csv(tmp_path / "a.csv", cells))["train"].to_list() == expected
    assert load(columns, train_file=write_jsonl(tmp_path / "b.jsonl", values))["train"].to_list() == expected


def test_labels_are_not_touched_up(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (" 1", "1", "NO", "no", "null", "True")]
    for file in (write_csv(tmp_path / "a.csv", rows), write_jsonl(tmp_path / "b.jsonl", rows)):
        assert load(train_file=file)["train"].to_list() == rows


def test_class_labels_become_their_names() -> None:
    names = ClassLabel(names=["neg", "pos"])
    features = Features({"text": Value("string"), "label": names, "labels": List(names)})
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0], "labels": [[0, 1], []]}, features=features)
    columns: dict[str, Any] = {**COLUMNS, "labels": "labels"}
    split = load_splits(DataConfig(), columns, {"train": rows})["train"]
    assert split["label"][:] == ["pos", "neg"] and split["labels"][:] == [["neg", "pos"], []]
    unlabelled = Dataset.from_dict({"text": ["a"], "label": [-1], "labels": [[0]]}, features=features)
    with pytest.raises(DataError, match=r"datasets\['test'\]\[0\]: label is missing"):
        load_splits(DataConfig(), columns, {"train": rows, "test": unlabelled})


@pytest.mark.parametrize(
    ("sample_by", "expected"),
    [
        ("line", ["one", "two", "three", "four"]),
        ("paragraph", ["one\ntwo", "three", "four"]),
        ("document", ["one\r\ntwo\r\n\r\nthree\r\n \r\nfour"]),
    ],
)
def test_txt(tmp_path: Path, sample_by: str, expected: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n \r\nfour")
    split = load({"text": "text"}, train_file=str(tmp_path / "a.txt"), sample_by=sample_by)["train"]
    assert split["text"][:] == expected


# -- files, folders and settings -------------------------------------------------------------------------------------


def test_globs_folders_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a", "ö ["):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "label": 1}])
    (tmp_path / "README.md").write_text("not data")
    monkeypatch.setenv("HOME", str(tmp_path))
    both = [str(tmp_path / "b.jsonl"), str(tmp_path / "a.jsonl")]
    for pattern, expected in [
        (str(tmp_path / "?.jsonl"), ["a", "b"]),
        (str(tmp_path), ["a", "b", "ö ["]),
        (both, ["b", "a"]),
        ("~/ö [.jsonl", ["ö ["]),
    ]:
        assert load(train_file=pattern)["train"]["text"][:] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("none-*.csv", "none-*.csv: no file matches this pattern"),
        ("missing/a.csv", "no such file; there is no folder"),
        ("a.pkl", "cannot read .pkl files (a pickle can run code when it is read); use .csv"),
        (["a.csv", "b.jsonl"], "mixes .csv, .jsonl files"),
        (["a.csv", "a.csv"], "a.csv is named more than once"),
        ([], "the list is empty"),
        ("https://example.org/a.csv", "is an address"),
        ("empty", "no data file in this folder"),
    ],
)
def test_bad_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: str | list[str], expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "a.csv", ROWS)
    write_jsonl(tmp_path / "b.jsonl", ROWS)
    (tmp_path / "a.pkl").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    assert expected in message(train_file=files)


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    assert "no rows" in message(kind=ConfigError)
    rows = Dataset.from_list(ROWS)
    with pytest.raises(ConfigError, match="unknown split 'valid'; did you mean 'validation'"):
        load_splits(DataConfig(), COLUMNS, {"valid": rows})
    with pytest.raises(ConfigError, match=r"expected the splits by name, .*, got a datasets.Dataset"):
        load_splits(DataConfig(), COLUMNS, rows)
    with pytest.raises(ConfigError, match="expected a datasets.Dataset"):
        load_splits(DataConfig(), COLUMNS, {"train": ROWS})
    with pytest.raises(ConfigError, match="datasets and data.train_file are both given"):
        load_splits(DataConfig(train_file="a.csv"), COLUMNS, {"train": rows})
    with pytest.raises(ConfigError, match="validation_split_fraction"):
        load_splits(DataConfig(validation_split_fraction=0.5), COLUMNS, {"train": rows, "validation": rows})
    for settings_ in (
        {"train_file": "a", "dataset_name": "b"},
        {"train_file": "a", "validation_file": "b", "validation_split_fraction": 0.1},
        {"encoding": "utf-9"},
        {"encoding": "base64"},
        {"max_length": 1},
        {"validation_split_fraction": 1.0},
    ):
        with pytest.raises(ValidationError):
            DataConfig(**settings_)


def test_validation_split(tmp_path: Path) -> None:
    rows = [{"text": str(n), "label": "1"} for n in range(100)]
    file = write_csv(tmp_path / "a.csv", rows)
    splits = load(train_file=file, validation_split_fraction=0.2, test_file=file)
    train, validation = splits["train"]["text"][:], splits["validation"]["text"][:]
    assert list(splits) == ["train", "validation", "test"]
    assert (len(train), len(validation)) == (80, 20)
    assert sorted(train + validation, key=int) == [row["text"] for row in rows]
    assert train == sorted(train, key=int) and validation == sorted(validation, key=int)
    again = load(
        train_file=file, validation_split_fraction=0.2, max_train_samples=7, max_eval_samples=3, test_file=file
    )
    assert again["train"]["text"][:] == train[:7] and again["validation"]["text"][:] == validation[:3]
    assert len(again["test"]) == 3
    other = load(train_file=file, validation_split_fraction=0.2, validation_split_seed=1)
    assert other["validation"]["text"][:] != validation
    for fraction in (0.001, 0.999):
        assert "expected at least one on either side" in message(train_file=file, validation_split_fraction=fraction)


def test_hub_dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    from datasets import config

    asked = []

    def load_dataset(name: str, subset: str | None, *, split: str, revision: str | None) -> Dataset:
        asked.append((name, subset, split, revision))
        return Dataset.from_list([{"text": split if split != "bad" else None, "label": 1, "other": None}])

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options: dict[str, Any] = {"dataset_name": "a/b", "dataset_config": "c", "dataset_revision": "d"}
    splits = load(**options, dataset_validation_split="dev", test_file=write_jsonl(tmp_path / "t.jsonl", ROWS))
    assert [split["text"][0] for split in splits.values()] == ["train", "dev", "good, film"]
    assert asked == [("a/b", "c", "train", "d"), ("a/b", "c", "dev", "d")]
    assert message(**options, dataset_test_split="bad").startswith("a/b['test'][0]: text is missing (null)")


def test_import_is_light() -> None:
    code = (
        "import pipeline.data, sys; sys.exit(len({'datasets', 'pyarrow', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_hub_dataset_offline_is_refused_quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from datasets import config

    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    found = message(dataset_name="nobody/nothing")
    assert "nobody/nothing (split 'train'): the hub cannot be reached (offline mode)" in found
    assert "is a local path; use train_file" in message(kind=ConfigError, dataset_name=str(tmp_path))


REAL: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    ("sst2/train.tsv", {"sentence": "text", "label": "label"}, {}, 20_000),
    ("ag_news/train.csv", {"text": "text", "label": "label"}, {}, 10_001),
    ("stsb/train.csv", {"sentence1": "text", "sentence2": "text", "score": "number"}, {}, 5_749),
    ("mrpc/train.jsonl", {"sentence1": "text", "sentence2": "text", "label": "label"}, {}, 3_668),
    ("gsm8k/test.jsonl", {"question": "text", "answer": "text"}, {}, 1_319),
    ("goemotions/dev.tsv", {"text": "text", "id": "labels"}, {"column_names": ["text", "id", "comment"]}, 5_426),
    ("tinyshakespeare/input.txt", {"text": "text"}, {}, 1),
    ("mnist_png/train.parquet", {"label": "label"}, {}, 10_000),
]


@pytest.mark.skipif(not DATA.exists(), reason="no ../shared/data beside the checkout")
@pytest.mark.parametrize(("file", "columns", "settings_", "count"), REAL)
def test_real_files(file: str, columns: dict[str, Any], settings_: dict[str, Any], count: int) -> None:
    split = load(columns, train_file=str(DATA / file), **settings_)["train"]
    assert len(split) == count and split.column_names == list(columns)
    for name, kind in columns.items():
        assert isinstance(split[0][name], {"text": str, "label": str, "labels": list, "number": float}[kind])
    if file.startswith("mrpc"):
        assert set(split["label"]) == {"0", "1"}
