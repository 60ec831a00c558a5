"""Adapters added into their base: the same model as `lora.merge: true` saves, with all that stands beside it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.tasks import TASKS
from tests.synthetic import checkpoint_for, data_of, settings
from tests.tiny import tiny_checkpoint


def lora_run(task: str, folder: Path, **more: Any) -> Path:
    """A finished LoRA run of a task, on a base beside it."""
    base = folder / "base"
    if not base.exists():
        checkpoint_for(task, base)
    given = settings(task, "lora", base, folder / ("merged-run" if more else "run"), max_steps=1, **more)
    return run_recipe("lora", given, datasets=data_of(read_config("lora", given))).output_dir


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose rows are in a file, so that they can be compared on."""
    folder = tmp_path_factory.mktemp("classification")
    base = checkpoint_for("text_classification", folder / "base")
    given = settings("text_classification", "lora", base, folder / "run", max_steps=3)
    rows = data_of(read_config("lora", given))
    for split, part in rows.items():
        part.to_json(folder / f"{split}.jsonl")
        given["data"][f"{split}_file"] = str(folder / f"{split}.jsonl")
    return run_recipe("lora", given).output_dir


@pytest.mark.parametrize("task", TASKS)
def test_merging_gives_what_lora_merge_saves(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and every bit, beside what says how the run was made."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # a GPU adds up in another order than the processor that merges
    merged = merge(lora_run(task, tmp_path), tmp_path / "plain")
    expected = lora_run(task, tmp_path, merge=True) / "model"
    names = {path.relative_to(expected).as_posix() for path in expected.rglob("*") if path.is_file()}
    found = {path.relative_to(merged).as_posix() for path in merged.rglob("*") if path.is_file()}
    assert found == names | {"config.yaml", "results.json", "manifest.json"}
    assert not [name for name in names if (merged / name).read_bytes() != (expected / name).read_bytes()]


def test_it_is_compared_on_the_rows_of_the_run(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "graft")
    merge(run / "model", tmp_path / "plain")
    assert "differ by at most" in caplog.text and "on 4 rows of the run's data" in caplog.text
    assert not list(tmp_path.glob(".*"))


def test_a_model_that_differs_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(model: Any) -> nn.Module:
        merged = original(model)
        with torch.no_grad():
            next(iter(merged.parameters())).mul_(2.0)
        return merged

    original = PeftModel.get_base_model
    monkeypatch.setattr(PeftModel, "merge_and_unload", lossy, raising=False)
    with pytest.raises(RuntimeError, match="largest difference"):
        merge(run, tmp_path / "plain")
    assert not list(tmp_path.iterdir())


def test_a_base_at_another_place(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved / "run")
    shutil.copytree(run.parent / "base", moved / "base")
    adapter = moved / "run" / "model" / "adapter_config.json"
    for file in (adapter, moved / "run" / "config.yaml"):
        file.write_text(file.read_text().replace(str(run.parent / "base"), "/nowhere/base"))
    with pytest.raises(ConfigError) as caught:
        merge(moved / "run", tmp_path / "plain")
    assert caught.value.problems[0] == "base_model: there is no folder /nowhere/base"
    assert "is an adapter; where its base is elsewhere, name it" in caught.value.problems[1]
    merged = merge(moved / "run", tmp_path / "plain", base_model=str(moved / "base"))
    as_before = load_file(merge(run, tmp_path / "as_before") / "model.safetensors")
    for name, value in load_file(merged / "model.safetensors").items():
        assert torch.equal(value, as_before[name])


def test_what_cannot_be_merged_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(ConfigError, match="is there already and nothing is written over"):
        merge(run, tmp_path / "there")
    with pytest.raises(ConfigError, match="is no adapter but a whole model"):
        merge(merge(run, tmp_path / "plain"), tmp_path / "again")
    other = tiny_checkpoint(tmp_path / "other", "bert", "AutoModelForMaskedLM", hidden_size=64)
    with pytest.raises(ConfigError, match="does not go on its base: .*size mismatch"):
        merge(run, tmp_path / "again", base_model=str(other))
    broken = shutil.copytree(run, tmp_path / "broken") / "model"
    weights = load_file(broken / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "lora_B" in name))
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match="made for another base: 1 tensors have no counterpart"):
        merge(broken, tmp_path / "again")
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has an adapter_config.json and no adapter_model.safetensors"):
        merge(broken, tmp_path / "again")
    assert not (tmp_path / "again").exists()
