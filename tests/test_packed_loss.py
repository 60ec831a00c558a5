"""A document packed beside others has the loss it has alone: nothing is attended to or counted over a border."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.accelerator import available_device
from pipeline.api import read_config
from pipeline.data import DataConfig
from pipeline.data_report import describe_data, lines
from pipeline.errors import ConfigError
from pipeline.evaluation import to_device
from pipeline.prepare import checkpoint_activations, prepare
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.language import language_columns
from pipeline.tasks.packed import refuse_leaks
from tests.synthetic import checkpoint_for, data_of, settings
from tests.tiny import DECODERS, SENTENCES, tiny_checkpoint

WORDS = " ".join(SENTENCES).split()
TEXTS = [" ".join(WORDS[start : start + size]) for start, size in ((0, 6), (9, 3), (15, 9), (22, 2), (30, 5), (3, 4))]


def make_task(folder: Path, packing: str) -> CausalLM:
    task = CausalLM(CausalLM.Config(name="causal_lm"), DataConfig(packing=packing))
    task.use_tokenizer(AutoTokenizer.from_pretrained(folder), 24)
    return task


def features_of(task: CausalLM) -> list[dict[str, Any]]:
    batches = task.pack(iter([task.encode({"text": TEXTS})]))
    return [dict(zip(batch, cells, strict=True)) for batch in batches for cells in zip(*batch.values(), strict=True)]


def losses(model: Any, task: CausalLM, features: list[dict[str, Any]]) -> dict[tuple[int, ...], float]:
    """Tokens of each document -> its loss, all rows in one batch."""
    batch = to_device(task.collate(features, []), model.device)
    _, logits = task.loss(model, batch)
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].detach().transpose(1, 2), batch["labels"][:, 1:], ignore_index=-100, reduction="none"
    )
    found = {}
    for row, feature in enumerate(features):
        start = 0
        for length in feature.get("document_lengths", [len(feature["input_ids"])]):
            end = start + length
            found[tuple(feature["input_ids"][start:end])] = float(nll[row, start : end - 1].sum())
            start = end
    assert sum(found.values()) == pytest.approx(float(nll.sum()), rel=1e-6)
    columns = language_columns(logits[:, :-1], batch["labels"][:, 1:], batch["num_bytes"])
    assert int(columns["tokens"].sum()) == task.terms(batch) == sum(len(ids) - 1 for ids in found)
    return found


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("how", ["sdpa", "eager", "checkpointed lora"])
def test_a_packed_document_has_the_loss_it_has_alone(kind: str, how: str, tmp_path: Path) -> None:
    # large weights, so that what leaks would be seen; no dropout in training mode
    dropout: dict[str, Any] = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}.get(kind, {})
    folder = tiny_checkpoint(tmp_path, kind, "AutoModelForCausalLM", initializer_range=0.3, **dropout)
    attention = how if how in ("sdpa", "eager") else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()
    if how == "checkpointed lora":
        adapter = LoraConfig(r=2, init_lora_weights=False, target_modules="all-linear", fan_in_fan_out=kind == "gpt2")
        model = get_peft_model(model, adapter)
        checkpoint_activations(model)
        model.train()
    model.to(available_device())
    packed, alone = make_task(folder, "best_fit"), make_task(folder, "none")
    rows = features_of(packed)
    assert 1 < len(rows) < len(TEXTS) and len({len(row["input_ids"]) for row in rows}) > 1
    together = losses(model, packed, rows)
    single = {key: value for row in features_of(alone) for key, value in losses(model, alone, [row]).items()}
    assert together.keys() == single.keys() and len(single) == len(TEXTS)
    for key, value in single.items():
        assert together[key] == pytest.approx(value, rel=1e-5)
    refuse_leaks(model)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_model_that_carries_documents_over_is_refused(kind: str, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_checkpoint(tmp_path, kind, "AutoModelForCausalLM"))
    plain = model.forward
    model.forward = lambda position_ids=None, **inputs: plain(**inputs)
    with pytest.raises(ConfigError, match="carries one over into the next"):
        refuse_leaks(model)
    model.forward = lambda input_ids, use_cache=False: plain(input_ids=input_ids)
    with pytest.raises(ConfigError, match="takes position_ids"):
        refuse_leaks(model)
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigError, match=r"set model\.attn_implementation: sdpa"):
        refuse_leaks(model)


def test_how_full_the_blocks_are_is_said(tmp_path: Path) -> None:
    start = checkpoint_for("causal_lm packed", tmp_path / "start")
    config = read_config("finetune", settings("causal_lm packed", None, start, tmp_path / "run"))
    prepared = prepare(config, datasets=data_of(config))
    report = describe_data(prepared.data)
    lengths = prepared.splits["train"]["length"]
    share = 100 * sum(lengths) / (64 * len(lengths))
    assert 60 < share <= 100 and len(lengths) < 40
    first, _ = lines(report)
    assert f"40 rows packed into {len(lengths)} blocks of 64 tokens, {share:.1f} % filled" in first
