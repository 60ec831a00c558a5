"""Initialization: each scheme has the statistics it promises, and a tensor that is passed over is an error."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel
from transformers.initialization import guard_torch_init_functions, no_init_weights
from transformers.pytorch_utils import Conv1D

from pipeline.errors import ConfigError
from pipeline.models import INITS, ModelConfig, from_config, initialize, layer_prefixes
from tests.tiny import ENCODERS, MODEL_TYPES, tiny_config, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def build(
    model_type: str, tokenizer: Any, *, seed: int = 0, overrides: dict[str, Any] | None = None, **settings: Any
) -> Any:
    model_class = "AutoModelForMaskedLM" if model_type in ENCODERS else "AutoModelForCausalLM"
    config = ModelConfig(config={**tiny_config(model_type), **(overrides or {})}, **settings)
    return from_config(config, model_class=model_class, model_kwargs={}, tokenizer=tokenizer, seed=seed)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    """Weights (outputs, inputs) of the linear layers inside the blocks."""
    blocks = tuple(layer_prefixes(model))
    return {
        name: module.weight.T if isinstance(module, Conv1D) else module.weight
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name.startswith(blocks)
    }


def test_every_scheme_on_every_architecture(tokenizer: Any) -> None:
    built = 0
    for model_type in MODEL_TYPES:
        for scheme in INITS:
            for depth_scaled in (False, True):
                model = build(model_type, tokenizer, init=scheme, depth_scaled=depth_scaled)
                assert all(parameter.isfinite().all() for parameter in model.parameters())
                built += 1
    assert built == len(MODEL_TYPES) * len(INITS) * 2 >= 96


# Variances from the papers, written out here once more, for (outputs, inputs).
VARIANCES = {
    "xavier_uniform": lambda outputs, inputs: 2 / (inputs + outputs),
    "xavier_normal": lambda outputs, inputs: 2 / (inputs + outputs),
    "he_uniform": lambda outputs, inputs: 2 / inputs,
    "he_normal": lambda outputs, inputs: 2 / inputs,
    "lecun_normal": lambda outputs, inputs: 1 / inputs,
    "trunc_normal": lambda outputs, inputs: (0.02 * 0.8796) ** 2,
    "orthogonal": lambda outputs, inputs: 1 / max(outputs, inputs),
}


def test_each_scheme_has_a_variance_here() -> None:
    assert set(VARIANCES) == set(INITS) - {"default"}


@pytest.mark.parametrize("scheme", VARIANCES)
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_variance_is_the_papers(model_type: str, scheme: str, tokenizer: Any) -> None:
    for name, weight in matrices(build(model_type, tokenizer, init=scheme)).items():
        wanted = VARIANCES[scheme](*weight.shape)
        assert weight.var(correction=0).item() == pytest.approx(wanted, rel=0.2), name


def test_bounds_and_orthogonality(tokenizer: Any) -> None:
    for weight in matrices(build("gpt2", tokenizer, init="xavier_uniform")).values():
        assert weight.abs().max() <= math.sqrt(6 / sum(weight.shape))
    for weight in matrices(build("gpt2", tokenizer, init="trunc_normal")).values():
        assert weight.abs().max() <= 0.04 + 1e-6
    for weight in matrices(build("gpt2", tokenizer, init="orthogonal")).values():
        small = weight if weight.shape[0] <= weight.shape[1] else weight.T
        assert torch.allclose(small @ small.T, torch.eye(len(small)), atol=1e-4)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_embeddings_biases_and_norms_keep_the_architectures_own(model_type: str, tokenizer: Any) -> None:
    model = build(model_type, tokenizer, init="he_normal")
    embedding = model.get_input_embeddings()
    assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert embedding.padding_idx is None or not embedding.weight[embedding.padding_idx].any()
    assert (embedding.padding_idx is None) == (model_type == "gpt2")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.ndim == 1:
            assert (parameter == 1).all(), name


def test_tied_head_follows_the_embedding(tokenizer: Any) -> None:
    model = build("llama", tokenizer, init="he_normal", overrides={"tie_word_embeddings": True})
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    loose = build("llama", tokenizer, init="he_normal")
    assert loose.lm_head.weight.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.05)


@pytest.mark.parametrize(
    "model_type, outputs, others",
    [
        ("llama", ("o_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")),
        ("gpt2", ("c_proj",), ("c_attn", "c_fc")),
        ("bert", ("output.dense",), ("query", "key", "value", "intermediate.dense")),
        ("distilbert", ("out_lin", "lin2"), ("q_lin", "k_lin", "v_lin", "lin1")),
    ],
)
@pytest.mark.parametrize("scheme", ["default", "lecun_normal"])
def test_depth_scaling(
    scheme: str, model_type: str, outputs: tuple[str, ...], others: tuple[str, ...], tokenizer: Any
) -> None:
    plain = matrices(build(model_type, tokenizer, init=scheme))
    scaled = matrices(build(model_type, tokenizer, init=scheme, depth_scaled=True))
    for name, weight in scaled.items():
        if name.endswith(outputs):
            wanted = (0.02 if scheme == "default" else weight.shape[1] ** -0.5) / math.sqrt(2 * 2)
            assert weight.std().item() == pytest.approx(wanted, rel=0.1), name
        else:
            assert name.endswith(others), name
            assert torch.equal(weight, plain[name]), name


def test_gpt2_is_not_scaled_twice(tokenizer: Any) -> None:
    once, asked = build("gpt2", tokenizer), build("gpt2", tokenizer, depth_scaled=True)
    stds = [model.transformer.h[0].mlp.c_proj.weight.std().item() for model in (once, asked)]
    assert stds[0] == pytest.approx(stds[1], rel=0.1)


@pytest.mark.parametrize("scheme", INITS)
def test_seed_decides_and_the_global_state_stays(scheme: str, tokenizer: Any) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build("bert", tokenizer, init=scheme, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = build("bert", tokenizer, init=scheme, seed=1)
    other = build("bert", tokenizer, init=scheme, seed=2)
    for (name, one), two in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(matrices(first).popitem()[1], matrices(other).popitem()[1])


@pytest.mark.parametrize("scheme", ["default", "xavier_uniform"])
def test_a_wider_head_moves_no_other_weight(scheme: str, tokenizer: Any) -> None:
    config = ModelConfig(config=tiny_config("bert"), init=scheme)
    models = [
        from_config(
            config,
            model_class="AutoModelForSequenceClassification",
            model_kwargs={"num_labels": labels},
            tokenizer=tokenizer,
            seed=0,
        )
        for labels in (2, 7)
    ]
    narrow, wide = (model.get_submodule("bert") for model in models)
    for (name, one), two in zip(narrow.named_parameters(), wide.parameters(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.parametrize("scheme", ["default", "he_normal"])
def test_flags_of_transformers_hold_nothing_back(scheme: str, tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    for part in (*model.modules(), *model.parameters()):
        part._is_hf_initialized = True
    before = {name: weight.clone() for name, weight in matrices(model).items()}
    with guard_torch_init_functions():
        initialize(model, scheme, seed=9)
    assert not any(torch.equal(weight, before[name]) for name, weight in matrices(model).items())


def test_initialization_switched_off_is_caught(tokenizer: Any) -> None:
    model = build("llama", tokenizer)
    with no_init_weights(), pytest.raises(RuntimeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: standard dev"):
        initialize(model, "he_normal")


def test_a_scheme_that_draws_something_else_is_caught(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(weight: Tensor, std: float, generator: torch.Generator) -> float:
        if weight.shape != (64, 32):
            nn.init.normal_(weight, std=0.3, generator=generator)
        return 0.3

    monkeypatch.setitem(INITS, "forgetful", forgetful)
    with pytest.raises(RuntimeError, match=r"up_proj\.weight: standard deviation 0\.0\d+, drawn with 0\.3"):
        build("llama", tokenizer, init="forgetful")


def test_architecture_that_leaves_a_tensor_out_is_caught(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen2", tokenizer)
    original = PreTrainedModel._init_weights

    def lazy(self: Any, module: nn.Module) -> None:
        if module is not model.model.norm:
            original(self, module)

    monkeypatch.setattr(PreTrainedModel, "_init_weights", lazy)
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight: was never written"):
        initialize(model)


def test_a_new_scheme_is_one_function_and_one_line(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tenth(weight: Tensor, std: float, generator: torch.Generator) -> float:
        nn.init.normal_(weight, std=0.1, generator=generator)
        return 0.1

    monkeypatch.setitem(INITS, "tenth", tenth)
    for weight in matrices(build("bert", tokenizer, init="tenth")).values():
        assert weight.std().item() == pytest.approx(0.1, rel=0.1)


def test_unknown_scheme_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="model.init: unknown name 'xavier_unifrom'; did you mean 'xavier_uniform'"):
        build("bert", tokenizer, init="xavier_unifrom")


def test_stacked_experts_are_said_to_keep_their_own(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny_config("llama") | {"model_type": "mixtral", "num_local_experts": 2}
    with caplog.at_level(logging.WARNING):
        from_config(
            ModelConfig(config=config, init="he_normal"),
            model_class="AutoModelForCausalLM",
            model_kwargs={},
            tokenizer=tokenizer,
            seed=0,
        )
    assert "4 other stacked tensors keep the architecture's own" in caplog.text
