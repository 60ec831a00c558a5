"""Nothing is unpickled and no code from data runs: a real run under an audit hook, with payloads under every name."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import read_config
from pipeline.data import DataConfig, load_splits
from pipeline.errors import ConfigError, DataError
from pipeline.metrics import load_metric
from pipeline.strategies import STRATEGIES
from tests.synthetic import RECIPE_OF, checkpoint_for, settings
from tests.test_rerun import write_files

ROOT = Path(__file__).resolve().parents[1]
NAMES = (
    *("optimizer.bin", "pytorch_model.bin", "training_args.bin", "scheduler.bin", "scaler.pt", "rng_state.pth"),
    *("random_states_0.pkl", "custom_checkpoint_0.pkl", "model.pt", "optimizer.pt", "state.pkl", ".metadata"),
)
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""How a pickle and a file of torch.save begin."""

WATCH = """
import json, os, sys, traceback

FOUND, RAN = [], []
DATA = os.environ["WATCHED"]


def hook(event, arguments):
    if event == "pickle.find_class":
        FOUND.append([str(arguments), [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()[:-1]]])
    elif event == "exec":
        name = getattr(arguments[0], "co_filename", "")
        if name.startswith(DATA):
            RAN.append(name)
    elif event == "import" and arguments[1] and str(arguments[1]).startswith(DATA):
        RAN.append(str(arguments[1]))


sys.addaudithook(hook)


def report():
    with open(os.path.join(os.environ["REPORTS"], f"{os.getpid()}.json"), "w") as file:
        json.dump({"find_class": FOUND, "ran": RAN}, file)
"""
SCRIPT = (
    WATCH
    + """
import atexit

atexit.register(report)
if __name__ == "__main__":
    import pipeline.run
    from pipeline.api import main
    from tests.faults import stop_after

    with stop_after(int(os.environ["STOP_AFTER"]) - 1):
        main(sys.argv[1], arguments=sys.argv[2:])
"""
)
CONTROL = (
    WATCH
    + """
import pickle
sys.path.insert(0, DATA)
import planted
pickle.loads(pickle.dumps(os.path.join))
report()
"""
)


def payload(marker: Path) -> bytes:
    """A pickle that makes a file when it is read (written by hand: nothing here imports pickle)."""
    return f"cos\nmkdir\n(V{marker}\ntR.".encode()


def watched(
    folder: Path, script: str, *arguments: str, processes: int = 1, stop_after: int = 0
) -> tuple[subprocess.CompletedProcess[str], dict[str, list[Any]]]:
    """Run a script under the hook; what all its processes reported together."""
    file, reports = folder / "watched" / "script.py", folder / "reports"
    for made in (file.parent, reports):
        made.mkdir(exist_ok=True)
    for old in reports.iterdir():
        old.unlink()
    file.write_text(script)
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WATCHED": str(folder / "data")}
    variables |= {"REPORTS": str(reports), "STOP_AFTER": str(stop_after)}
    start = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs" / "cpu_2proc.yaml")]
    done = subprocess.run(
        [sys.executable, *(start if processes == 2 else []), str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables},
    )
    found: dict[str, list[Any]] = {"find_class": [], "ran": []}
    told = [json.loads(path.read_text()) for path in reports.iterdir()]
    assert len(told) >= processes, done.stderr
    for one in told:
        for key, entries in one.items():
            found[key] += entries
    return done, found


def plant(folder: Path, marker: Path) -> None:
    for name in NAMES:
        (folder / name).write_bytes(payload(marker))
    (folder / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")


def test_the_hook_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """A control: the same hook reports a pickle that is read and a module that is imported from the data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "planted.py").write_text("")
    _, found = watched(tmp_path, CONTROL)
    assert len(found["find_class"]) == 1 and any("planted.py" in name for name in found["ran"])


@pytest.mark.promise(5, "train, stop, resume, export and reload under an audit hook without unpickling")
@pytest.mark.parametrize(("strategy", "processes"), [*((name, 1) for name in STRATEGIES), ("lora", 2)])
def test_nothing_is_unpickled_and_nothing_planted_runs(strategy: str, processes: int, tmp_path: Path) -> None:
    """Train, stop, resume, evaluate, export and reload, with payloads in the start and in the checkpoint folder."""
    data, marker = tmp_path / "data", tmp_path / "marker"
    data.mkdir()
    start = checkpoint_for("text_classification", data / "start")
    plant(start, marker)
    config = start / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoConfig": "modeling_evil.C"}}))
    given = settings("text_classification", strategy, start, data / "run", max_steps=4, eval_steps=2)
    given["data"] |= write_files(data, read_config(RECIPE_OF[strategy], given)) | {"cache_dir": str(data / "cache")}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(given))
    arguments = (RECIPE_OF[strategy], str(tmp_path / "my.yaml"))
    for stop_after, code in ((2, 1), (0, 0)):
        done, found = watched(tmp_path, SCRIPT, *arguments, processes=processes, stop_after=stop_after)
        assert ("stopped; saved at step" in done.stderr) == bool(stop_after), done.stderr
        assert bool(done.returncode) == bool(code), done.stderr
        assert found == {"find_class": [], "ran": []}
        for folder in [data / "run" / "checkpoints", *(data / "run" / "checkpoints").iterdir()]:
            if folder.is_dir():
                plant(folder, marker)
    assert "continuing from" in done.stderr and (data / "run" / "results.json").exists()
    assert "auto_map" in done.stderr and "never run" in done.stderr
    assert not marker.exists()
    written = [path for path in (data / "run").rglob("*") if path.is_file() and path.name not in NAMES]
    assert [path for path in written if path.read_bytes()[:4].startswith(PICKLES)] == []
    assert "auto_map" not in (data / "run" / "model" / "config.json").read_text()
    assert not list((data / "run" / "model").glob("*.py"))


def test_the_payload_would_run(tmp_path: Path) -> None:
    """A control: whoever reads the planted file with pickle makes the marker."""
    plant(tmp_path, tmp_path / "marker")
    code = f"import pickle; pickle.load(open({str(tmp_path / 'optimizer.bin')!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "marker").is_dir()


@pytest.mark.promise(5, "scripts and pickles in the place of data refused")
def test_a_data_folder_with_a_script_or_a_pickle(tmp_path: Path) -> None:
    """A script beside the rows is never looked at; a pickle and a folder with nothing else are refused."""
    folder, marker = tmp_path / "rows", tmp_path / "marker"
    folder.mkdir()
    plant(folder, marker)
    (folder / "rows.py").write_text((folder / "modeling_evil.py").read_text())  # the name datasets would look for
    (folder / "rows.pkl").write_bytes(payload(marker))
    columns: Any = {"text": "text"}
    for given, says in (
        ({"train_file": str(folder)}, "no data file in this folder"),
        ({"train_file": str(folder / "rows.pkl")}, "a pickle can run code when it is read"),
        ({"train_file": str(folder / "rows.py")}, "cannot read .py files"),
        ({"dataset_name": str(folder)}, "is a local path; use train_file"),
    ):
        with pytest.raises((ConfigError, DataError), match=says):
            load_splits(DataConfig(**given), columns)
    (folder / "rows.jsonl").write_text('{"text": "a"}\n')
    assert load_splits(DataConfig(train_file=str(folder)), columns)["train"].to_list() == [{"text": "a"}]
    assert not marker.exists()


def test_a_hub_metric_loads_only_by_its_explicit_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def load(name: str, **settings: Any) -> str:
        asked.append(name)
        return "loaded"

    monkeypatch.setattr("evaluate.load", load)
    for name in ("accuracy", "f1"):
        load_metric(name)
    for name in ("user/name", "name", "bertscore", "./hub:user/name"):
        with pytest.raises(ConfigError):
            load_metric(name)
    assert asked == [] and caplog.text == ""
    caplog.set_level(logging.WARNING)
    with pytest.raises(ConfigError, match="user/name is not in the local cache"):
        load_metric("hub:user/name")
    assert asked == [] and "hub:user/name runs Python code of the hub repository user/name" in caplog.text


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_named_by_a_checkpoint_is_not_handed_on(place: str, tmp_path: Path) -> None:
    """Neither imported here, nor named by what is saved."""
    from pipeline.models import ModelConfig, load_tokenizer

    start, marker = checkpoint_for("text_classification", tmp_path / "start"), tmp_path / "marker"
    plant(start, marker)
    file = start / place
    named = {"AutoConfig": "modeling_evil.C", "AutoTokenizer": ["modeling_evil.T", "modeling_evil.F"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": named}))
    load_tokenizer(ModelConfig(model_name_or_path=str(start))).save_pretrained(tmp_path / "saved")
    assert not marker.exists() and "modeling_evil" not in "".join(
        path.read_text() for path in (tmp_path / "saved").iterdir()
    )
