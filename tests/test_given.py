"""A start handed over from Python: a model, a tokenizer or an image processor in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoTokenizer,
    ViTImageProcessorPil,
)

from pipeline import ConfigError, finetune, lora, pretrain
from pipeline.config import load
from pipeline.rerun import IDENTICAL, compare_bytes, rerun
from pipeline.settings import RunConfig
from pipeline.stopping import Stopped
from tests import faults
from tests.synthetic import checkpoint_for, data_of, settings
from tests.tiny import tiny_checkpoint, tiny_config, tiny_tokenizer


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("decoder"))


def without_start(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != "model"}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("task", ["causal_lm", "preference"])
def test_a_model_in_memory_is_the_start_that_its_folder_is(task: str, decoder: Path, tmp_path: Path) -> None:
    """With LoRA, whose adapter has to find its base; DPO's reference is the start."""
    named = settings(task, "lora", decoder, tmp_path / "named")
    data = data_of(load(RunConfig, named))
    expected = lora(named, datasets=data)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(decoder), AutoTokenizer.from_pretrained(decoder)
    before = weights(model)
    given = {**without_start(named), "output_dir": str(tmp_path / "given")}
    run = lora(given, model=model, tokenizer=tokenizer, datasets=data)
    assert run.metrics == expected.metrics
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (start,) = (tmp_path / "given").glob("start-*")
    again = AutoPeftModelForCausalLM.from_pretrained(run.output_dir / "model")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in run.model.cpu().state_dict().items())
    manifest = json.loads((run.output_dir / "manifest.json").read_text())
    assert manifest["model"]["name"] == "a LlamaForCausalLM handed over from Python" and manifest["model"]["local"]
    assert "a LlamaForCausalLM handed over from Python" in (run.output_dir / "README.md").read_text()
    tokenizer("used in between", truncation=True, max_length=3, padding="max_length")
    run = lora(given, model=model, tokenizer=tokenizer, datasets=data, max_steps=5)  # goes on
    assert run.results["steps"] == 5 and [*(tmp_path / "given").glob("start-*")] == [start]


def test_it_is_resumed_and_repeated_and_not_mixed_up(decoder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("the cat sat on the mat\n" * 3 + "the dog ran over the hill\n" * 5)
    given: dict[str, Any] = {"task": "causal_lm", "train_file": str(rows), "max_length": 16, "max_steps": 4}
    given |= {"train_batch_size": 2, "save_steps": 1, "mixed_precision": "no", "output_dir": str(tmp_path / "run")}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(decoder), AutoTokenizer.from_pretrained(decoder)
    with faults.stop_after(1), pytest.raises(Stopped):
        finetune(given, model=model, tokenizer=tokenizer)
    run = finetune(given, model=model, tokenizer=tokenizer)
    straight = finetune({**given, "output_dir": str(tmp_path / "straight")}, model=model, tokenizer=tokenizer)
    assert compare_bytes(run.output_dir, straight.output_dir) == IDENTICAL
    assert rerun(run.output_dir) == IDENTICAL
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    with pytest.raises(ConfigError, match=r"model.model_name_or_path: .*start-\w+.* there, .*start-\w+.* now"):
        finetune(given, model=model, tokenizer=tokenizer)
    other = finetune(given, model=model, tokenizer=tokenizer, resume="never")
    assert other.metrics == {} and (tmp_path / "run.earlier-1" / "model").is_dir()


def test_a_model_takes_the_place_of_the_named_one(decoder: Path, tmp_path: Path) -> None:
    """Its tokenizer is then the named one's; dropout and attention of the configuration stay."""
    given = settings("causal_lm", None, decoder, tmp_path / "run")
    given["model"] = {**given["model"], "attn_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(decoder)
    run = finetune(given, model=model, datasets=data_of(load(RunConfig, given)))
    saved = load(RunConfig, run.output_dir / "config.yaml").model
    assert Path(saved.model_name_or_path or "").name.startswith("start-") and saved.attn_implementation == "eager"
    assert saved.tokenizer_name_or_path == str(decoder)


def test_random_weights_take_a_tokenizer_in_memory(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer", style="decoder"))
    given: dict[str, Any] = {"task": "causal_lm", "model": {"config": tiny_config("llama")}, "max_length": 32}
    given |= {"max_steps": 1, "output_dir": str(tmp_path / "run")}
    run = pretrain(given, tokenizer=tokenizer, datasets=data_of(load(RunConfig, given)))
    assert run.tokenizer.get_vocab() == tokenizer.get_vocab() and run.results["start"] == "random"


def test_images_take_their_processor(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "start", "vit", "AutoModelForImageClassification", num_labels=3)
    given = without_start(settings("image_classification", None, folder, tmp_path / "run", max_steps=1))
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=[0.25] * 3)
    run = finetune(given, model=model, tokenizer=processor, datasets=data_of(load(RunConfig, given)))
    assert [*run.processing.image_mean] == [0.25] * 3


@pytest.mark.parametrize("wrong", ["peft", "module", "name", "tokenizer", "none", "pretrain", "processor"])
def test_what_cannot_be_a_start_is_refused(wrong: str, decoder: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(decoder)
    tokenizer: Any = AutoTokenizer.from_pretrained(decoder)
    recipe: Any = finetune
    if wrong == "peft":
        model, message = (
            get_peft_model(model, LoraConfig(target_modules=["q_proj"])),
            "model: is a PEFT model; give what",
        )
    elif wrong == "module":
        model, message = nn.Linear(2, 2), "model: expected a PreTrainedModel of transformers, .* got Linear"
    elif wrong == "name":
        model, message = str(decoder), "model: expected a PreTrainedModel .* got str"
    elif wrong == "tokenizer":
        tokenizer, message = "gpt2", "tokenizer: expected a tokenizer .* got str"
    elif wrong == "none":
        tokenizer, message = None, "tokenizer: a model comes without one"
    elif wrong == "pretrain":
        recipe, message = pretrain, "model: pretrain starts from random weights"
    else:
        model, tokenizer, message = None, ViTImageProcessorPil(), "tokenizer: an image processor is taken with a model"
    with pytest.raises(ConfigError, match=message):
        recipe({"task": "causal_lm"}, model=model, tokenizer=tokenizer, output_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_model_for_another_task_is_refused_as_its_folder_is(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "start", "bert", "AutoModelForMaskedLM")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with pytest.raises(ConfigError, match="bert is an encoder"):
        finetune({"task": "causal_lm"}, model=model, tokenizer=tokenizer, output_dir=str(tmp_path / "run"))
