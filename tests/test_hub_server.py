"""The tests' hub speaks the protocol of the real clients: what each of them pushes is what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from peft import AutoPeftModelForSequenceClassification, LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.metrics.loading import from_hub
from tests.hub_online import environment, online
from tests.hub_server import INVALID, OTHER, READER, Hub, token_of
from tests.tiny import tiny_checkpoint

METRIC = b"""
import evaluate
import datasets

class Share(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="", features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}))

    def _compute(self, predictions, references):
        return {"share": sum(p == r for p, r in zip(predictions, references)) / len(references)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "bert", "AutoModelForSequenceClassification")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(5, 25)[None]).logits


def test_a_model_comes_back_bit_for_bit(hub: Hub, folder: Path, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.push_to_hub("owner/tiny", private=True)
    tokenizer.push_to_hub("owner/tiny")
    assert hub.repository("owner/tiny").private
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(hub.files("owner/tiny"))
    pushed = len(hub.commits("owner/tiny"))
    model.push_to_hub("owner/tiny")
    assert len(hub.commits("owner/tiny")) == pushed, "nothing changed, and nothing is committed"
    with online(hub, tmp_path / "elsewhere"):
        again = AutoModelForSequenceClassification.from_pretrained("owner/tiny")
        words = AutoTokenizer.from_pretrained("owner/tiny")
    assert torch.equal(logits(again), logits(model))
    assert words("a small dog").input_ids == tokenizer("a small dog").input_ids
    assert hub.asked("GET /lfs/object") and not hub.asked("xet")


def test_an_adapter_comes_back_bit_for_bit(hub: Hub, folder: Path) -> None:
    AutoModelForSequenceClassification.from_pretrained(folder).push_to_hub("owner/base")
    base = AutoModelForSequenceClassification.from_pretrained("owner/base")
    model = get_peft_model(base, LoraConfig(task_type=TaskType.SEQ_CLS, r=2, init_lora_weights=False))
    model.push_to_hub("owner/adapter")
    again = AutoPeftModelForSequenceClassification.from_pretrained("owner/adapter")
    assert torch.equal(logits(again), logits(model))


def test_datasets_are_pushed_and_loaded(hub: Hub) -> None:
    rows = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    DatasetDict({"train": Dataset.from_dict(rows), "test": Dataset.from_dict(rows)}).push_to_hub("owner/rows")
    assert "data/train-00000-of-00001.parquet" in hub.files("owner/rows", kind="dataset")
    assert load_dataset("owner/rows", split="test").to_dict() == rows
    streamed = load_dataset("owner/rows", split="train", streaming=True)
    assert [row["text"] for row in streamed] == rows["text"]
    hub.add("owner/csv", {"train.csv": b"text,label\nx,1\n"}, kind="dataset")
    assert load_dataset("owner/csv", split="train").to_dict() == {"text": ["x"], "label": [1]}


def test_a_metric_of_a_space(hub: Hub) -> None:
    hub.add("owner/share", {"share.py": METRIC}, kind="space")
    metric = from_hub("hub:owner/share", {})
    assert metric.compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1]) == {"share": 0.75}


def test_branches_tags_pull_requests_and_history(hub: Hub, tmp_path: Path) -> None:
    api = HfApi()
    url = api.create_repo("owner/tiny", exist_ok=True)
    assert str(url) == f"{hub.endpoint}/owner/tiny"
    first = api.upload_file(path_or_fileobj=b"one", path_in_repo="a/one.txt", repo_id="owner/tiny").oid
    api.create_tag("owner/tiny", tag="v1")
    api.create_branch("owner/tiny", branch="side/way")
    api.upload_file(path_or_fileobj=b"two", path_in_repo="two.txt", repo_id="owner/tiny", revision="side/way")
    pull = api.upload_file(path_or_fileobj=b"3", path_in_repo="three.txt", repo_id="owner/tiny", create_pr=True)
    assert pull.pr_revision == "refs/pr/1" and set(hub.files("owner/tiny", "refs/pr/1")) == {"a/one.txt", "three.txt"}
    api.delete_file("a/one.txt", "owner/tiny")
    assert hub.files("owner/tiny") == {}
    refs = api.list_repo_refs("owner/tiny", include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "side/way"} and refs.tags[0].target_commit == first
    assert api.list_repo_files("owner/tiny", revision="side/way") == [".gitattributes", "a/one.txt", "two.txt"]
    assert [commit.commit_id for commit in api.list_repo_commits("owner/tiny")][1] == first
    assert hf_hub_download("owner/tiny", "a/one.txt", revision="v1").endswith(f"{first}/a/one.txt")
    snapshot = snapshot_download("owner/tiny", revision="side/way", allow_patterns="*.txt")
    assert sorted(path.name for path in Path(snapshot).rglob("*.txt")) == ["one.txt", "two.txt"]
    operation = [CommitOperationAdd("late.txt", b"late")]
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("owner/tiny", operation, commit_message="late", parent_commit=first)


def test_a_card_is_checked(hub: Hub) -> None:
    api = HfApi()
    api.create_repo("owner/tiny")
    ModelCard("---\nlicense: mit\ntags: [one]\n---\ntext").push_to_hub("owner/tiny")
    assert api.model_info("owner/tiny").tags == ["one"]
    with pytest.raises(ValueError, match="/home/me.* is not valid"):
        ModelCard("---\nbase_model: /home/me\n---\n", ignore_metadata_errors=True).push_to_hub("owner/tiny")


def test_who_may_do_what(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    api = HfApi()
    api.create_repo("owner/secret", private=True)
    api.create_repo("team/shared")
    hub.add("owner/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("company/model")
    for token in (OTHER, False):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("owner/secret", token=token)
        assert api.model_info("owner/gated", token=token).gated == "manual"
        with pytest.raises(GatedRepoError):
            api.auth_check("owner/gated", token=token)
    hub.let_in("owner/gated", "other")
    assert hf_hub_download("owner/gated", "config.json", token=OTHER)
    for token, repository in ((OTHER, "team/shared"), (READER, "owner/secret")):
        with pytest.raises(HfHubHTTPError, match="403"):
            api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repository, token=token)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token=INVALID)
    assert api.whoami(token=READER)["auth"]["accessToken"]["role"] == "read"
    for call, error in (
        (lambda: hf_hub_download("owner/secret", "nothing.json"), EntryNotFoundError),
        (lambda: hf_hub_download("owner/secret", "config.json", revision="nothing"), RevisionNotFoundError),
        (lambda: hf_hub_download("owner/nothing", "config.json"), RepositoryNotFoundError),
    ):
        with pytest.raises(error):
            call()


FAULTS: dict[str, Callable[[Hub], None]] = {
    "status": lambda hub: hub.fail_next("POST", "/commit/main", status=429, headers={"Retry-After": "1"}),
    "drop": lambda hub: hub.drop_next("POST", "/commit/main"),
    "lost": lambda hub: hub.drop_next("POST", "/commit/main", done=True),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_happen_as_often_as_asked(kind: str, hub: Hub) -> None:
    api = HfApi()
    api.create_repo("owner/tiny")
    FAULTS[kind](hub)
    operation = [CommitOperationAdd("x.txt", b"x")]
    with pytest.raises(Exception, match="429" if kind == "status" else "disconnected"):
        api.create_commit("owner/tiny", operation, commit_message="one")
    assert len(hub.commits("owner/tiny")) == (kind == "lost")
    api.create_commit("owner/tiny", [CommitOperationAdd("y.txt", b"y")], commit_message="two")
    assert hub.commits("owner/tiny")[0] == "two" and len(hub.asked("POST .*/commit/main")) == 2


def test_an_endpoint_that_never_answers(hub: Hub) -> None:
    hub.hang_next("HEAD", "/config.json")
    hub.add("owner/tiny", {"config.json": b"{}"})
    assert hf_hub_download("owner/tiny", "config.json", etag_timeout=0.1)
    assert len(hub.asked("HEAD .*/config.json")) == 2, "the client waits, and asks once more"


def test_another_process_uses_it(hub: Hub, tmp_path: Path) -> None:
    code = "import huggingface_hub as h; print(h.HfApi().whoami()['name'])"
    for token, name in ((None, "LocalTokenNotFound"), (OTHER, "other")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(hub, tmp_path / "home", token=token),
            capture_output=True,
            text=True,
        )
        assert name in done.stdout + done.stderr


def test_without_the_fixture_there_is_no_hub() -> None:
    assert constants.HF_HUB_OFFLINE and constants.ENDPOINT.startswith("http://127.0.0.1:")
    with pytest.raises(OfflineModeIsEnabled):
        HfApi().whoami(token=token_of("owner"))
