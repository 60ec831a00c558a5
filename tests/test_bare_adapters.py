"""Adapters that PEFT alone has written, without a run: merged as what they say they are, or refused in a sentence."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from peft.utils.warning import PeftWarning
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

from pipeline.__main__ import main
from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.models import lora_target_modules
from pipeline.predicting import predict
from pipeline.scoring import evaluate
from tests.hub_server import Hub
from tests.test_resume import fill
from tests.tiny import tiny_checkpoint

# PEFT's word (None: it writes the class), the class, the base's architecture and class, how many labels
CASES: list[tuple[str | None, str, str, str, int | None]] = [
    ("CAUSAL_LM", "AutoModelForCausalLM", "llama", "AutoModelForCausalLM", None),
    ("SEQ_CLS", "AutoModelForSequenceClassification", "bert", "AutoModel", 3),
    ("SEQ_CLS", "AutoModelForSequenceClassification", "roberta", "AutoModelForMaskedLM", 1),
    ("SEQ_CLS", "AutoModelForSequenceClassification", "llama", "AutoModelForCausalLM", 4),
    ("TOKEN_CLS", "AutoModelForTokenClassification", "distilbert", "AutoModelForMaskedLM", 5),
    ("QUESTION_ANS", "AutoModelForQuestionAnswering", "bert", "AutoModelForMaskedLM", None),
    ("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM", "bart", "AutoModelForSeq2SeqLM", None),
    ("FEATURE_EXTRACTION", "AutoModel", "bert", "AutoModelForMaskedLM", None),
    (None, "AutoModelForMaskedLM", "bert", "AutoModelForMaskedLM", None),
    (None, "AutoModelForSeq2SeqLM", "t5", "AutoModelForSeq2SeqLM", None),
    (None, "AutoModelForMultipleChoice", "bert", "AutoModel", None),
    (None, "AutoModelForImageClassification", "vit", "AutoModelForMaskedImageModeling", 7),
]
HEADS = {"AutoModelForQuestionAnswering": ["qa_outputs"]} | dict.fromkeys(
    ("AutoModelForMultipleChoice", "AutoModelForImageClassification"), ["classifier"]
)


def adapted(base: Path, model_class: str, folder: Path, settings: Any, **more: Any) -> Any:
    """A model with an adapter as somebody trained it with PEFT, who saved the adapter in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        plain = getattr(transformers, model_class).from_pretrained(base, **more)
        if settings.peft_type.value == "LORA" and settings.target_modules is None:
            settings.target_modules = lora_target_modules(plain)
        model = get_peft_model(plain, settings)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * (0.3 if "lora_" in name else 0.1)
    model.save_pretrained(folder)
    return model.eval()


def inputs_for(model: Any) -> dict[str, Tensor]:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.rand(2, 3, 16, 16)}
    several = (3,) if "MultipleChoice" in type(model.get_base_model()).__name__ else ()
    ids = torch.arange(10, 10 + 2 * 6 * (3 if several else 1)).reshape(2, *several, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**batch, "decoder_input_ids": ids} if model.config.is_encoder_decoder else batch


def said(model: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    model.config.pad_token_id = 0
    with torch.no_grad():
        return [value for value in model(**batch).values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_what_peft_wrote_is_merged(case: tuple[Any, ...], tmp_path: Path) -> None:
    """Against PEFT's own model in memory; labels are as many as the adapter's head has."""
    task_type, model_class, architecture, start, labels = case
    base = tiny_checkpoint(tmp_path / "base", architecture, start)
    more = {} if labels is None else {"num_labels": labels}
    settings = LoraConfig(r=2, task_type=task_type, modules_to_save=HEADS.get(model_class))
    model = adapted(base, model_class, tmp_path / "adapter", settings, **more)
    merged = merge(tmp_path / "adapter", tmp_path / "merged")
    again = getattr(transformers, model_class).from_pretrained(merged).eval()
    batch = inputs_for(model)
    pairs = list(zip(said(model, batch), said(again, batch), strict=True))
    for one, other in pairs[:1] if model_class == "AutoModel" else pairs:  # its pooler is nobody's
        assert torch.allclose(one, other, atol=1e-5) and one.std() > 0
    if labels is not None:
        assert again.config.num_labels == labels
    assert not list(merged.glob("adapter*"))
    processing = "preprocessor_config.json" if architecture == "vit" else "tokenizer.json"
    assert (merged / processing).is_file()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A classifier of three labels on a base with a pooler."""
    base = tiny_checkpoint(tmp_path / "base", "bert", "AutoModel")
    settings = LoraConfig(r=2, task_type="SEQ_CLS")
    adapted(base, "AutoModelForSequenceClassification", tmp_path / "adapter", settings, num_labels=3)
    return tmp_path / "adapter"


def test_another_kind_of_adapter(tmp_path: Path) -> None:
    base = tiny_checkpoint(tmp_path / "base", "llama", "AutoModelForCausalLM")
    settings = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    model = adapted(base, "AutoModelForCausalLM", tmp_path / "adapter", settings)
    merged: Any = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "adapter", tmp_path / "merged"))
    batch = inputs_for(model)
    assert torch.allclose(said(model, batch)[0], said(merged, batch)[0], atol=1e-5)
    adapted(base, "AutoModelForCausalLM", tmp_path / "prompt", PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ConfigError, match="PROMPT_TUNING, which is put before the input and not added"):
        merge(tmp_path / "prompt", tmp_path / "never")


def test_what_peft_can_do_with_lora(tmp_path: Path) -> None:
    """Tokens that were trained are merged; what PEFT does not merge is refused in its own words."""
    base = tiny_checkpoint(tmp_path / "base", "llama", "AutoModelForCausalLM")
    tokens = LoraConfig(r=2, task_type="CAUSAL_LM", trainable_token_indices=[10, 11])
    model = adapted(base, "AutoModelForCausalLM", tmp_path / "tokens", tokens)
    merged: Any = transformers.AutoModelForCausalLM.from_pretrained(merge(tmp_path / "tokens", tmp_path / "merged"))
    batch = inputs_for(model)
    assert torch.allclose(said(model, batch)[0], said(merged, batch)[0], atol=1e-5)
    bias = LoraConfig(r=2, task_type="CAUSAL_LM", lora_bias=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PeftWarning)  # of just that
        adapted(base, "AutoModelForCausalLM", tmp_path / "bias", bias)
    with pytest.raises(ConfigError, match="PEFT cannot merge .*bias: Impossible to merge LoRA with `lora_bias=True`"):
        merge(tmp_path / "bias", tmp_path / "never")


def test_a_head_that_nobody_has_is_not_drawn_at_random(bare: Path, tmp_path: Path) -> None:
    """Neither the head, when the adapter came without it, nor the pooler below it, which PEFT does not save."""
    weights = load_file(bare / "adapter_model.safetensors")
    headless = shutil.copytree(bare, tmp_path / "headless")
    save_file(
        {name: value for name, value in weights.items() if "lora_" in name}, headless / "adapter_model.safetensors"
    )
    with pytest.raises(ConfigError, match=r"lacks 2 tensors .* the adapter does not bring: classifier.bias"):
        merge(headless, tmp_path / "merged")
    other = tiny_checkpoint(tmp_path / "other", "bert", "AutoModelForMaskedLM")
    with pytest.raises(ConfigError, match=r"lacks 2 tensors .* the adapter does not bring: bert.pooler.dense.bias"):
        merge(bare, tmp_path / "merged", base_model=str(other))
    assert not (tmp_path / "merged").exists()


def test_what_does_not_say_its_kind(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with what to give, and with that it is merged: the task of a configuration, and its labels."""
    for file, key in (
        (bare / "adapter_config.json", "task_type"),
        (bare.parent / "base" / "config.json", "architectures"),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), key: None}))
    command = ["merge", str(bare), "--out", str(tmp_path / "merged")]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 2 and "does not say what kind of model it is for" in capsys.readouterr().err
    config = tmp_path / "my.yaml"
    config.write_text("task: text_classification\ndata: {label_names: [bad, fair, good]}\n")
    with pytest.raises(SystemExit) as ended:
        main([*command, "--config", str(config)])
    assert ended.value.code == 0
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.id2label == {0: "bad", 1: "fair", 2: "good"}


def test_what_is_broken_is_refused(bare: Path, tmp_path: Path) -> None:
    config = bare / "adapter_config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(ConfigError, match="base_model: there is no folder /nowhere/base"):
        merge(bare, tmp_path / "merged")
    config.write_text(json.dumps({**written, "base_model_name_or_path": None}))
    with pytest.raises(ConfigError, match="does not say on what; name its base"):
        merge(bare, tmp_path / "merged")
    merge(bare, tmp_path / "merged", base_model=str(bare.parent / "base"))
    config.write_text(json.dumps({**written, "base_model_name_or_path": 5, "auto_mapping": "x"}))
    with pytest.raises(ConfigError, match="name_or_path: expected a text, got 5\n.*auto_mapping: expected a mapping"):
        merge(bare, tmp_path / "again")
    config.write_text(json.dumps({**written, "modules_to_save": 5}))
    with pytest.raises(ConfigError, match="does not go on its base"):
        merge(bare, tmp_path / "again", base_model=str(bare.parent / "base"))
    config.write_text(json.dumps(written))
    for names, expected in (({"a": "x"}, "LABEL_0"), (["x"], "LABEL_0"), ({"0": "a", "1": "b", "2": "c"}, "a")):
        (bare / "config.json").write_text(json.dumps({"id2label": names}))
        assert AutoConfig.from_pretrained(merge(bare, tmp_path / f"to {names}")).id2label[0] == expected
    (bare / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="does not go on its base"):
        merge(bare, tmp_path / "again")


def test_a_full_disk_ends_in_one_sentence(bare: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(small_disk)
    with pytest.raises(SystemExit) as ended:
        main(["merge", str(bare), "--out", str(small_disk / "merged")])
    said = capsys.readouterr().err
    assert ended.value.code == 1 and f"{small_disk / 'merged'}: cannot be written (" in said and "Traceback" not in said
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_from_the_hub_on_a_base_of_the_hub(bare: Path, tmp_path: Path, hub: Hub) -> None:
    """The base is of the commit that the adapter names, whatever its branch holds by now."""

    def added(name: str, folder: Path) -> str:
        return hub.add(name, {path.name: path.read_bytes() for path in folder.iterdir()})

    commit = added("owner/base", bare.parent / "base")
    added("owner/base", tiny_checkpoint(tmp_path / "newer", "bert", "AutoModel", seed=5))
    config = bare / "adapter_config.json"
    named = {**json.loads(config.read_text()), "base_model_name_or_path": "owner/base", "revision": commit}
    config.write_text(json.dumps(named))
    added("owner/adapter", bare)
    merged = load_file(merge("owner/adapter", tmp_path / "merged") / "model.safetensors")
    here = load_file(merge(bare, tmp_path / "here", base_model=str(bare.parent / "base")) / "model.safetensors")
    assert merged.keys() == here.keys() and all(torch.equal(merged[name], here[name]) for name in merged)


def test_it_is_scored_and_predicts_by_a_configuration(bare: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a cat", "a dog", "the sea"], "label": ["bad", "fair", "good"]})
    given: dict[str, Any] = {"task": "text_classification", "data": {"label_names": ["bad", "fair", "good"]}}
    given["train"] = {"mixed_precision": "no"}
    with pytest.raises(ConfigError, match="stands no config.yaml"):
        evaluate(bare, datasets={"validation": rows})
    with pytest.raises(ConfigError, match="names no labels; name them here"):
        evaluate(bare, {"task": "text_classification"}, datasets={"validation": rows})
    found = evaluate(bare, given, datasets={"validation": rows})
    lines = predict(bare, rows, config=given)
    merged = merge(bare, tmp_path / "merged", config=given)
    assert predict(merged, rows, config=given) == [{**line, "score": pytest.approx(line["score"])} for line in lines]
    right = [line["label"] == label for line, label in zip(lines, rows["label"], strict=True)]
    assert found.metrics["validation"]["accuracy"] == pytest.approx(sum(right) / 3)
