"""What a name leads to: a folder, a commit of the hub, the cache; and what is said when it leads nowhere."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from pipeline import reach
from pipeline.errors import ConfigError
from pipeline.hub_names import Asked, cached_commit, locate
from pipeline.reach import go_offline, resolve, resolve_all, why_offline
from tests.hub_server import INVALID, OTHER, OWNER, Hub
from tests.tiny import tiny_checkpoint

KEY = "model.model_name_or_path"
CONFIG = {"config.json": b"{}"}


def test_locate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/my model", what="model") == str(tmp_path / "my model")
    assert locate("gpt2", what="model") == "gpt2"
    for name in ("a/b/c", "/nowhere/at/all", "https://huggingface.co/gpt2"):
        with pytest.raises(ConfigError, match="there is no folder"):
            locate(name, what="model")
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        locate(str(tmp_path / "file.json"), what="model")


def test_names_become_commits(hub: Hub) -> None:
    first = hub.add("owner/tiny", CONFIG)
    hub.repository("owner/tiny").refs["refs/tags/v1"] = hub.repository("owner/tiny").at("main")
    newest = hub.add("owner/tiny", {"more.json": b"{}"})
    rows = hub.add("owner/rows", {"train.csv": b"a\n1\n"}, kind="dataset")
    for revision, commit in ((None, newest), ("main", newest), ("v1", first), (first, first)):
        assert resolve("owner/tiny", revision, what=KEY) == commit
    assert resolve("owner/rows", what="data.dataset_name", kind="dataset") == rows
    asked = len(hub.requests)
    assert why_offline() == "" and len(hub.requests) == asked, "who has answered is not asked again"


def test_folders_ask_nobody(hub: Hub, tmp_path: Path) -> None:
    assert resolve(str(tmp_path), what=KEY) is None and not hub.requests
    with pytest.raises(ConfigError, match="there is no folder ./nothing"):
        resolve("./nothing", what=KEY)
    with pytest.raises(ConfigError, match="model.revision: .* is a local folder, which has no revisions; leave it out"):
        resolve(str(tmp_path), "main", what=KEY)
    with pytest.raises(ConfigError, match="is a local path; use train_file"):
        resolve(str(tmp_path), what="data.dataset_name", kind="dataset")
    with pytest.raises(ConfigError, match="cannot be a dataset of the hub"):
        resolve("a/b/c", what="data.dataset_name", kind="dataset")


REFUSED: dict[str, tuple[str, str | None, str | None, str]] = {
    "missing, signed in": (
        "owner/nothing",
        None,
        OWNER,
        "model.model_name_or_path: owner/nothing is no local folder and is no model of the hub (<hub>), or a private "
        "one that your token does not see; check the name, or sign in with an account that has access (`hf auth "
        "login`, or HF_TOKEN in the environment)",
    ),
    "missing or private, as nobody": (
        "owner/secret",
        None,
        None,
        "model.model_name_or_path: owner/secret is no local folder and is not a public model of the hub (<hub>); check "
        "the name or, if it is private, sign in (`hf auth login`, or HF_TOKEN in the environment)",
    ),
    "a token that is none": (
        "owner/tiny",
        None,
        INVALID,
        "model.model_name_or_path: the hub (<hub>) refuses your token, which comes from HF_TOKEN; make a new one on "
        "<hub>/settings/tokens and sign in again (`hf auth login`, or HF_TOKEN in the environment)",
    ),
    "gated": (
        "owner/gated",
        None,
        OTHER,
        "model.model_name_or_path: owner/gated is gated and this account has no access yet; ask for access on "
        "<hub>/owner/gated, then sign in (`hf auth login`, or HF_TOKEN in the environment)",
    ),
    "no such revision": (
        "owner/tiny",
        "mian",
        OWNER,
        "model.revision: owner/tiny has no branch, tag or commit 'mian'; did you mean 'main'?",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_says_what_to_do(kind: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/tiny", CONFIG)
    hub.add("owner/gated", CONFIG, gated=True)
    hub.add("owner/secret", CONFIG, private=True)
    name, revision, token, expected = REFUSED[kind]
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError) as caught:
        resolve(name, revision, what=KEY)
    assert str(caught.value).replace(hub.endpoint, "<hub>") == expected
    assert not constants.HF_HUB_OFFLINE


def test_all_problems_come_at_once(hub: Hub) -> None:
    asked = [Asked(KEY, "owner/model"), Asked("data.dataset_name", "owner/rows", kind="dataset")]
    with pytest.raises(ConfigError) as caught:
        resolve_all(asked)
    assert len(caught.value.problems) == 2 and "no dataset of the hub" in caught.value.problems[1]


def test_passing_errors_and_a_lost_connection_are_survived(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PAUSE_SECONDS", 0.01)
    commit = hub.add("owner/tiny", CONFIG)
    hub.fail_next("GET", "/api/models", status=503)
    hub.fail_next("GET", "/api/models", status=429)
    hub.drop_next("GET", "/api/models")
    assert resolve("owner/tiny", what=KEY) == commit


FAULTS = {
    "refused": lambda hub, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
    "silent": lambda hub, patch: hub.hang_next("GET", "/api", times=9),
    "broken": lambda hub, patch: hub.fail_next("GET", "/api", times=99),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_without_an_answer_the_cache_is_used(
    fault: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reach, "PROBE_SECONDS", 0.4)
    monkeypatch.setattr(reach, "PAUSE_SECONDS", 0.05)
    FAULTS[fault](hub, monkeypatch)
    with pytest.raises(ConfigError, match="someone/model is no local folder and is not in the local cache"):
        resolve("someone/model", what=KEY)
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"
    assert "does not answer; working from the local cache" in caplog.text
    assert why_offline() == "offline mode"


def test_three_seconds_are_for_all_names_together(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PROBE_SECONDS", 0.5)
    hub.hang_next("GET", "/api", times=99)
    started: list[float] = []
    within = reach._within

    def counted(seconds: float, work: Any) -> list[Any]:
        started.append(seconds)
        return within(seconds, work)

    monkeypatch.setattr(reach, "_within", counted)
    with pytest.raises(ConfigError):
        resolve_all([Asked(str(number), f"owner/model-{number}") for number in range(5)])
    assert why_offline() == "offline mode" and started == [0.5]


def test_offline_the_cache_says_which_commit(hub: Hub, tmp_path: Path) -> None:
    """Everything is loaded by commit, and what the branch was is still known without network."""
    from transformers import AutoConfig

    tiny_checkpoint(tmp_path / "model", "llama", "AutoModelForCausalLM")
    first = hub.add("owner/tiny", {"config.json": (tmp_path / "model" / "config.json").read_bytes()})
    assert resolve("owner/tiny", what=KEY) == first
    assert cached_commit("owner/tiny") is None, "nothing of it is here yet"
    AutoConfig.from_pretrained("owner/tiny", revision=first)
    hub.add("owner/tiny", {"more.txt": b"x"})
    go_offline()
    assert resolve("owner/tiny", what=KEY) == resolve("owner/tiny", first, what=KEY) == first
    with pytest.raises(ConfigError, match=r"owner/tiny \(revision v2\) is no local folder and is not in the"):
        resolve("owner/tiny", "v2", what=KEY)


def test_a_server_that_takes_the_connection_and_says_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PROBE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert why_offline() == "it does not answer"
