"""Runs that start from a hub: by name, at one commit each, private, without network, and gone on with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, DatasetDict, load_dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pipeline import finetune, pretrain
from pipeline.errors import ConfigError
from pipeline.reach import go_offline
from pipeline.yaml_file import read_yaml
from tests.hub_online import environment
from tests.hub_server import INVALID, OTHER, OWNER, Hub
from tests.test_hub_server import METRIC
from tests.tiny import SENTENCES, tiny_checkpoint, tiny_config

ROOT = Path(__file__).resolve().parents[1]
ROWS = [{"text": f"{SENTENCES[number % 5]} {number}", "label": ("bad", "good")[number % 2]} for number in range(24)]
SETTINGS: dict[str, Any] = {
    "task": "text_classification",
    "model": {"model_name_or_path": "owner/encoder"},
    "data": {
        "dataset_name": "owner/reviews",
        "dataset_validation_split": "validation",
        "text_column": "text",
        "label_column": "label",
    },
    "train": {"max_steps": 2, "train_batch_size": 4, "logging_steps": 1},
    "eval": {"metrics": ["hub:owner/share"]},
    "tracking": {"disable_tqdm": True},
}


def push(folder: Path, hub: Hub, *, seed: int = 0, rows: list[dict[str, Any]] = ROWS) -> None:
    """A private encoder and a private dataset, by the plain clients, and a private metric, another for each seed."""
    hub.add("owner/share", {"share.py": METRIC + f"# {seed}".encode() + seed * LATER}, kind="space", private=True)
    tiny_checkpoint(folder, "bert", "AutoModelForMaskedLM", seed=seed)
    AutoModelForMaskedLM.from_pretrained(folder).push_to_hub("owner/encoder", private=True)
    AutoTokenizer.from_pretrained(folder).push_to_hub("owner/encoder")
    held_out = [{**row, "text": f"{row['text']} again"} for row in rows[:6]]
    splits = {"train": Dataset.from_list(rows), "validation": Dataset.from_list(held_out)}
    DatasetDict(splits).push_to_hub("owner/reviews", private=True)


@pytest.fixture
def pushed(hub: Hub, tmp_path: Path) -> Hub:
    push(tmp_path / "encoder", hub)
    hub.requests.clear()
    return hub


def heads(hub: Hub) -> dict[str, str]:
    """Where main is now."""
    names = {"model": "owner/encoder", "dataset": "owner/reviews"}
    found = {kind: hub.repository(name, kind=kind).at("main").sha for kind, name in names.items()}
    return {**found, "metric hub:owner/share": hub.repository("owner/share", kind="space").at("main").sha}


def commits(run: Path) -> dict[str, str]:
    return {what: pin["commit"] for what, pin in json.loads((run / "manifest.json").read_text())["hub"].items()}


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


LATER = b"""
    def _compute(self, predictions, references):
        return {"share": -1.0}
"""


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**SETTINGS, **{name: {**SETTINGS.get(name, {}), **values} for name, values in sections.items()}}


def test_a_run_takes_one_commit_of_each_and_writes_it_down(pushed: Hub, tmp_path: Path) -> None:
    run = finetune(SETTINGS, output_dir=str(tmp_path / "run"))
    assert run.metrics["share"] == run.metrics["accuracy"]
    assert commits(tmp_path / "run") == heads(pushed)
    saved, _ = read_yaml(tmp_path / "run" / "config.yaml")
    (metric,) = saved["eval"]["metrics"]
    assert [saved["model"]["revision"], saved["data"]["dataset_revision"], metric.partition("@")[2]] == [
        *heads(pushed).values()
    ]
    assert len(pushed.asked("expand=sha")) == 3, "each name is asked for once"
    of_names = pushed.asked("owner/(encoder|reviews|share)/(resolve|revision|tree)")
    assert of_names and all(any(commit in request for commit in heads(pushed).values()) for request in of_names)
    rows = {split: tmp_path / f"{split}.jsonl" for split in ("train", "validation")}
    for split, path in rows.items():
        load_dataset("owner/reviews", split=split).to_json(path)
    local = {"text_column": "text", "label_column": "label", **{f"{split}_file": str(rows[split]) for split in rows}}
    given = {**SETTINGS, "model": {"model_name_or_path": str(tmp_path / "encoder")}, "data": local}
    finetune(given, output_dir=str(tmp_path / "local"))
    assert weights(tmp_path / "run") == weights(tmp_path / "local")


def test_a_branch_that_moves_does_not_move_a_run(pushed: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    at_first = heads(pushed)
    longer = changed(train={"max_steps": 4})
    for given, name in ((SETTINGS, "before"), (longer, "before"), (SETTINGS, "resumed")):
        finetune(given, output_dir=str(tmp_path / name))
    push(tmp_path / "other", pushed, seed=1, rows=ROWS[::-1])
    assert not set(at_first.values()) & set(heads(pushed).values())
    caplog.clear()
    finetune(longer, output_dir=str(tmp_path / "resumed"))
    said = [record.message for record in caplog.records if "by now" in record.message]
    assert said == [
        f"{key}: main of {name} is at {heads(pushed)[kind][:12]} by now; this run goes on with {at_first[kind][:12]}, "
        "where it began (--checkpoint.resume never begins anew)"
        for key, name, kind in (
            ("model.revision", "owner/encoder", "model"),
            ("data.dataset_revision", "owner/reviews", "dataset"),
            ("eval.metrics", "owner/share", "metric hub:owner/share"),
        )
    ]
    assert commits(tmp_path / "resumed") == at_first
    scores = re.findall(r'share": (-?[\d.]+)', (tmp_path / "resumed" / "metrics.jsonl").read_text())
    assert len(scores) >= 2 and "-1.0" not in scores
    assert weights(tmp_path / "resumed") == weights(tmp_path / "before")
    again = finetune({**longer, "checkpoint": {"resume": "never"}}, output_dir=str(tmp_path / "resumed"))
    assert commits(tmp_path / "resumed") == heads(pushed) and again.metrics["share"] == -1.0


def test_without_network_the_cache_gives_the_same_commits(pushed: Hub, tmp_path: Path) -> None:
    """Also when a newer commit is in the cache, and the run goes on that began with the older one."""
    at_first = heads(pushed)
    finetune(SETTINGS, output_dir=str(tmp_path / "first"))
    push(tmp_path / "other", pushed, seed=1, rows=ROWS[::-1])
    finetune(SETTINGS, output_dir=str(tmp_path / "second"))
    pushed.requests.clear()
    go_offline()
    finetune(changed(train={"max_steps": 4}), output_dir=str(tmp_path / "first"))
    finetune(SETTINGS, output_dir=str(tmp_path / "third"))
    assert not pushed.requests
    assert commits(tmp_path / "first") == at_first and commits(tmp_path / "third") == heads(pushed)
    assert weights(tmp_path / "third") == weights(tmp_path / "second")
    with pytest.raises(ConfigError, match="'v2' of owner/reviews is not in the local cache"):
        finetune(changed(data={"dataset_revision": "v2"}), output_dir=str(tmp_path / "fourth"))


def test_a_stream_of_a_branch_is_read_at_one_commit(
    pushed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # five seconds at the end of each pass
    given: dict[str, Any] = {
        "task": "causal_lm",
        "model": {"config": tiny_config("llama"), "tokenizer_name_or_path": "owner/encoder"},
        "data": {"dataset_name": "owner/reviews", "streaming": True, "text_column": "text", "max_length": 16},
        "train": {"max_steps": 2, "train_batch_size": 2, "train_sampling_strategy": "sequential"},
    }
    pretrain(given, output_dir=str(tmp_path / "resumed"))
    push(tmp_path / "other", pushed, rows=ROWS[::-1])
    given["train"] = {**given["train"], "max_steps": 4}
    pretrain(given, output_dir=str(tmp_path / "resumed"))
    found = commits(tmp_path / "resumed")
    assert found.keys() == {"tokenizer", "dataset"} and found["dataset"] != heads(pushed)["dataset"]


@pytest.mark.parametrize("lost", ["owner/encoder.*/config.json", "owner/reviews.*/README.md", "/lfs/object"])
def test_a_lost_connection_is_not_taken_for_a_wrong_name(lost: str, pushed: Hub, tmp_path: Path) -> None:
    pushed.drop_next("GET", lost, times=99)
    with pytest.raises(
        ConfigError, match="the connection to the hub .* was lost while .* start the same command again"
    ):
        finetune(SETTINGS, output_dir=str(tmp_path / "run"))


def test_two_processes_ask_once_and_a_refusal_is_one_sentence(pushed: Hub, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(SETTINGS))
    command = [sys.executable, "-m", "pipeline", "finetune", "my.yaml", "--accelerate_config", "cpu_2proc"]

    def graft(token: str) -> subprocess.CompletedProcess[str]:
        found = environment(pushed, tmp_path / "elsewhere", token=token, PYTHONPATH=str(ROOT))
        return subprocess.run(command, cwd=tmp_path, env=found, capture_output=True, text=True)

    refused = graft(INVALID)
    assert refused.returncode == 2 and INVALID not in refused.stdout + refused.stderr, refused.stderr
    assert "my.yaml" in refused.stderr and "refuses your token, which comes from HF_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr and not (tmp_path / "runs").exists()
    pushed.requests.clear()
    done = graft(OWNER)
    assert done.returncode == 0, done.stderr
    assert commits(tmp_path / "runs" / "my") == heads(pushed) and len(pushed.asked("expand=sha")) == 3
    assert OWNER not in done.stdout + done.stderr
    assert not [
        path for path in (tmp_path / "runs").rglob("*") if path.is_file() and OWNER.encode() in path.read_bytes()
    ]


def test_who_may_not_read_is_told_before_anything_is_loaded(
    pushed: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", OTHER)
    with pytest.raises(ConfigError) as caught:
        finetune(SETTINGS, output_dir=str(tmp_path / "run"))
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        "model.model_name_or_path",
        "data.dataset_name",
        "eval.metrics",
    ]
    assert not pushed.asked("resolve") and OTHER not in str(caught.value)
