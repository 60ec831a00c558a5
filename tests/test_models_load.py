"""Checkpoints, configs and tokenizers: what loads, what is refused, and in which words."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.errors import ConfigError
from pipeline.models import (
    ModelConfig,
    checkpoint_labels,
    from_checkpoint,
    from_config,
    load_tokenizer,
)
from tests.tiny import DECODERS, MODEL_TYPES, tiny_checkpoint, tiny_config, tiny_tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data"
STORIES = DATA / "stories260K-llama"
GPT2 = DATA / "gpt2_tokenizer"
CLASSIFIER, CAUSAL, MASKED = "AutoModelForSequenceClassification", "AutoModelForCausalLM", "AutoModelForMaskedLM"
HEADS = {
    "bert": r"^(classifier|bert\.pooler)\.",
    "roberta": r"^classifier\.",
    "distilbert": r"^(pre_)?classifier\.",
} | dict.fromkeys(DECODERS, r"^score\.")
LABELS = {"num_labels": 3, "id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}


def load(folder: Path | str, model_class: str, *, new: str | None = None, seed: int = 0, **settings: Any) -> Any:
    model_kwargs = settings.pop("model_kwargs", {})
    config = ModelConfig(model_name_or_path=str(folder), **settings)
    return from_checkpoint(
        config,
        model_class=model_class,
        model_kwargs=model_kwargs,
        tokenizer=load_tokenizer(config),
        new_parameters=new,
        seed=seed,
    )


def build(config: dict[str, Any] | str, tokenizer: Any, *, model_class: str = CAUSAL, **settings: Any) -> Any:
    model_config = ModelConfig(config=config, **settings)
    return from_config(model_config, model_class=model_class, model_kwargs={}, tokenizer=tokenizer, seed=0)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("causal"), "llama", CAUSAL, pad=False)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("masked"), "bert", MASKED)


@pytest.fixture
def copy(causal: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(causal, tmp_path / "copy"))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_head_is_new_and_everything_else_is_the_checkpoints(model_type: str, tmp_path: Path) -> None:
    language = CAUSAL if model_type in DECODERS else MASKED
    folder = tiny_checkpoint(tmp_path, model_type, language, pad=model_type not in DECODERS)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = load(folder, CLASSIFIER, new=HEADS[model_type], model_kwargs=LABELS)
    assert torch.equal(before, torch.get_rng_state())
    stored = load_file(folder / "model.safetensors")
    shared = {name: tensor for name, tensor in model.state_dict().items() if name in stored}
    assert len(shared) > 10 and all(torch.equal(tensor, stored[name]) for name, tensor in shared.items())
    assert (model.config.num_labels, model.config.id2label) == (3, LABELS["id2label"])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    head = {name: tensor for name, tensor in model.state_dict().items() if name not in stored}
    again = load(folder, CLASSIFIER, new=HEADS[model_type], model_kwargs=LABELS).state_dict()
    other = load(folder, CLASSIFIER, new=HEADS[model_type], model_kwargs=LABELS, seed=1).state_dict()
    assert head and all(torch.equal(tensor, again[name]) for name, tensor in head.items())
    assert any(not torch.equal(tensor, other[name]) for name, tensor in head.items())


def test_the_same_architecture_loads_whole(causal: Path) -> None:
    model = load(causal, CAUSAL)
    ours, theirs = model.state_dict(), AutoModelForCausalLM.from_pretrained(causal).state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_unused_tensors_are_said(masked: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(masked, CLASSIFIER, new=HEADS["bert"], model_kwargs=LABELS)
    assert "tensors this task does not use: cls.predictions" in caplog.text


def test_missing_tensors_that_the_task_does_not_bring(masked: Path, copy: Path) -> None:
    with pytest.raises(ConfigError, match=r"lacks 2 tensors .* does not bring: bert\.pooler\.dense\.bias"):
        load(masked, CLASSIFIER, new=r"^classifier\.", model_kwargs=LABELS)
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 tensor .*: model\.layers\.1\.mlp\.up_proj\.weight; .*incomplete"):
        load(copy, CAUSAL)


def test_masked_language_model_without_its_head(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "bert", "AutoModel")
    model = load(folder, MASKED, new=r"^cls\.")
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    with pytest.raises(ConfigError, match="lacks 6 tensors"):
        load(folder, MASKED)


def test_head_of_another_size(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "bert", CLASSIFIER, num_labels=5)
    with pytest.raises(ConfigError) as error:
        load(folder, CLASSIFIER, new=HEADS["bert"], model_kwargs=LABELS)
    first, second = error.value.problems
    assert "classifier.bias is 5 in" in first and "3 in the model; the task has 3 labels" in first
    assert "classifier.weight is 5 x 32" in second


@pytest.mark.parametrize(
    "which, model_class, message",
    [
        ("masked", CAUSAL, "bert is an encoder: every token sees the ones after it"),
        ("causal", MASKED, "llama has no AutoModelForMaskedLM, which the task needs; it has AutoModelForCausalLM"),
        ("causal", "AutoModelForSeq2SeqLM", "llama has no AutoModelForSeq2SeqLM"),
        ("masked", "AutoModelForImageClassification", "bert has no AutoModelForImageClassification"),
    ],
)
def test_wrong_task_for_the_architecture(
    which: str, model_class: str, message: str, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(request.getfixturevalue(which), model_class, new=".")


def test_an_encoder_that_says_it_decodes_is_a_decoder(tmp_path: Path) -> None:
    assert load(tiny_checkpoint(tmp_path, "bert", CAUSAL, is_decoder=True), CAUSAL).config.is_decoder


def test_folders_that_hold_no_model(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no folder .*cpoy \(did you mean 'copy' in"):
        load(tmp_path / "cpoy", CAUSAL)
    with pytest.raises(ConfigError, match=rf"has no config\.json; did you mean {copy}\?"):
        from_checkpoint(
            ModelConfig(model_name_or_path=str(tmp_path)),
            model_class=CAUSAL,
            model_kwargs={},
            tokenizer=None,
            new_parameters=None,
        )
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"only pickled weights.*convert them once"):
        load(copy, CAUSAL)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"no \*\.safetensors file"):
        load(copy, CAUSAL)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter, not a model; merge it first"):
        load(copy, CAUSAL)


def test_nothing_in_a_checkpoint_runs(copy: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    payload = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    for name in ("pytorch_model.bin", "optimizer.bin", "training_args.bin", "custom_checkpoint_0.pkl"):
        (copy / name).write_bytes(payload)
    (copy / "code.py").write_text(f"open({str(marker)!r}, 'w')\n")
    edit_config(copy, auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    assert type(load(copy, CAUSAL)).__name__ == "LlamaForCausalLM"
    edit_config(copy, model_type="something-new")
    with pytest.raises(ConfigError, match="its own model code, which is never run here"):
        load(copy, CAUSAL, tokenizer_name_or_path=str(tiny_tokenizer(tmp_path / "tokenizer")))
    assert not marker.exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attn_implementation": "someone/kernel"}, "sets attn_implementation: someone/kernel"),
        ({"_attn_implementation_internal": "someone/kernel"}, "a kernel fetched from elsewhere"),
        ({"vision_config": {"trust_remote_code": True}}, "sets vision_config.trust_remote_code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "is quantized"),
    ],
)
def test_config_fields_that_fetch_code(copy: Path, changes: dict[str, Any], message: str) -> None:
    edit_config(copy, **changes)
    with pytest.raises(ConfigError, match=message):
        load(copy, CAUSAL)


def test_pad_token_rule(tmp_path: Path) -> None:
    own = load_tokenizer(ModelConfig(tokenizer_name_or_path=str(tiny_tokenizer(tmp_path / "own"))))
    assert own.pad_token == "[PAD]"
    bare = load_tokenizer(ModelConfig(tokenizer_name_or_path=str(tiny_tokenizer(tmp_path / "bare", pad=False))))
    assert (bare.pad_token, bare.pad_token_id) == ("[EOS]", bare.eos_token_id)
    bare.eos_token = bare.pad_token = None
    bare.save_pretrained(tmp_path / "none")
    with pytest.raises(ConfigError, match="no pad token and no EOS token"):
        load_tokenizer(ModelConfig(tokenizer_name_or_path=str(tmp_path / "none")))


def test_eos_is_learned_when_it_pads(causal: Path, tmp_path: Path) -> None:
    model = load(causal, CAUSAL)
    model.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(causal / file, tmp_path)
    reloaded = load(tmp_path, CAUSAL)  # its config.json now says that EOS is the pad token
    drawn = build(tiny_config("llama"), load_tokenizer(ModelConfig(tokenizer_name_or_path=str(causal))))
    for each in (model, reloaded, drawn):
        eos = each.config.eos_token_id
        assert each.config.pad_token_id == each.generation_config.pad_token_id == eos
        each(input_ids=torch.tensor([[eos, 9]]), labels=torch.tensor([[eos, 9]])).loss.backward()
        assert each.get_input_embeddings().weight[eos].abs().sum() > 0
        assert each.get_input_embeddings().weight.grad[eos].abs().sum() > 0


def test_tokenizer_with_more_ids_than_rows(masked: Path, tmp_path: Path) -> None:
    larger = tiny_tokenizer(tmp_path, vocab_size=400)
    with pytest.raises(ConfigError, match=r"gives ids up to \d+, the model has embeddings for 328 tokens only"):
        load(masked, MASKED, tokenizer_name_or_path=str(larger))
    with pytest.raises(ConfigError, match="embeddings for 300 tokens only"):
        build(
            tiny_config("llama") | {"vocab_size": 300}, load_tokenizer(ModelConfig(tokenizer_name_or_path=str(larger)))
        )


def test_folder_without_a_tokenizer(copy: Path) -> None:
    for file in copy.glob("token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"set model\.tokenizer_name_or_path"):
        load_tokenizer(ModelConfig(model_name_or_path=str(copy)))
    with pytest.raises(ConfigError, match="random weights come without a tokenizer"):
        load_tokenizer(ModelConfig(config=tiny_config("llama")))


def test_checkpoint_labels(tmp_path: Path, causal: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "bert", CLASSIFIER, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    assert checkpoint_labels(ModelConfig(model_name_or_path=str(folder)), CLASSIFIER) == ["no", "yes"]
    assert checkpoint_labels(ModelConfig(model_name_or_path=str(causal)), CLASSIFIER) is None
    assert checkpoint_labels(ModelConfig(config=tiny_config("llama")), CLASSIFIER) is None
    edit_config(folder, id2label={"0": "LABEL_0", "1": "LABEL_1"})
    assert checkpoint_labels(ModelConfig(model_name_or_path=str(folder)), CLASSIFIER) is None
    edit_config(folder, id2label={str(index): f"name{index}" for index in range(12)})
    assert checkpoint_labels(ModelConfig(model_name_or_path=str(folder)), CLASSIFIER) == [
        f"name{index}" for index in range(12)
    ]
    edit_config(folder, id2label={"0": "a", "2": "b"})
    with pytest.raises(ConfigError, match=r"has gaps: ids \[0, 2\]"):
        checkpoint_labels(ModelConfig(model_name_or_path=str(folder)), CLASSIFIER)
