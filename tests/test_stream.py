"""A hub dataset read while it is learned from; here a stand-in gives local rows in place of the hub's."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline import pretrain
from pipeline.api import read_config
from pipeline.data import Stream
from pipeline.errors import ConfigError, DataError
from pipeline.reading import read
from pipeline.stopping import Stopped, StopRequest
from tests.faults import stop_after
from tests.test_corpus import write_rows
from tests.tiny import tiny_config, tiny_tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked() -> dict[str, Any]:
    """What the hub is asked for."""
    return {"name": "user/texts", "split": "train", "revision": COMMIT, "streaming": True}


@pytest.fixture
def given(tmp_path: Path, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    rows = datasets.Dataset.from_json(str(write_rows(tmp_path / "rows.jsonl", 120, seed=3)), cache_dir=str(tmp_path))

    def load(name: str, subset: str | None, **settings: Any) -> Any:
        assert {"name": name, **settings} == asked and subset is None
        return rows.to_iterable_dataset(num_shards=3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    return {
        "task": "causal_lm",
        "model": {
            "config": tiny_config("llama"),
            "tokenizer_name_or_path": str(tiny_tokenizer(tmp_path / "tokenizer", style="decoder")),
        },
        "data": {
            **{"dataset_name": "user/texts", "dataset_revision": COMMIT, "streaming": True},
            **{"shuffle_buffer_size": 16, "max_length": 32},
        },
        **{"train_batch_size": 4, "max_steps": 30, "train_sampling_strategy": "sequential", "save_steps": 10},
        "output_dir": str(tmp_path / "run"),
    }


def test_a_stream_is_the_same_however_it_is_asked(given: dict[str, Any]) -> None:
    one: Any = read(read_config("pretrain", given), None, StopRequest()).splits["train"]
    other: Any = read(read_config("pretrain", given), None, StopRequest()).splits["train"]
    assert isinstance(one, Stream) and len(one) == 120
    straight = [one[number]["input_ids"].tolist() for number in range(120)]
    assert all(len(ids) == 32 for ids in straight) and len({tuple(ids) for ids in straight}) > 60
    for number in (7, 3, 110, 111, 50, 0, 119):
        assert other[number]["input_ids"].tolist() == straight[number]
    other.window.clear()  # as if that many blocks had been read since
    assert other[50]["input_ids"].tolist() == straight[50]


def test_every_pass_and_every_seed_has_an_order_of_its_own(given: dict[str, Any], tmp_path: Path) -> None:
    texts = [json.loads(line)["text"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    orders = []
    for seed in (0, 1):
        found = read(read_config("pretrain", {**given, "seed": seed, "max_steps": 90}), None, StopRequest())
        rows = [found.splits["train"][number]["input_ids"].tolist() for number in range(len(found.splits["train"]))]
        orders.append([token for number, row in enumerate(rows) for token in row[number > 0 :]])
    one_pass = sum(len(ids) for ids in found.task.encode({"text": texts})["input_ids"])
    assert len(orders[0]) > one_pass + 100
    assert orders[0][:100] != orders[0][one_pass : one_pass + 100] and orders[0][:100] != orders[1][:100]


def test_another_commit_is_another_run(given: dict[str, Any], asked: dict[str, Any]) -> None:
    """Reading again gives the same rows only of the same commit."""
    with stop_after(3), pytest.raises(Stopped):
        pretrain(given)
    asked["revision"] = COMMIT[::-1]
    with pytest.raises(ConfigError, match="training rows: .* there, .* now"):
        pretrain({**given, "data": {**given["data"], "dataset_revision": COMMIT[::-1]}})


def test_a_stopped_run_goes_on_with_the_same_rows(given: dict[str, Any], tmp_path: Path) -> None:
    straight = pretrain(given)
    given = {**given, "output_dir": str(tmp_path / "stopped"), "dataloader_num_workers": 2}
    with stop_after(17), pytest.raises(Stopped):
        pretrain(given)
    again = pretrain(given)
    assert again.results["tokens"] == straight.results["tokens"] == 30 * 4 * 32
    files = [tmp_path / run / "model" / "model.safetensors" for run in ("run", "stopped")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stop_is_heard_while_the_stream_is_read_again(given: dict[str, Any], tmp_path: Path) -> None:
    """No block is read after it, of the 72 up to where the run was; and the next start goes on all the same."""
    with stop_after(17), pytest.raises(Stopped):
        pretrain(given)
    read, numbers = Stream._read, []

    def stopping(self: Stream) -> Any:
        numbers.append(self.next)
        if len(numbers) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Stream, "_read", stopping)
        pretrain(given)
    assert numbers == list(range(6))
    assert pretrain(given).results["tokens"] == 30 * 4 * 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_revision": "main"}, "data.dataset_revision: 'main' of user/texts is not in the local cache"),
        ({"max_steps": None}, "a stream has no known end; say how long to train with train.max_steps"),
        ({"train_sampling_strategy": "random"}, "set train.train_sampling_strategy: sequential"),
        ({"packing": "none"}, "read in blocks; set data.packing: blocks"),
        ({"validation_split_fraction": 0.1}, "rows cannot be counted or drawn from a stream"),
        ({"text_column": "words"}, "user/texts: row 1 of the stream: words is missing"),
    ],
)
def test_what_does_not_go_with_a_stream(given: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        known = {**given["data"], **{key: value for key, value in change.items() if key in given["data"]}}
        pretrain({**given, **{key: value for key, value in change.items() if key not in known}, "data": known})
