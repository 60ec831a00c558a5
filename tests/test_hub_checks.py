"""What will not work, and what must not leave the machine, is said before anything is sent."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipeline.__main__ import main
from pipeline.api import read_config
from pipeline.dry_run import print_plan
from pipeline.errors import ConfigError, DataError, UserError
from pipeline.hub import preflight
from pipeline.prepare import prepare
from pipeline.publishing import push
from tests.hub_server import INVALID, OWNER, READER, Hub
from tests.pushed import NAME, given, train
from tests.synthetic import data_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was not pushed."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, push_to_hub=False)
    return folder / "run"


NOT_ALLOWED: list[tuple[str | None, dict[str, Any], str]] = [
    (INVALID, {}, "hub.push_to_hub: the hub (.*) does not accept the token"),
    (None, {}, "hub.push_to_hub: there is no access token"),
    (OWNER, {"hub_model_id": "other/x"}, "hub.hub_model_id: the token belongs to owner, who may not write to other"),
    (OWNER, {"hub_model_id": "company/x"}, "hub.hub_model_id: owner may only read in company"),
    (READER, {}, "hub.hub_model_id: the token may only read"),
    (OWNER, {"hub_create_pr": True}, "hub.hub_create_pr: there is no repository owner/mine"),
]


@pytest.mark.parametrize(("token", "more", "message"), NOT_ALLOWED)
def test_what_will_not_work_is_refused_before_training(
    token: str | None, more: dict[str, Any], message: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match=message) as caught:
        train(tmp_path, **more)
    assert not (tmp_path / "run").exists() and not hub.repositories
    assert token is None or token not in str(caught.value)


def test_the_plan_says_where_it_will_be_pushed(hub: Hub, tmp_path: Path) -> None:
    settings = given(tmp_path)
    console = Console(file=StringIO(), width=200)
    rows = data_of(read_config("finetune", settings))
    print_plan(prepare(read_config("finetune", settings), datasets=rows), console)
    assert f"will push    to {NAME}, private when it is new" in console.file.getvalue()  # type: ignore[attr-defined]
    assert hub.asked("/whoami") and not hub.repositories and not (tmp_path / "run").exists()


def test_an_organisation_and_a_pull_request_to_others_are_fine(hub: Hub, run: Path) -> None:
    assert push(run, "team/x").changed
    hub.add("other/x", {"README.md": b"hello"})
    assert push(run, "other/x", hub_create_pr=True).pull_request


FINE_GRAINED = {"role": "fineGrained", "fineGrained": {"scoped": []}}


@pytest.mark.parametrize(
    ("scopes", "refused"),
    [
        ([], True),
        ([{"entity": {"type": "user", "name": "me"}, "permissions": ["repo.content.read"]}], True),
        ([{"entity": {"type": "user", "name": "me"}, "permissions": ["repo.write"]}], False),
        ([{"entity": {"type": "model", "name": "me/x"}, "permissions": ["repo.write"]}], False),
        (None, False),
    ],
)
def test_fine_grained_tokens(scopes: Any, refused: bool) -> None:
    token = {"role": "fineGrained", "fineGrained": {"scoped": scopes}}
    found = preflight.forbidden("me/x", {"name": "me", "auth": {"accessToken": token}})
    assert bool(found) == refused
    assert preflight.forbidden("me/x", {"name": "me"}) is None  # another hub, which says no more


def altered(run: Path, folder: Path, name: str, text: str) -> Path:
    """The run with another file."""
    (folder / "altered").mkdir()
    for path in run.iterdir():
        if path.name != name:
            (folder / "altered" / path.name).symlink_to(path)
    (folder / "altered" / name).write_text(text)
    return folder / "altered"


SECRETS = [
    "hf_" + "a1B2" * 8,
    "AKIA" + "A1" * 8,
    "ghp_" + "a1B2" * 9,
    "sk-ant-" + "a1B2" * 8,
    "sk-proj-" + "a1B2" * 8,
    "-----BEGIN OPENSSH PRIVATE KEY-----",
    "https://me:word@host/x",
    "my_token: 'a1B2c3D4e5F6g7H8'",
]


@pytest.mark.promise(15, "secrets in texts refused before anything was sent")
@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_a_text_is_refused(secret: str, hub: Hub, run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["extensions"] = {"note": f"see {secret}"}
    folder = altered(run, tmp_path, "config.yaml", yaml.safe_dump(config))
    with pytest.raises(DataError, match=r"config.yaml:\d+: holds what looks like") as caught:
        push(folder, NAME)
    assert secret not in str(caught.value) and not hub.asked("/commit/") and not hub.repositories


def test_a_secret_of_the_environment_is_refused(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_PASSWORD", "an odd one")
    results = json.loads((run / "results.json").read_text())
    results["notes"] = ["an odd one"]
    folder = altered(run, tmp_path, "results.json", json.dumps(results))
    with pytest.raises(DataError, match="the value of SOME_PASSWORD"):
        push(folder, NAME)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hub_model_id": "a b"}, "hub_model_id: 'a b' cannot be the name of a repository"),
    ({"hub_model_id": NAME, "hub_push": "adapter"}, "hub_push: this run made a whole model"),
    ({"hub_model_id": NAME, "hub_branch": "x"}, "its name here is 'hub_revision'|hub_branch: unknown key"),
    ({"hub_model_id": NAME, "hub_tag": "-x"}, "hub_tag: '-x' cannot be the name"),
    ({"hub_model_id": NAME, "hub_create_pr": True, "hub_tag": "x"}, "leave out hub_revision and hub_tag"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_mistakes_are_said_before_a_hub_is_asked(settings: dict[str, Any], message: str, hub: Hub, run: Path) -> None:
    with pytest.raises(UserError, match=message):
        push(run, **settings)
    assert not hub.requests


def test_a_name_is_needed(hub: Hub, run: Path, tmp_path: Path) -> None:
    folder = altered(run, tmp_path, "config.yaml", "task: text_classification\n")
    with pytest.raises(ConfigError, match="hub_model_id: is not set"):
        push(folder)
    assert not hub.requests


def test_only_a_finished_run_is_pushed(hub: Hub, run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such run folder"):
        push(tmp_path / "none", NAME)
    manifest = json.loads((run / "manifest.json").read_text())
    folder = altered(run, tmp_path, "manifest.json", json.dumps({**manifest, "status": "stopped"}))
    with pytest.raises(DataError, match="not finished"):
        push(folder, NAME)
    assert not hub.requests


def test_a_tag_that_is_taken_is_said_before_a_commit(hub: Hub, run: Path, tmp_path: Path) -> None:
    push(run, NAME, hub_tag="v1")
    hub.add(NAME, {"LICENSE": b"mine"})
    with pytest.raises(ConfigError, match="has a tag v1 already"):
        push(run, NAME, hub_tag="v1")
    assert len(hub.asked("POST .*/commit/")) == 1


def test_a_dry_run_asks_no_hub(hub: Hub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["push", str(run), "--hub_model_id", NAME, "--dry_run"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and "model.safetensors" in shown and f"would go to {NAME}" in shown
    assert not hub.requests
