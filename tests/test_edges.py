"""Situations at the edge that once went wrong or easily could."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import checkpoint, finetune
from pipeline.accelerator import make_accelerator
from pipeline.api import read_config
from pipeline.data import DataConfig
from pipeline.errors import ConfigError, DataError
from pipeline.processes import Processes
from pipeline.stopping import StopRequest
from pipeline.tasks import TASKS
from tests import launched
from tests.synthetic import checkpoint_for, data_of, rows, settings
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("decoder"))


def test_bf16_run_saves_the_model_it_trained(decoder: Path, tmp_path: Path) -> None:
    """Under autocast the model in memory rounds; what is compared and returned must be the plain model."""
    given = settings("causal_lm", None, decoder, tmp_path / "run", mixed_precision="bf16")
    run = finetune(given, datasets=data_of(read_config("finetune", given)))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["mixed_precision"] == "bf16"
    assert {value.dtype for value in run.model.parameters()} == {torch.float32}


def test_one_validation_row_on_two_processes(tmp_path: Path) -> None:
    """A process without a row of its own takes part in the collectives all the same."""
    start = checkpoint_for("text_classification", tmp_path / "start")
    given = settings("text_classification", None, start, tmp_path / "run", max_steps=1, max_eval_samples=1)
    done = launched.run(tmp_path, "finetune", given, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["num_samples"]["validation"] == 1


def test_a_folder_that_is_no_run_is_left_alone(decoder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    given = settings("causal_lm", None, decoder, tmp_path)
    with pytest.raises(ConfigError, match="no run of graft"):
        finetune(given, datasets=data_of(read_config("finetune", given)))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def save(folder: Path, step: int) -> Path:
    tensors = {"model": {"weight": torch.full((3,), float(step))}}
    return checkpoint.save(folder, step, tensors, {"step": step}, Processes(make_accelerator()))


def test_going_on_from_an_earlier_step_leaves_the_later_ones_behind(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        save(tmp_path, step)
    checkpoint.set_aside_later(tmp_path, 100)
    save(tmp_path, 150)
    checkpoint.rotate(tmp_path, keep=1, pinned=[None])
    good, refused = checkpoint.newest_good(tmp_path)
    assert good == tmp_path / "step-000150" and not refused


def test_killed_while_deleting_an_old_one_leaves_no_half_under_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)

    def half(path: Path) -> None:
        next(path.glob("*.json")).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", half)
        checkpoint.rotate(tmp_path, keep=1, pinned=[])
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-000002"]
    assert len(list(tmp_path.iterdir())) == 2
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000003"]


@pytest.mark.parametrize("harm", ["truncate", "flip", "delete", "manifest"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_taken(harm: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    file = newest / (checkpoint.MANIFEST if harm == "manifest" else "model.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    if harm == "delete":
        file.unlink()
    else:
        file.write_bytes(content[:-2] if harm in ("truncate", "manifest") else content)
    good, refused = checkpoint.newest_good(tmp_path)
    assert good == tmp_path / "step-000001" and str(file) in refused[0]
    with pytest.raises(DataError, match="step-000002"):
        checkpoint.load(newest)


def test_leftovers_of_a_killed_save_do_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-000005").mkdir()
    (tmp_path / ".tmp-step-000004").mkdir()
    assert not checkpoint.problems(save(tmp_path, 5)) and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.filterwarnings("ignore:.*no supported trackers")
def test_a_tracker_that_is_not_installed_is_named(
    decoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "run", report_to=["mlflow"])
    finetune(given, datasets=data_of(read_config("finetune", given)))
    assert any("pip install 'graft-pipeline[mlflow]'" in record.getMessage() for record in caplog.records)


def test_bits_per_byte_mean_the_same_packed_and_not(tmp_path: Path) -> None:
    """Bytes are those of predicted tokens: a first token that nothing predicts does not count."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, style="decoder"))
    found = []
    for packing in ("blocks", "none", "best_fit"):
        kind = TASKS["causal_lm"]
        task = kind(kind.Config(name="causal_lm"), DataConfig(packing=packing))
        task.use_tokenizer(tokenizer, 64)
        batches = list(task.pack(iter([task.encode({"text": ["the cat sat on the mat"]})])))
        found.append(sum(size for batch in batches for size in batch["num_bytes"]))
    assert found == pytest.approx(found[:1] * 3)


def test_a_shell_that_goes_away_stops_nothing_but_a_launcher_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    alone = StopRequest()
    monkeypatch.setenv("LOCAL_RANK", "0")
    worker = StopRequest()
    monkeypatch.setattr("os.getppid", lambda: 1)
    assert not alone() and worker()
    monkeypatch.delenv("LOCAL_RANK")
    assert not StopRequest()()
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")  # the launcher died while we imported torch
    assert StopRequest()()


def test_regression_on_equal_numbers_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    start = checkpoint_for("text_classification", tmp_path / "start")
    given: dict[str, Any] = settings("text_classification regression", None, start, tmp_path / "run")
    same = rows({"text": "text", "label": "number"}, 5).map(lambda row: {"label": 1.0})
    with pytest.raises(DataError, match="same number"):
        finetune(given, datasets={"train": rows({"text": "text", "label": "number"}, 20), "validation": same})
