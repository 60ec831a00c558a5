"""What is read off a model: blocks, embeddings, adapter targets, counts and memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from pipeline.errors import ConfigError
from pipeline.models import (
    ModelConfig,
    count_parameters,
    embedding_pattern,
    embedding_prefixes,
    free_memory,
    from_config,
    layer_prefixes,
    lora_target_modules,
    memory_estimate,
    parameter_table,
    position_limit,
)
from tests.tiny import ENCODERS, MODEL_TYPES, tiny_config, tiny_tokenizer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
OTHERS: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8},
    "vit": SMALL | {"image_size": 16, "patch_size": 4},
    "electra": SMALL | {"embedding_size": 16},
    "opt": {key: value for key, value in SMALL.items() if key != "intermediate_size"} | {"ffn_dim": 64},
}
CLASSES = {
    "t5": "AutoModelForSeq2SeqLM",
    "vit": "AutoModelForImageClassification",
    **dict.fromkeys((*ENCODERS, "electra"), "AutoModelForSequenceClassification"),
}
BERT_TARGETS = ["query", "key", "value", "output.dense", "intermediate.dense"]
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPECTED: dict[str, tuple[str, list[str], list[str]]] = {
    "bert": ("bert.encoder.layer.", ["bert.embeddings"], BERT_TARGETS),
    "roberta": ("roberta.encoder.layer.", ["roberta.embeddings"], BERT_TARGETS),
    "distilbert": (
        "distilbert.transformer.layer.",
        ["distilbert.embeddings"],
        ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    ),
    "llama": ("model.layers.", ["model.embed_tokens"], LLAMA_TARGETS),
    "qwen2": ("model.layers.", ["model.embed_tokens"], LLAMA_TARGETS),
    "gpt2": ("transformer.h.", ["transformer.wte", "transformer.wpe"], ["c_attn", "c_proj", "c_fc"]),
    "vit": ("vit.layers.", ["vit.embeddings"], ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]),
    "electra": ("electra.encoder.layer.", ["electra.embeddings", "electra.embeddings_project"], BERT_TARGETS),
    "opt": (
        "model.decoder.layers.",
        ["model.decoder.embed_tokens", "model.decoder.embed_positions"],
        ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"],
    ),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def build(model_type: str, tokenizer: Any, **overrides: Any) -> Any:
    base = tiny_config(model_type) if model_type in MODEL_TYPES else {"model_type": model_type} | OTHERS[model_type]
    return from_config(
        ModelConfig(config=base | overrides),
        model_class=CLASSES.get(model_type, "AutoModelForCausalLM"),
        model_kwargs={},
        tokenizer=None if model_type == "vit" else tokenizer,
        seed=0,
    )


@pytest.mark.parametrize("model_type", EXPECTED)
def test_blocks_embeddings_and_targets(model_type: str, tokenizer: Any) -> None:
    model = build(model_type, tokenizer)
    blocks, embeddings, targets = EXPECTED[model_type]
    assert layer_prefixes(model) == [f"{blocks}{index}" for index in range(2)]
    assert sorted(embedding_prefixes(model)) == sorted(embeddings)
    assert sorted(lora_target_modules(model)) == sorted(targets)
    matched = [name for name, _ in model.named_parameters() if re.search(embedding_pattern(model), name)]
    assert matched == [
        name for name, _ in model.named_parameters() if name.startswith(tuple(f"{part}." for part in embeddings))
    ]


def test_encoder_decoder_has_both_stacks(tokenizer: Any) -> None:
    model = build("t5", tokenizer)
    assert layer_prefixes(model) == [f"{side}.block.{index}" for side in ("encoder", "decoder") for index in (0, 1)]
    assert "shared" in embedding_prefixes(model)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning", "ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("model_type", [*EXPECTED, "t5"])
def test_adapters_sit_on_every_linear_layer_of_the_blocks_and_on_no_other(model_type: str, tokenizer: Any) -> None:
    model = build(model_type, tokenizer)
    blocks, embeddings = layer_prefixes(model), embedding_prefixes(model)
    linear = {name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=lora_target_modules(model)))
    adapted = {name.removeprefix("base_model.model.") for name in wrapped.targeted_module_names}
    assert adapted == {name for name in linear if name.startswith(tuple(f"{block}." for block in blocks))}
    assert layer_prefixes(wrapped) == [f"base_model.model.{block}" for block in blocks]
    assert embedding_prefixes(wrapped) == [f"base_model.model.{name}" for name in embeddings]


def test_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no list of transformer blocks"):
        layer_prefixes(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("model_type", [*EXPECTED, "t5"])
def test_table_adds_up(model_type: str, tokenizer: Any) -> None:
    model = build(model_type, tokenizer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(layer_prefixes(model)[0]))
    table = parameter_table(model)
    assert (sum(part.total for part in table), sum(part.trainable for part in table)) == count_parameters(model)
    parts = {part.name: part for part in table}
    assert set(layer_prefixes(model)) <= set(parts)
    assert [part.name for part in table if part.trainable == 0] == [layer_prefixes(model)[0]]


def test_tied_weights_count_once(tokenizer: Any) -> None:
    tied = count_parameters(build("llama", tokenizer, tie_word_embeddings=True))[0]
    loose = count_parameters(build("llama", tokenizer))[0]
    assert loose - tied == len(tokenizer) * 32


def test_memory_by_optimizer_and_precision(tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    total, _ = count_parameters(model)
    for name, states in {"adamw": 2, "nadam": 2, "rmsprop": 1, "adagrad": 1, "sgd": 1, "adafactor": 0}.items():
        assert memory_estimate(model, name, 2, 8)["optimizer"] == 4 * states * total
    plain, mixed = (memory_estimate(model, "adamw", 2, 8, precision) for precision in ("no", "bf16"))
    assert plain["weights"] == plain["gradients"] == 4 * total and mixed["weights"] == 6 * total
    assert mixed["activations"] < plain["activations"]
    assert plain["total"] == sum(size for name, size in plain.items() if name != "total")


def test_memory_falls_with_what_is_frozen(tokenizer: Any) -> None:
    model = build("bert", tokenizer)
    sizes = [memory_estimate(model, "adamw", 4, 32)["activations"]]
    for prefix in (*embedding_prefixes(model), *layer_prefixes(model)):
        model.get_submodule(prefix).requires_grad_(False)
        sizes.append(memory_estimate(model, "adamw", 4, 32)["activations"])
    # Nothing is saved by freezing the embeddings alone; each block after them counts, until none is left.
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3] == 0


@pytest.mark.parametrize("model_type", ["llama", "bert", "gpt2"])
def test_activations_are_near_what_autograd_keeps(
    model_type: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # where attention dropout writes the weights out
    sizes = {"n_embd": 128} if model_type == "gpt2" else {"hidden_size": 128, "intermediate_size": 512}
    model = build(model_type, tokenizer, **sizes).train()
    inputs = torch.randint(7, 300, (8, 64))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(input_ids=inputs)
    measured = sum(size for place, size in kept.items() if place not in weights) + output.logits.nbytes
    estimated = memory_estimate(model, "adamw", *inputs.shape)["activations"]
    if model.get_output_embeddings() is not None:
        estimated -= 12 * inputs.numel() * model.config.vocab_size  # what only the loss keeps
    assert 0.75 < estimated / measured < 1.35


def test_free_memory_is_a_number_of_bytes() -> None:
    assert 2**20 < free_memory() < 2**50


def test_position_limit(tokenizer: Any) -> None:
    limits = {
        name: position_limit(build(name, tokenizer).config) for name in ("bert", "gpt2", "llama", "roberta", "t5")
    }
    assert limits == {"bert": 64, "gpt2": 64, "llama": 64, "roberta": 65, "t5": None}


def test_roberta_takes_as_many_positions_as_it_says(tokenizer: Any) -> None:
    model = build("roberta", tokenizer).eval()
    limit = position_limit(model.config)
    assert limit is not None
    model(input_ids=torch.full((1, limit), 9))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, limit + 1), 9))
