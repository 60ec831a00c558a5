"""Adapters trained with tokens that their base does not have: the base grows with what they saved, and only so."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from pipeline.errors import ConfigError
from pipeline.merging import merge
from pipeline.models.fit import fit_vocabulary
from pipeline.scoring import evaluate
from tests.test_bare_adapters import said
from tests.tiny import tiny_checkpoint

# what of the embeddings is trained, or wrapped, beside q_proj
GROWN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "of low rank": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "tokens": {"trainable_token_indices": [10, 329]},
}


def grown(folder: Path, tied: bool, rows: int, settings: Any) -> Any:
    """A model with an adapter trained with three tokens more, on embeddings of `rows` rows; beside it its tokenizer."""
    base = tiny_checkpoint(folder / "base", "llama", "AutoModelForCausalLM", tie_word_embeddings=tied)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # embeddings that are saved, and tied ones: so it is wanted
        torch.manual_seed(7)
        plain: Any = transformers.AutoModelForCausalLM.from_pretrained(base)
        tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        tokenizer.add_tokens([f"<{number}>" for number in range(plain.config.vocab_size + 3 - len(tokenizer))])
        plain.resize_token_embeddings(rows)
        model: Any = get_peft_model(plain, settings)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += torch.randn_like(parameter) * 0.3
        model.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return model.eval()


# tied embeddings with two adapters of low rank are no longer one tensor, and are not merged
CASES = [(kind, tied) for kind in GROWN for tied in (False, True) if (kind, tied) != ("of low rank", True)]


@pytest.mark.filterwarnings(
    "ignore:Model with `tie_word_embeddings", "ignore:Input and output embeddings are no longer"
)
@pytest.mark.parametrize(("kind", "tied"), CASES)
def test_tokens_that_were_added(kind: str, tied: bool, tmp_path: Path) -> None:
    """The base gets as many rows as the adapter saved, and says of the new tokens what PEFT's own model says."""
    settings = LoraConfig(r=2, task_type="CAUSAL_LM", **{"target_modules": ["q_proj"], **GROWN[kind]})
    model = grown(tmp_path, tied, 331, settings)
    merged = merge(tmp_path / "adapter", tmp_path / "merged")
    again: Any = transformers.AutoModelForCausalLM.from_pretrained(merged)
    assert again.config.vocab_size == 331 == len(transformers.AutoTokenizer.from_pretrained(merged))
    batch = {"input_ids": torch.tensor([[10, 328, 329, 330, 11], [330, 12, 329, 13, 328]])}
    one, other = said(model, batch)[0], said(again, batch)[0]
    assert one.shape == (2, 5, 331) and torch.allclose(one, other, atol=1e-5) and one.std() > 0


def test_it_is_scored_as_it_is_merged(tmp_path: Path) -> None:
    grown(tmp_path, False, 331, LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"]))
    rows = {"validation": Dataset.from_dict({"text": ["the cat <8> sat <9> on <10> the mat"]})}
    given: dict[str, Any] = {"task": "causal_lm", "train": {"mixed_precision": "no"}}
    merged = merge(tmp_path / "adapter", tmp_path / "merged", config=given)
    one, other = (evaluate(model, given, datasets=rows).metrics for model in (tmp_path / "adapter", merged))
    assert one["validation"]["loss"] == pytest.approx(other["validation"]["loss"])
    assert max(transformers.AutoTokenizer.from_pretrained(merged)(rows["validation"]["text"][0])["input_ids"]) == 330


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_new_rows_hold_nothing_until_the_adapter_brings_them(tied: bool, tmp_path: Path) -> None:
    """Of tied embeddings one name is enough; the global random state is left alone."""
    base = tiny_checkpoint(tmp_path, "llama", "AutoModelForCausalLM", tie_word_embeddings=tied)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base)
    ends = ("model.embed_tokens.weight", "lm_head.weight")
    before = {name: model.state_dict()[name].clone() for name in ends}
    state = torch.get_rng_state()
    fit_vocabulary(model, dict.fromkeys(ends[1:] if tied else ends, (331, 32)), where="model")
    assert torch.equal(state, torch.get_rng_state())
    for name, rows in before.items():
        now = model.state_dict()[name]
        assert torch.equal(now[:328], rows) and now[328:].shape == (3, 32) and now[328:].isnan().all()


def test_rows_that_were_cut_off_and_rows_that_nobody_has(tmp_path: Path) -> None:
    """Embeddings without a base's spare rows are merged; rows that the adapter did not save are not drawn at random."""
    q_proj = LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"])
    grown(tmp_path / "fewer", False, 324, q_proj)
    shutil.copyfile(tmp_path / "fewer" / "base" / "tokenizer.json", tmp_path / "fewer" / "adapter" / "tokenizer.json")
    merged = merge(tmp_path / "fewer" / "adapter", tmp_path / "merged")
    assert AutoConfig.from_pretrained(merged).vocab_size == 324
    grown(tmp_path, False, 331, q_proj)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    half = {name: value for name, value in weights.items() if "lm_head" not in name}
    none = {name: value for name, value in half.items() if "embed_tokens" not in name}
    for kept, expected in (
        (
            half,
            "trained with 331 tokens, this base has 328, .* not bring lm_head.weight for the others; save it again",
        ),
        (none, r"ids up to 330, .*does not bring their embeddings: save it again with .*save_embedding_layers=True"),
    ):
        save_file(kept, tmp_path / "adapter" / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=expected):
            merge(tmp_path / "adapter", tmp_path / "never")
    wide = tiny_checkpoint(tmp_path / "wide", "llama", "AutoModelForCausalLM", vocab_size=331)
    merge(tmp_path / "adapter", tmp_path / "by base", base_model=str(wide))
