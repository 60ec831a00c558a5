"""Words, tags and spans: how they are read, cut into words and scored. No model is needed here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOBES

from pipeline.data import DataConfig, load_splits
from pipeline.errors import ConfigError, DataError
from pipeline.metrics import load_metric
from pipeline.tasks.spans import Span, cuts_a_word, tags_of, words_of

COLUMNS: dict[str, Any] = {"tokens": "texts", "ner_tags": "tags"}
WNUT = Path(__file__).parents[2] / "shared" / "data" / "wnut17"


def rows_of(path: Path, content: str, **settings: Any) -> list[dict[str, Any]]:
    path.write_bytes(content.encode())
    return load_splits(DataConfig(train_file=str(path), **settings), COLUMNS)["train"].to_list()


def test_sentences_are_read_from_conll_files(tmp_path: Path) -> None:
    """CoNLL-2003 with four cells and -DOCSTART-, tabs, carriage returns, several blank lines, no newline at the end."""
    ann = {"tokens": ["Ann", "left"], "ner_tags": ["B-person", "O"]}
    four = (
        "-DOCSTART- -X- -X- O\n\nAnn NNP B-NP B-person\nleft VBD B-VP O\n\n\n\nAnn NNP B-NP B-person\nleft VBD B-VP O"
    )
    assert rows_of(tmp_path / "four.conll", four) == [ann, ann]
    assert rows_of(tmp_path / "tabs.bio", "\ufeffAnn\tB-person\r\nleft\tO\r\n\t\r\nNew York\tO\r\n") == [
        ann,
        {"tokens": ["New York"], "ner_tags": ["O"]},
    ]
    assert rows_of(tmp_path / "marks.iob", "#\tO\n\xa0\tO\n\u2028\tO\n")[0]["tokens"] == ["#", "\xa0", "\u2028"]
    ranges = "1-2\tdu\t" + "\t".join("_" * 8) + "\n1\tde\t_\tADP\t" + "\t".join("_" * 6) + "\n"
    assert rows_of(tmp_path / "ud.conllu", f"# text = du\n{ranges}\n") == [{"tokens": ["de"], "ner_tags": ["ADP"]}]


def test_columns_of_a_conll_file_have_the_names_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ann\tO\n")
    config = DataConfig(train_file=str(tmp_path / "train.conll"), text_column="words", label_column="pos")
    assert load_splits(config, {"words": "texts", "pos": "tags"})["train"].to_list() == [
        {"words": ["Ann"], "pos": ["O"]}
    ]
    with pytest.raises(DataError, match="no column 'label'; the columns are 'words', 'pos'"):
        load_splits(config, {"label": "label"})


@pytest.mark.skipif(not WNUT.is_dir(), reason="the data set is not beside the project")
def test_wnut17_is_read_whole() -> None:
    """Sentences and words as its README counts them."""
    files = {f"{split}_file": str(WNUT / f"{split}.conll") for split in ("train", "validation", "test")}
    splits = load_splits(DataConfig(**files), COLUMNS)
    counts = {split: (len(rows), sum(map(len, rows["tokens"]))) for split, rows in splits.items()}
    assert counts == {"train": (3394, 62730), "validation": (1009, 15733), "test": (1287, 23394)}
    assert len({tag for row in splits["train"]["ner_tags"] for tag in row}) == 13


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's  U.S. re_use\n2nd", ["Ann", "'", "s", "U", ".", "S", ".", "re_use", "2nd"]),
        ("東京 is カナ", ["東", "京", "is", "カ", "ナ"]),
        ("cafe\u0301 हिन्दी 👍🏽", ["cafe\u0301", "हिन्दी", "👍", "🏽"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in words_of(text)] == words


def test_spans_become_tags() -> None:
    text = "Ann Lee flew to New-York."
    spans = [Span(16, 24, "place"), Span(0, 7, "person")]
    expected = ["B-person", "I-person", "O", "O", "B-place", "I-place", "I-place", "O"]
    assert tags_of(words_of(text), spans) == expected and not cuts_a_word(text, spans)
    # within a word, and with the space before it: the whole of the words that are touched
    wide = [Span(15, 22, "place"), Span(1, 7, "person")]
    assert tags_of(words_of(text), wide) == expected and cuts_a_word(text, wide)
    assert tags_of(words_of("a b"), [Span(0, 1, "x"), Span(2, 3, "x")]) == ["B-x", "B-x"]


REFERENCES = [["O", "B-a", "I-a", "O", "B-b"], ["B-a", "O"], ["I-b", "I-b", "B-b"]]
PREDICTIONS = [["O", "B-a", "O", "O", "B-b"], ["I-a", "O"], ["I-b", "B-b", "I-a"]]


def test_entities_by_hand() -> None:
    """Row by row, entities as (type, words). References: a 1-2, b 4; a 0; b 0-1, b 2. Predictions: a 1, b 4; a 0 (its
    I begins an entity); b 0, b 1, a 2. Right: b 4 and a 0. So 2 of 6 predicted and of 5 present; type a has 1 of 3
    and of 2, type b 1 of 3 and of 3. Of the ten words, 0 1 3 4, 1 and 0 have their tag: 6.
    """
    found = load_metric("seqeval").compute(predictions=PREDICTIONS, references=REFERENCES)
    assert found == pytest.approx(
        {"precision": 2 / 6, "recall": 2 / 5, "f1": 4 / 11, "accuracy": 6 / 10}
        | {"f1_a": 2 / 5, "support_a": 2, "f1_b": 2 / 6, "support_b": 3}
    )


def test_entities_as_the_library_counts_them() -> None:
    metric = load_metric("seqeval")
    for predictions, references in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=predictions, reference=references)
    report = classification_report(REFERENCES, PREDICTIONS, output_dict=True)
    found = metric.compute()
    assert found["f1"] == f1_score(REFERENCES, PREDICTIONS) == report["micro avg"]["f1-score"]
    assert {name: found[f"f1_{name}"] for name in "ab"} == {name: report[name]["f1-score"] for name in "ab"}


def test_whole_entities_only_where_tags_say_where_they_end() -> None:
    """BIOES is known by its S and E and read strictly: b 2-3 without its E is none, though BIO would take it."""
    references = [["S-a", "O", "B-b", "E-b"]]
    predictions = [["S-a", "O", "B-b", "I-b"]]
    found = load_metric("seqeval").compute(predictions=predictions, references=references)
    assert found["f1"] == f1_score(references, predictions, mode="strict", scheme=IOBES) == pytest.approx(2 / 3)
    assert f1_score(references, predictions) == 1 and found["precision"] == 1
    bilou = load_metric("seqeval").compute(predictions=[["U-a", "B-b"]], references=[["U-a", "O"]])
    assert bilou["f1"] == 1 and bilou["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references"),
    [(["O", "O"], ["O", "O"]), (["I-a", "B-a"], ["O", "O"]), (["O", "I-a"], ["O", "S-a"])],
)
def test_nothing_found_is_zero_without_a_warning(predictions: list[str], references: list[str]) -> None:
    found = load_metric("seqeval").compute(predictions=[predictions], references=[references])
    assert found["precision"] == found["recall"] == found["f1"] == 0


def test_plain_tags_are_no_entities() -> None:
    with pytest.raises(DataError, match="seqeval: 'NOUN' is no tag of an entity"):
        load_metric("seqeval").compute(predictions=[["NOUN"]], references=[["O"]])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(ConfigError, match=r"pip install 'graft-pipeline\[metrics\]'"):
        load_metric("seqeval")
