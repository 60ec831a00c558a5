"""A token cannot leave: every byte that a run writes or prints is searched for canaries."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import read_config
from pipeline.config import load
from pipeline.errors import ConfigError, UserError
from pipeline.safe_text import SafeFormatter, has_credential, masked
from pipeline.settings import RunConfig
from tests.synthetic import checkpoint_for, settings
from tests.test_rerun import write_files

ROOT = Path(__file__).resolve().parents[1]
IN_ENVIRONMENT = "hf_CanaryInEnvironment0123456789abcdef"
IN_LOGIN = "hf_CanaryInLoginFile0123456789abcdefgh"
IN_CONFIG = "hf_CanaryInConfiguration0123456789abcd"
WANDB = "c0ffeec0ffeec0ffeec0ffeec0ffeec0ffeecafe"
PASSWORD = "canary-password-of-a-proxy"
CANARIES = (IN_ENVIRONMENT, IN_LOGIN, IN_CONFIG, WANDB, PASSWORD)

METRIC = '''
import os
import datasets
import evaluate


class Breaks(evaluate.Metric):
    """What a careless library does: the whole environment in an error."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        import logging

        logging.getLogger("careless").error("%s", dict(os.environ))
        login = open(os.path.join(os.environ["HF_HOME"], "token")).read()
        raise RuntimeError(f"cannot reach {os.environ['HTTPS_PROXY']} with {os.environ['WANDB_API_KEY']}, {login}")
'''


class Desk:
    """A folder with a checkpoint, data and a configuration, and an environment full of secrets."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "home").mkdir()
        for name in ("token", "stored_tokens"):
            (folder / "home" / name).write_text(f"[me]\nhf_token = {IN_LOGIN}\n" if "_" in name else IN_LOGIN)
        proxy = f"http://me:{PASSWORD}@127.0.0.1:9"
        self.environment = {
            **os.environ,
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "home")},
            **{"HF_TOKEN": IN_ENVIRONMENT, "WANDB_API_KEY": WANDB, "WANDB_MODE": "offline"},
            **{"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "MY_STORE": proxy, "HF_ENDPOINT": proxy},
        }
        checkpoint = checkpoint_for("text_classification", folder / "start")
        self.given = settings("text_classification", "lora", checkpoint, folder / "run", report_to=["tensorboard"])
        self.given["data"] |= write_files(folder, read_config("lora", self.given))

    def graft(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", *arguments]
        environment = {**self.environment, **variables}
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=300, env=environment, errors="replace"
        )
        assert not leaks(done.stdout + done.stderr), done.stdout + done.stderr
        return done

    def config(self, name: str, **more: Any) -> str:
        (self.folder / name).write_text(yaml.safe_dump({**self.given, **more}))
        return name

    def written(self) -> list[Path]:
        """Every file but those that hold a canary from the start."""
        mine = {self.folder / "home" / "token", self.folder / "home" / "stored_tokens"}
        return [path for path in self.folder.rglob("*") if path.is_file() and path not in mine]


def leaks(content: str | bytes) -> list[str]:
    data = content.encode() if isinstance(content, str) else content
    return [canary for canary in CANARIES if canary.encode() in data]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.mark.promise(13, "whole runs without a byte of a secret")
def test_no_byte_of_a_whole_run_holds_a_secret(desk: Desk) -> None:
    done = desk.graft("lora", desk.config("my.yaml"))
    assert done.returncode == 0, done.stderr
    assert desk.graft("lora", "my.yaml", "--dry_run").returncode == 0
    again = desk.graft("rerun", "run")
    assert again.returncode == 0, again.stdout + again.stderr
    compared = desk.graft("compare", "run", "run.rerun", "--output_dir", "comparison")
    assert compared.returncode == 0, compared.stderr
    written = desk.written()
    names = {path.name for path in written}
    assert {"README.md", "manifest.json", "compare.md", "config.yaml", "metrics.jsonl"} <= names
    assert any("tfevents" in name for name in names) and any(name.endswith(".safetensors") for name in names)
    assert {path.name: found for path in written if (found := leaks(path.read_bytes()))} == {}


def test_a_run_that_breaks_does_not_print_what_a_library_says(desk: Desk) -> None:
    (desk.folder / "breaks.py").write_text(METRIC)
    done = desk.graft("lora", desk.config("breaks.yaml", metrics=["./breaks.py"], output_dir="broken"))
    assert done.returncode == 1
    assert "RuntimeError: cannot reach http://***@127.0.0.1:9 with ***, ***" in done.stderr
    assert "Traceback" in done.stderr and "breaks.py" in done.stderr
    assert {path.name: found for path in desk.written() if (found := leaks(path.read_bytes()))} == {}


def test_a_hub_that_does_not_answer_is_named_without_its_password(desk: Desk) -> None:
    online = {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    done = desk.graft("lora", desk.config("absent.yaml", model={"model_name_or_path": "nobody/nothing"}), **online)
    assert done.returncode == 2 and "(http://***@127.0.0.1:9) does not answer" in done.stderr, done.stderr
    data = {"dataset_name": "nobody/nothing"}
    done = desk.graft("lora", desk.config("other.yaml", data=data), **online)
    assert done.returncode == 2 and "cannot be reached" in done.stderr, done.stderr


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"hub_token": IN_CONFIG}, "my.yaml:1: hub_token"),
    ({"model": {"model_name_or_path": IN_CONFIG}}, "my.yaml:2: model.model_name_or_path"),
    ({"tracking": {"run_name": f"mine {IN_CONFIG}"}}, "my.yaml:2: tracking.run_name"),
    ({IN_CONFIG: 1}, "my.yaml: "),
    ({"data": {"train_file": ["a.csv", f"https://me:{PASSWORD}@host/b.csv"]}}, "my.yaml:4: data.train_file"),
    ({"learning_rate": IN_CONFIG}, "my.yaml:1: learning_rate"),
]


@pytest.mark.promise(13, "secrets in configurations refused and not shown")
@pytest.mark.parametrize(("change", "place"), REFUSED)
def test_a_secret_in_a_configuration_is_refused_and_not_shown(
    change: dict[str, Any], place: str, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(change))
    with pytest.raises(ConfigError, match="set HF_TOKEN") as caught:
        load(RunConfig, tmp_path / "my.yaml")
    assert place in str(caught.value) and not leaks(str(caught.value))


def test_a_refused_token_is_not_printed(desk: Desk) -> None:
    done = desk.graft("lora", desk.config("token.yaml", hub_token=IN_CONFIG, output_dir="refused"))
    assert done.returncode == 2 and "hub_token: holds what looks like an access token" in done.stderr, done.stderr
    assert not (desk.folder / "refused").exists()
    (desk.folder / "token.yaml").unlink()


def test_a_secret_on_the_command_line_or_in_python_is_refused() -> None:
    for flags in (["--run_name", IN_CONFIG], [f"--run_name={IN_CONFIG}"], [IN_CONFIG], [f"--{IN_CONFIG}"]):
        with pytest.raises(ConfigError, match="set HF_TOKEN") as caught:
            load(RunConfig, {"task": "causal_lm"}, flags)
        assert not leaks(str(caught.value))
    for source, more in (({"run_name": IN_CONFIG}, {}), ({}, {"run_name": IN_CONFIG})):
        with pytest.raises(ConfigError, match="set HF_TOKEN") as caught:
            load(RunConfig, {"task": "causal_lm", **source}, more)
        assert not leaks(str(caught.value))


def test_what_is_a_credential_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    long = "0123456789abcdefghij"
    secret = [
        f"hf_{long}",
        f"a sk-{long}",
        f"ghp_{long}",
        f"github_pat_{long}",
        "s3://key:word@store/a",
        "AKIA" + "A" * 16,
    ]
    plain = [
        "hf_sentences",
        "sk-learn",
        "task-one",
        "a@b.org",
        "https://host/a@b",
        "c0ffee" * 6,
        "AKIAbc",
        "data/hf_x.csv",
    ]
    assert all(map(has_credential, secret)) and not any(map(has_credential, plain))
    assert [masked(text) for text in plain] == plain
    monkeypatch.setenv("SOME_API_KEY", "an-odd-one")
    record = logging.LogRecord("x", 30, "", 0, "with %s and %s", (f"hf_{long}", "an-odd-one"), None)
    assert SafeFormatter("%(message)s").format(record) == "with *** and ***"
    assert str(UserError(["one an-odd-one", f"two hf_{long}"])) == "2 problems:\n  one ***\n  two ***"
