"""Models from a config, dropout, and where names lead: folders, the cache, the hub."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from huggingface_hub import constants
from pydantic import ValidationError
from transformers import PreTrainedModel

from pipeline.errors import ConfigError
from pipeline.models import ModelConfig, from_checkpoint, from_config, load_tokenizer
from pipeline.models.attention import PACKAGES
from pipeline.models.settings import Attention
from pipeline.reach import resolve
from tests.tiny import ENCODERS, MODEL_TYPES, tiny_checkpoint, tiny_config, tiny_tokenizer

DATA = Path(__file__).parents[2] / "shared" / "data"
STORIES, GPT2 = DATA / "stories260K-llama", DATA / "gpt2_tokenizer"
CAUSAL, MASKED = "AutoModelForCausalLM", "AutoModelForMaskedLM"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return load_tokenizer(ModelConfig(tokenizer_name_or_path=str(folder)))


def build(config: dict[str, Any] | str, tokenizer: Any, *, model_class: str = CAUSAL, **settings: Any) -> Any:
    model_config = ModelConfig(config=config, **settings)
    return from_config(model_config, model_class=model_class, model_kwargs={}, tokenizer=tokenizer, seed=0)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_vocabulary_and_ids_come_from_the_tokenizer(model_type: str, tokenizer: Any) -> None:
    model_class = MASKED if model_type in ENCODERS else CAUSAL
    model = build(tiny_config(model_type), tokenizer, model_class=model_class)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    if model_type not in ENCODERS:
        assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id
    assert model(input_ids=torch.tensor([[len(tokenizer) - 1, 5]])).logits.isfinite().all()


def test_config_from_a_file_and_a_folder(tokenizer: Any, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path, "gpt2", CAUSAL, n_layer=3)
    models = [build(str(place), tokenizer) for place in (folder, folder / "config.json")]
    models.append(build(tiny_config("gpt2") | {"n_layer": 3}, tokenizer))
    for model in models:
        assert model.config.n_layer == 3
        assert all(torch.equal(one, two) for one, two in zip(model.parameters(), models[0].parameters(), strict=True))
    with pytest.raises(ConfigError, match="model.config: there is no folder"):
        build(str(tmp_path / "nothing"), tokenizer)


@pytest.mark.parametrize(
    "config, messages",
    [
        ({"hidden_size": 32}, ["has no model_type"]),
        ({"model_type": "lama"}, ["unknown model_type 'lama'; did you mean 'llama'?"]),
        (
            {"model_type": "llama", "hiden_size": 32, "num_layer": 2},
            [
                "model.config.hiden_size: unknown for llama; did you mean 'hidden_size'?",
                "model.config.num_layer: unknown",
            ],
        ),
        ({"model_type": "llama", "hidden_size": "wide"}, ["expected int, got str"]),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, ["30", "4"]),
        ({"model_type": "bert"}, ["bert is an encoder"]),
        ({"model_type": "vit"}, ["vit has no AutoModelForCausalLM"]),
    ],
)
def test_configs_that_make_no_model(config: dict[str, Any], messages: list[str], tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as error:
        build(config, tokenizer)
    assert all(message in str(error.value) for message in messages), str(error.value)


def test_names_of_other_libraries_for_a_setting_are_taken(tokenizer: Any) -> None:
    named = {"model_type": "gpt2", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    assert build(named, tokenizer).config.n_embd == 32


def test_dropout_sets_every_rate(tokenizer: Any, tmp_path: Path) -> None:
    fields = {
        "gpt2": {"resid_pdrop", "embd_pdrop", "attn_pdrop"},
        "bert": {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"},
        "distilbert": {"dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"},
    }
    for model_type, names in fields.items():
        model_class = MASKED if model_type in ENCODERS else CAUSAL
        model = build(tiny_config(model_type), tokenizer, model_class=model_class, dropout=0.25)
        assert {name: model.config.to_dict()[name] for name in names} == dict.fromkeys(names, 0.25)
        rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {0.25}
    folder = tiny_checkpoint(tmp_path, "gpt2", CAUSAL)
    config = ModelConfig(model_name_or_path=str(folder), dropout=0.0)
    model = from_checkpoint(config, model_class=CAUSAL, model_kwargs={}, tokenizer=tokenizer, new_parameters=None)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_dropout_where_there_is_none(tokenizer: Any) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1, "state_size": 4}
    with pytest.raises(ConfigError, match="model.dropout: mamba has no dropout to set"):
        build(mamba, tokenizer, dropout=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"attn_implementation": "someone/kernel"},
        {"model_name_or_path": "a", "config": {"model_type": "llama"}},
        {"model_name_or_path": "a", "init": "he_normal"},
        {"model_name_or_path": "a", "depth_scaled": True},
        {"config": {"model_type": "llama"}, "revision": "main"},
        {"config": {"model_type": "llama"}, "tokenizer_revision": "main"},
        {"trust_remote_code": True},
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(**settings)


@pytest.mark.parametrize("name", [name for name in get_args(Attention) if name.startswith("flash")])
def test_a_kernel_of_a_package_that_is_missing_is_not_looked_for_elsewhere(
    name: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers takes one from the hub where the package `kernels` is: it must not be asked."""
    *_, line = PACKAGES[name]
    start = str(tiny_checkpoint(tmp_path, "llama", CAUSAL))
    load = partial(from_checkpoint, model_class=CAUSAL, model_kwargs={}, tokenizer=tokenizer, new_parameters=None)
    monkeypatch.setattr(PreTrainedModel, "_check_and_adjust_attn_implementation", lambda *_, **__: pytest.fail(name))
    for package, message in (("no-such-package", line), ("torch", "and there is none here; set sdpa")):
        monkeypatch.setitem(PACKAGES, name, (package, lambda: False, line))
        with pytest.raises(ConfigError, match=re.escape(message)):
            build(tiny_config("llama"), tokenizer, attn_implementation=name)
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(ModelConfig(model_name_or_path=start, attn_implementation=name))
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "_attn_implementation": name}))
    with pytest.raises(ConfigError, match=f"{name} needs .*the model's own config names that kernel"):
        load(ModelConfig(model_name_or_path=start))
    with pytest.raises(ConfigError, match=f"{name} needs .*the model's own config names that kernel"):
        build(start, tokenizer)


def test_offline_name_in_the_cache_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Path(constants.HF_HUB_CACHE) / "models--someone--kept"
    commit = "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    tiny_checkpoint(snapshot, "llama", CAUSAL)
    config = ModelConfig(model_name_or_path="someone/kept")
    assert resolve("someone/kept", what="model.model_name_or_path") == commit
    tokenizer = load_tokenizer(config)
    model = from_checkpoint(config, model_class=CAUSAL, model_kwargs={}, tokenizer=tokenizer, new_parameters=None)
    assert model.config.model_type == "llama"


@pytest.mark.skipif(not STORIES.is_dir(), reason="no ../shared/data/stories260K-llama")
def test_real_causal_model_speaks() -> None:
    config = ModelConfig(model_name_or_path=str(STORIES))
    tokenizer = load_tokenizer(config)
    model = from_checkpoint(config, model_class=CAUSAL, model_kwargs={}, tokenizer=tokenizer, new_parameters=None)
    inputs = tokenizer("Once upon a time, there was a little girl named", return_tensors="pt").input_ids
    with torch.no_grad():
        loss = model(input_ids=inputs, labels=inputs).loss
    assert loss < 2.5 and model.config.pad_token_id == tokenizer.eos_token_id


@pytest.mark.skipif(not GPT2.is_dir(), reason="no ../shared/data/gpt2_tokenizer")
def test_real_tokenizer_beside_another_config() -> None:
    tokenizer = load_tokenizer(ModelConfig(tokenizer_name_or_path=str(GPT2)))
    assert tokenizer.pad_token == "<|endoftext|>"
    model = build(tiny_config("gpt2"), tokenizer)
    assert model.get_input_embeddings().num_embeddings == 50257
    assert json.loads(model.config.to_json_string())["pad_token_id"] == 50256
