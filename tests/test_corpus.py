"""Corpora: tokenized once into memory-mapped arrays, by any number of processes, stopped and gone on with; mixtures."""

from __future__ import annotations

import hashlib
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipeline import pretrain, tokenizing
from pipeline.api import read_config
from pipeline.corpora import read_sources
from pipeline.data import Mixture, token_type
from pipeline.data.corpus import Corpus, Part
from pipeline.data.packing import blocks
from pipeline.data_report import print_data
from pipeline.errors import ConfigError, DataError
from pipeline.models import load_tokenizer
from pipeline.reading import read
from pipeline.settings import check, make_task
from pipeline.stopping import Stopped, StopRequest
from tests.faults import stop_after
from tests.tiny import SENTENCES, tiny_config, tiny_tokenizer

WORDS = " ".join(SENTENCES).split()


def write_rows(path: Path, count: int, seed: int) -> Path:
    draw = random.Random(seed)
    rows = [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(count)]
    path.write_text("".join(json.dumps({"text": f"{number} {row}"}) + "\n" for number, row in enumerate(rows)))
    return path


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    write_rows(tmp_path / "one.jsonl", 90, seed=1)
    write_rows(tmp_path / "two.jsonl", 60, seed=2)
    return {
        "task": "causal_lm",
        "model": {
            "config": tiny_config("llama"),
            "tokenizer_name_or_path": str(tiny_tokenizer(tmp_path / "tokenizer", style="decoder")),
        },
        "data": {
            "sources": [{"train_file": str(tmp_path / "one.jsonl")}, {"train_file": str(tmp_path / "two.jsonl")}],
            "max_length": 32,
            "cache_dir": str(tmp_path / "cache"),
        },
        "train_batch_size": 8,
        "output_dir": str(tmp_path / "run"),
    }


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "BATCH", 7)
    monkeypatch.setattr(tokenizing, "COMMIT", 2)


def prepared_task(config: Any) -> Any:
    task = make_task(config)
    task.use_tokenizer(load_tokenizer(config.model), 32)
    return task


def test_blocks_are_those_of_rows_in_memory(given: dict[str, Any], tmp_path: Path) -> None:
    config = read_config("pretrain", given)
    task = prepared_task(config)
    found = read_sources(config, task, StopRequest())
    assert len(found.corpora) == 2 and found.documents == 150
    for corpus, source in zip(found.blocks.sources, ("one", "two"), strict=True):
        rows = [json.loads(line)["text"] for line in (tmp_path / f"{source}.jsonl").read_text().splitlines()]
        wanted = [
            (ids, size)
            for batch in blocks(iter([task.encode({"text": rows})]), block_size=32)
            for ids, size in zip(batch["input_ids"], batch["num_bytes"], strict=True)
        ]
        mine = [corpus[number] for number in range(len(corpus))]
        assert [row["input_ids"] for row in mine] == [ids for ids, _ in wanted]
        assert [row["num_bytes"] for row in mine] == pytest.approx([size for _, size in wanted])
        assert corpus["length"].tolist() == [len(ids) for ids, _ in wanted]
        assert corpus.corpus.tokens.dtype == np.uint16


def test_large_vocabularies_take_32_bits() -> None:
    assert token_type(2**16 - 1).itemsize == 2 and token_type(2**16).itemsize == 4


def hashes(folder: Path) -> dict[str, str]:
    names = ("tokens.bin", "documents.bin", "digests.bin", "corpus.json")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def corpus_of(given: dict[str, Any], tmp_path: Path, cache: str, **data: Any) -> dict[str, str]:
    given = {**given, "data": {**given["data"], "cache_dir": str(tmp_path / cache), **data}}
    config = read_config("pretrain", given)
    corpora = read_sources(config, prepared_task(config), StopRequest()).corpora
    return hashes(corpora[0].folder)


def test_any_number_of_processes_makes_the_same_corpus(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline").mkdir()  # a user's own, which no process may take for ours
    (tmp_path / "pipeline" / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    monkeypatch.chdir(tmp_path)
    # two processes start with the batches of the module, so the rows are one batch of the first: 1,300 make two
    write_rows(tmp_path / "one.jsonl", 1300, seed=1)
    alone = corpus_of(given, tmp_path, "alone")
    assert corpus_of(given, tmp_path, "both", preprocessing_num_workers=2) == alone
    left = [path.name for path in (tmp_path / "both").glob("*.corpus/*")]
    assert sorted(set(left)) == ["corpus.json", "digests.bin", "documents.bin", "tokens.bin"]


def test_what_was_done_before_a_stop_is_not_done_again(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = corpus_of(given, tmp_path, "undisturbed")
    asked = []

    class Impatient(StopRequest):
        def poll(self) -> None:
            asked.append(1)
            if len(asked) == 6:
                raise Stopped

    config = read_config("pretrain", given)
    with pytest.raises(Stopped):
        read_sources(config, prepared_task(config), Impatient())
    (progress,) = (tmp_path / "cache").glob("*.corpus/part-0-of-1/progress.json")
    assert len(json.loads(progress.read_text())["batches"]) == 4  # the fifth was not committed
    added, add = [], Part.add

    def counted(self: Part, *batch: Any) -> None:
        added.append(1)
        add(self, *batch)

    monkeypatch.setattr(Part, "add", counted)
    found = read_sources(config, prepared_task(config), StopRequest())
    assert hashes(found.corpora[0].folder) == undisturbed
    assert len(added) == 9 + 9  # of thirteen and nine batches
    added.clear()
    read_sources(config, prepared_task(config), StopRequest())
    assert not added


def test_a_changed_file_is_another_corpus(given: dict[str, Any], tmp_path: Path) -> None:
    before = corpus_of(given, tmp_path, "cache")
    (tmp_path / "one.jsonl").write_text((tmp_path / "one.jsonl").read_text().replace("cat", "cow"))
    assert corpus_of(given, tmp_path, "cache") != before
    shown = {**given, "task": {"name": "causal_lm", "sample_prompts": ["the cat"]}}
    corpus_of(shown, tmp_path, "cache")  # what is shown changes no token
    assert len(list((tmp_path / "cache").glob("*.corpus"))) == 3  # of two files, one of them twice


def test_bad_rows_are_named_and_leave_nothing(given: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "two.jsonl").open("a") as file:
        file.write('{"text": 3}\n{"other": "x"}\n')
    for workers in (1, 2):
        given["data"]["preprocessing_num_workers"] = workers
        config = read_config("pretrain", given)
        with pytest.raises(DataError) as caught:
            read_sources(config, prepared_task(config), StopRequest())
        assert "two.jsonl:61: text is 3 (int), expected text" in str(caught.value)
        assert "two.jsonl:62: no column 'text'" in str(caught.value)
        left = sorted(path.name for path in (tmp_path / "cache").glob("*.corpus/*"))  # the first source's, and why not
        assert left == ["corpus.json", "digests.bin", "documents.bin", "problems.json", "tokens.bin"]
        for path in (tmp_path / "cache").glob("*.corpus/problems.json"):
            path.unlink()


class Numbers:
    """A source of so many blocks."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | str) -> Any:
        return np.full(self.count, 10) if isinstance(key, str) else key


def test_a_mixture_has_the_asked_shares_of_tokens() -> None:
    sources: Any = [Numbers(1000), Numbers(100), Numbers(400)]
    mixture = Mixture(sources, [0.5, 0.3, 0.2], seed=0)
    assert len(mixture) == 1500
    shares = mixture.shares()
    assert [share["share"] for share in shares] == pytest.approx([0.5, 0.3, 0.2], abs=1e-3)
    assert [share["passes"] for share in shares] == [0.75, 4.5, 0.75]
    assert [share["tokens"] for share in shares] == [7500, 4500, 3000]
    taken = [mixture.rows[mixture.which == number] for number in range(3)]
    assert len(set(taken[0].tolist())) == 750
    assert sorted(np.bincount(taken[1]).tolist()) == [4] * 50 + [5] * 50  # every block before any comes again
    again = Mixture(sources, [5, 3, 2], seed=0)
    assert (again.rows == mixture.rows).all() and (Mixture(sources, [5, 3, 2], seed=1).rows != mixture.rows).any()


def test_it_trains_and_resumes_and_says_its_shares(given: dict[str, Any], tmp_path: Path) -> None:
    for source, weight in zip(given["data"]["sources"], (1, 3), strict=True):
        source["weight"] = weight
    (tmp_path / "held_out.jsonl").write_text('{"text": "the cat sat on the hill"}\n{"text": "a dog ran to the sea"}\n')
    given["data"]["validation_file"] = str(tmp_path / "held_out.jsonl")
    more = {"max_steps": 6, "save_steps": 2, "learning_rate": 3e-3}
    straight = pretrain({**given, **more})
    report = json.loads((tmp_path / "run" / "data.json").read_text())
    assert report["train"]["rows"] == 150
    assert [part["share"] for part in report["train"]["sources"]] == pytest.approx([0.25, 0.75], abs=0.02)
    console = Console(file=io.StringIO(), width=200)
    print_data(read(read_config("pretrain", {**given, **more}), None, StopRequest()), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "source 1 (one.jsonl): " in shown and "asked for weight 3; read 1." in shown
    stopped = {**given, **more, "output_dir": str(tmp_path / "stopped")}
    with stop_after(3), pytest.raises(Stopped):
        pretrain(stopped)
    again = pretrain(stopped)
    assert again.metrics == straight.metrics
    folders = [tmp_path / run / "model" / "model.safetensors" for run in ("run", "stopped")]
    assert folders[0].read_bytes() == folders[1].read_bytes()


def test_overlap_is_looked_for_in_the_corpus(given: dict[str, Any], tmp_path: Path) -> None:
    line = (tmp_path / "two.jsonl").read_text().splitlines()[4]
    (tmp_path / "held_out.jsonl").write_text(f"{line}\n")
    given["data"]["validation_file"] = str(tmp_path / "held_out.jsonl")
    with pytest.raises(DataError, match=r"held_out.jsonl:1: is also document 95 of data.sources"):
        read(read_config("pretrain", given), None, StopRequest())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"packing": "none"}, "a corpus is plain text that is read in blocks"),
        ({"train_file": "x.txt"}, "data.train_file: does not go with data.sources"),
        ({"validation_split_fraction": 0.1}, "data.validation_split_fraction: does not go with data.sources"),
        ({"sources": [{"train_file": "nowhere.txt"}]}, r"data.sources\[0\].train_file: nowhere.txt: no such file"),
        ({"sources": [{"train_file": "a", "weight": 1}, {"train_file": "b"}]}, "some have a weight and some have none"),
    ],
)
def test_what_does_not_go_with_a_corpus(given: dict[str, Any], change: dict[str, Any], message: str) -> None:
    given["data"] |= change
    with pytest.raises((ConfigError, DataError), match=message):
        config = read_config("pretrain", given)
        check(config, has_validation=True)
        read(config, None, StopRequest())


def test_a_corpus_is_read_from_the_disk(given: dict[str, Any]) -> None:
    config = read_config("pretrain", given)
    corpus: Corpus = read_sources(config, prepared_task(config), StopRequest()).corpora[0]
    assert isinstance(corpus.tokens, np.memmap)
