"""A push cannot lose or fail a run: what is tried again, and what is said at the end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

from pipeline import rerun
from pipeline.__main__ import main
from pipeline.api import read_config
from pipeline.errors import DataError
from pipeline.hub import patience, preflight
from pipeline.hub.patience import AskedToWait, patiently
from pipeline.publishing import NotPushed, push
from tests import launched
from tests.hub_online import environment
from tests.hub_server import OWNER, Hub
from tests.pushed import NAME, given, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was not pushed."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, push_to_hub=False)
    return folder / "run"


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, none of which is taken."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def command_of(text: str) -> list[str]:
    """The arguments of the command in the last line."""
    words = shlex.split(last_line(text).partition(": ")[2])
    assert words[0] == "graft"
    return words[1:]


FAULTS = {
    "503 at the commit": lambda hub: hub.fail_next("POST", "/commit/", times=4),
    "429 at the commit": lambda hub: hub.fail_next("POST", "/commit/", status=429, headers={"Retry-After": "7"}),
    "a lost connection at the commit": lambda hub: hub.drop_next("POST", "/commit/", times=2),
    "a commit whose answer is lost": lambda hub: hub.drop_next("POST", "/commit/", done=True),
    "503 at create": lambda hub: hub.fail_next("POST", "/repos/create", times=2),
    "a repository made whose answer is lost": lambda hub: hub.drop_next("POST", "/repos/create", done=True),
    "429 at whoami": lambda hub: hub.fail_next("GET", "/whoami", status=429),
    "503 at the upload": lambda hub: hub.fail_next("PUT", "/lfs/", times=3),
    "503 everywhere once": lambda hub: [hub.fail_next(method, "") for method in ("GET", "POST", "PUT")],
    "503 at refs and info": lambda hub: [hub.fail_next("GET", path) for path in ("/refs", "/revision/")],
}


@pytest.mark.promise(15, "faults of a hub that a push came through")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again(fault: str, hub: Hub, run: Path, waits: list[float]) -> None:
    FAULTS[fault](hub)
    pushed = push(run, NAME)
    assert pushed.changed and "model.safetensors" in hub.files(NAME) and len(hub.commits(NAME)) == 1
    assert waits and ("429 at the commit" not in fault or 7.0 in waits)
    assert not push(run, NAME).changed and len(hub.asked("PUT /lfs/upload")) <= 8


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub: Hub, run: Path) -> None:
    hub.add(NAME, {"README.md": b"hello"})
    hub.drop_next("POST", "/commit/", done=True)
    assert push(run, NAME, hub_create_pr=True).pull_request
    assert [ref for ref in hub.repository(NAME).refs if "/pr/" in ref] == ["refs/pr/1"]


def test_a_long_pause_is_not_taken(hub: Hub, run: Path, waits: list[float]) -> None:
    """Neither between our tries nor within huggingface_hub's, which sleeps for as long as it is told."""
    for path in ("/commit/", "/preupload/"):
        hub.fail_next("POST", path, status=429, headers={"Retry-After": "3600"})
        with pytest.raises(NotPushed, match="asks to wait 3,600 s"):
            push(run, NAME)
    assert max(waits, default=0.0) < 60


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_does_not_pass_is_not_tried_again(status: int, hub: Hub, run: Path) -> None:
    hub.fail_next("POST", "/commit/", status=status, times=9)
    with pytest.raises(NotPushed):
        push(run, NAME)
    assert len(hub.asked("POST .*/commit/")) == 1


def test_patience_ends(waits: list[float]) -> None:
    def fails() -> None:
        raise HTTPError("gone")

    with pytest.raises(HTTPError):
        patiently(fails)
    assert waits == [1.0, 2.0, 4.0, 8.0]


def test_a_date_to_wait_for_is_understood() -> None:
    answers = [
        SimpleNamespace(headers={"Retry-After": text}) for text in ("Wed, 21 Oct 2015 07:28:00 GMT", "x", "", "9")
    ]
    assert [patience.wait_of(answer) for answer in answers] == [0.0, 0.0, 0.0, 9.0]
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1000))
    assert 900 < patience.wait_of(SimpleNamespace(headers={"Retry-After": later})) <= 1000
    assert "1,000 s" in str(AskedToWait(1000))


def test_a_run_is_pushed_at_its_end(hub: Hub, tmp_path: Path) -> None:
    run = train(tmp_path, hub_private_repo=False, hub_tag="v1")
    assert last_line(run.pushed).startswith(f"pushed: {hub.endpoint}/{NAME} (")
    assert hub.files(NAME)["results.json"] == (tmp_path / "run" / "results.json").read_bytes()
    assert f"model='{NAME}'" in hub.files(NAME, "v1")["README.md"].decode()
    assert not hub.repository(NAME).private


def test_a_failed_push_is_a_finished_run_and_says_how_to_push(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fail_next("POST", "/commit/", times=99)
    place = tmp_path / "it's a place"
    place.mkdir()
    run = train(place, hub_private_repo=False, hub_tag="v1")
    assert "answers 503" in run.pushed and json.loads((run.output_dir / "manifest.json").read_text())
    assert json.loads((run.output_dir / "manifest.json").read_text())["status"] == "finished"
    words = command_of(run.pushed)
    assert words == [
        "push",
        str(run.output_dir),
        "--hub_model_id",
        NAME,
        "--hub_private_repo",
        "false",
        "--hub_tag",
        "v1",
    ]
    sent = len(hub.asked("PUT /lfs/upload"))
    hub.faults.clear()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0 and "pushed: " in capsys.readouterr().err
    assert len(hub.commits(NAME)) == 1 and sent == len(hub.asked("PUT /lfs/upload"))


def test_a_run_that_goes_on_may_be_pushed_and_one_that_is_repeated_is_not(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, push_to_hub=False)
    run = train(tmp_path)
    assert run.pushed.startswith("pushed: ") and not list(tmp_path.glob("*.earlier-*"))
    given: list[str] = []

    def launch(recipe: str, arguments: list[str], num_processes: int) -> int:
        given.extend(arguments)
        return 0

    monkeypatch.setattr(rerun, "launch", launch)
    config = read_config("finetune", run.output_dir / "config.yaml")
    assert config.hub.push_to_hub
    rerun.start(run.output_dir, rerun.read_manifest(run.output_dir), config, tmp_path / "again")
    assert not read_config("finetune", given[0], given[1:]).hub.push_to_hub


@pytest.mark.promise(15, "failed pushes after which the run was finished and the command to push it was said")
def test_whatever_goes_wrong_in_a_push_the_run_is_finished(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (KeyboardInterrupt(), MemoryError("no memory"), DataError("README.md:3: a secret")):
        monkeypatch.setattr("pipeline.publishing.stage", lambda *_, error=error: (_ for _ in ()).throw(error))
        run = train(tmp_path)
        assert "not pushed: " in run.pushed and command_of(run.pushed)[:2] == ["push", str(tmp_path / "run")]


def test_a_hub_that_is_away_before_training_and_back_after(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SECONDS", 0.5)
    hub.hang_next("GET", "/whoami")
    assert train(tmp_path).pushed.startswith("pushed: ")
    assert "does not answer: will train, cannot push now" in caplog.text


@pytest.mark.promise(15, "failed pushes after which the run was finished and the command to push it was said")
def test_a_hub_that_is_dead(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port where nobody listens, before training and after."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    run = train(tmp_path)
    assert "not pushed: the hub (http://127.0.0.1:9) does not answer" in run.pushed
    assert command_of(run.pushed)[0] == "push" and (run.output_dir / "model" / "config.json").is_file()


def test_a_hub_that_is_out_of_order_before_training(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SECONDS", 0.8)
    for fault in range(2):
        hub.fail_next("GET", "/whoami", times=10**6 if fault else 1)
        preflight.check_push(read_config("finetune", given(tmp_path)).hub)
        assert ("answers 503" in caplog.text) == bool(fault)
        hub.faults.clear()


def test_offline_mode_is_the_users(hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pushed = train(tmp_path).pushed
    assert pushed.startswith("not pushed: offline mode is on") and command_of(pushed)[0] == "push"
    assert not hub.requests


def test_a_hub_without_xet(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    assert push(run, NAME).changed and hub.asked("xet-write-token")


def started(hub: Hub, home: Path, run: Path) -> subprocess.Popen[str]:
    """`graft push` in a process of its own, in the middle of its commit."""
    before = len(hub.asked("POST .*/commit/"))
    hub.hang_next("POST", "/commit/")
    variables = environment(hub, home, PYTHONPATH=str(Path(__file__).parents[1]), OMP_NUM_THREADS="1")
    words = [sys.executable, "-m", "pipeline", "push", str(run), "--hub_model_id", NAME]
    process = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's & has it ignored
    )
    until = time.monotonic() + 120
    while len(hub.asked("POST .*/commit/")) == before and process.poll() is None and time.monotonic() < until:
        hub.released.wait(0.05)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.promise(15, "pushes stopped and killed in the middle, then done")
def test_stopped_and_killed_in_the_middle_then_pushed(hub: Hub, run: Path, tmp_path: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = started(hub, tmp_path, run)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + number and "Traceback" not in said, said
        assert command_of(said) == ["push", str(run), "--hub_model_id", NAME]
    process = started(hub, tmp_path, run)
    process.kill()
    process.communicate(timeout=60)
    sent = len(hub.asked("PUT /lfs/upload"))
    pushed = push(run, NAME)
    assert pushed.changed and len(hub.commits(NAME)) == 1 and len(hub.asked("PUT /lfs/upload")) == sent


def test_two_processes_push_once(hub: Hub, tmp_path: Path) -> None:
    done = launched.run(tmp_path, "finetune", given(tmp_path), 2)
    assert done.returncode == 0, done.stderr
    assert len(hub.asked("POST .*/commit/")) == len(hub.asked("POST /api/repos/create")) == 1
    assert len(hub.asked("/whoami")) == 2 and last_line(done.stderr).startswith("pushed: "), done.stderr
    assert OWNER not in done.stderr + done.stdout and os.environ["HF_TOKEN"] == OWNER
