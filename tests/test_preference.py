"""Preference pairs: the loss by hand, the reference that costs no second model, conversations, what is cut."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from pipeline.api import read_config, run_recipe
from pipeline.data import DataConfig
from pipeline.errors import ConfigError, DataError
from pipeline.reference import without_adapter
from pipeline.stopping import Stopped
from pipeline.tasks.preference import Preference
from tests import launched
from tests.faults import stop_after
from tests.synthetic import RECIPE_OF, checkpoint_for, data_of, settings
from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def preference(data: dict[str, Any] | None = None, **given: Any) -> Preference:
    return Preference(Preference.Config(name="preference", **given), DataConfig(**(data or {})))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [0.313262, 1.313262]),  # -log sigmoid(1), -log sigmoid(-1)
        ({"label_smoothing": 0.1}, [0.413262, 1.213262]),  # 0.9 * one + 0.1 * other
        ({"loss_type": "ipo"}, [1.0, 9.0]),  # (2 - 1)^2, (-2 - 1)^2
        ({"loss_type": "hinge"}, [0.0, 2.0]),  # 1 - 1, 1 + 1
    ],
)
def test_losses_by_hand(given: dict[str, Any], expected: list[float]) -> None:
    """Margins of 2 and -2 nats; beta is a half."""
    ratios = torch.tensor([[1.5, -0.5], [0.0, 2.0]])
    assert preference(beta=0.5, **given).pair_losses(ratios).tolist() == pytest.approx(expected, abs=1e-6)


def answer_nats(model: Any, tokenizer: Any, prompt: str, answer: str, *, mean: bool) -> float:
    """Log-probability of one answer without padding, token by token."""
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt + "\n", answer))
    ids = [*head, *tail, tokenizer.eos_token_id][:64]
    with torch.no_grad():
        scores = model.cpu()(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    nats = [float(scores[position - 1, ids[position]]) for position in range(len(head), len(ids))]
    return math.fsum(nats) / (len(nats) if mean else 1)


@pytest.mark.parametrize(("strategy", "loss_type"), [(None, "sigmoid"), ("freeze", "ipo"), ("lora", "sigmoid")])
def test_a_run_compares_with_its_frozen_start(strategy: str | None, loss_type: str, tmp_path: Path) -> None:
    """The validation loss and rewards of a run are those that a second, frozen copy of the start gives."""
    start, beta = checkpoint_for("preference", tmp_path / "start"), 0.3
    given = settings("preference", strategy, start, tmp_path / "run", max_steps=4)
    given["task"] = {"name": "preference", "beta": beta, "loss_type": loss_type}
    data = data_of(read_config(RECIPE_OF[strategy], given))
    run = run_recipe(RECIPE_OF[strategy], given, datasets=data)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    first = 1 / (2 * beta) ** 2 if loss_type == "ipo" else math.log(2)  # nothing is preferred yet
    assert lines[0]["event"] == "train" and lines[0]["loss"] == pytest.approx(first, abs=2e-6)

    policy, frozen = run.model.eval(), transformers.AutoModelForCausalLM.from_pretrained(start).eval()
    tokenizer = AutoTokenizer.from_pretrained(start)
    ratios = [
        [
            answer_nats(policy, tokenizer, row["prompt"], row[name], mean=loss_type == "ipo")
            - answer_nats(frozen, tokenizer, row["prompt"], row[name], mean=loss_type == "ipo")
            for name in ("chosen", "rejected")
        ]
        for row in data["validation"]
    ]
    margins = np.array([chosen - rejected for chosen, rejected in ratios])
    losses = (margins - 1 / (2 * beta)) ** 2 if loss_type == "ipo" else np.log1p(np.exp(-beta * margins))
    assert run.metrics["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert run.metrics["reward_margin"] == pytest.approx(beta * margins.mean(), rel=1e-4) != 0
    assert run.metrics["reward_accuracy"] == (margins > 0).mean()


def test_the_start_lies_under_its_adapters(tmp_path: Path) -> None:
    """Whatever the adapters hold; and what moved before moves afterwards."""
    from peft import LoraConfig, get_peft_model

    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint_for("preference", tmp_path)).eval()
    ids = torch.tensor([[5, 6, 7]])
    before = base(ids).logits
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    next(parameter for parameter in model.parameters() if parameter.requires_grad).requires_grad_(False)
    moving = [parameter.requires_grad for parameter in model.parameters()]
    assert any(moving) and not torch.allclose(model(ids).logits, before, atol=1e-4)
    with without_adapter(model):
        assert torch.equal(model(ids).logits, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == moving


def test_two_processes_with_shares_are_one(tmp_path: Path) -> None:
    """The reference of 40 and 13 rows comes back in row order, and adapters in shares still learn after it."""
    start, runs = checkpoint_for("preference", tmp_path / "start"), {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        more = {"max_steps": 4, "eval_steps": 2, "micro_batch_size": 3, "fsdp": processes > 1}
        given = settings("preference", "lora", start, folder / "run", **more)
        if processes == 1:
            run_recipe("lora", given, datasets=data_of(read_config("lora", given)))
        else:
            done = launched.run(folder, "lora", given, processes)
            assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        runs[processes] = [line["loss"] for line in lines if "loss" in line]
    assert runs[2] == pytest.approx(runs[1], rel=1e-4)
    assert runs[1][0] == pytest.approx(math.log(2), abs=2e-6) and runs[1][-1] < runs[1][0]


def test_answers_are_cut_and_prompts_never(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, style="decoder"))
    task = preference({"prompt_column": ["ask", "more"]}, separator=" ")
    task.use_tokenizer(tokenizer, 9)
    rows = {
        "ask": ["the cat", "the cat", "the cat", "a small dog ran over the green hill"],
        "more": ["", "sat", "", ""],
        "chosen": ["on the mat", "on", "sat", "sat"],
        "rejected": ["on", "the moon and the sea shells by the shore", "sat", "ran"],
    }
    assert list(task.columns().values()) == ["text", "any_text", "text", "text"]
    found = task.encode(rows)
    whole = [str(tokenizer.decode(ids)) for ids in found["chosen_input_ids"][:2]]
    assert whole[0].startswith("the cat on the mat") and whole[1] == "the cat\nsat on[EOS]"
    assert found["full_length"][1] > found["length"][1] and len(found["rejected_input_ids"][1]) == 9
    assert task.unlearnable(found).tolist() == [2, 3]  # the same answer twice, and no room behind the prompt
    features = [{name: column[row] for name, column in found.items()} for row in (0, 1)]
    batch = task.collate(features, [])
    assert len(batch["input_ids"]) == 2 * task.terms(batch) == 4 and "reference" not in batch
    learned = [
        str(tokenizer.decode(ids[known]))
        for ids, known in zip(batch["input_ids"], task.trained_positions(batch), strict=True)
    ]
    assert learned[1] == "on[EOS]" and learned[2] == "on[EOS]" and not learned[3].endswith("[EOS]")


def written(path: Path, template: str) -> str:
    path.write_text(template)
    return str(path)


def test_conversations(tmp_path: Path) -> None:
    """ShareGPT's and OpenAI's words give the same tokens: those of the template, and EOS once."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, style="decoder"))
    columns = {"messages_column": "talk"}
    task = preference(columns, chat_template=written(tmp_path / "own.jinja", TEMPLATE))
    task.use_tokenizer(tokenizer, 64)
    rows = {
        "talk": ['[{"from": "human", "value": "the cat"}]', '[{"role": "user", "content": "the cat"}]'],
        "chosen": ['{"from": "gpt", "value": "sat"}', '[{"role": "assistant", "content": "sat"}]'],
        "rejected": ['{"from": "gpt", "value": "ran"}', '[{"role": "assistant", "content": "ran"}]'],
    }
    found = task.encode(rows)
    assert all(one == other for one, other in found.values())
    assert tokenizer.decode(found["chosen_input_ids"][0]) == "<user> the cat\n<assistant> sat\n[EOS]"
    assert tokenizer.decode(found["chosen_input_ids"][0][found["num_prompt_tokens"][0] :]) == " sat\n[EOS]"
    ended = written(tmp_path / "ended.jinja", TEMPLATE.replace("\n", "[EOS]\n"))
    with_end = preference(columns, chat_template=ended)
    with_end.use_tokenizer(tokenizer, 64)
    assert tokenizer.decode(with_end.encode(rows)["chosen_input_ids"][0]).count("[EOS]") == 2  # of both turns
    for template, problem in {
        TEMPLATE.replace("<assistant>{%", "<bot>{%"): "otherwise when an answer follows",
        "{{ raise_exception('roles must alternate') }}": "roles must alternate",
    }.items():
        tokenizer.chat_template = template
        with pytest.raises(DataError, match=problem):
            task.encode(rows)


def test_another_start_under_the_same_path_is_not_gone_on_with(tmp_path: Path) -> None:
    checkpoint = checkpoint_for("preference", tmp_path / "start")
    given = settings("preference", None, checkpoint, tmp_path / "run", max_steps=6)
    data = data_of(read_config("finetune", given))
    with stop_after(2), pytest.raises(Stopped):
        run_recipe("finetune", given, datasets=data)
    weights = load_file(checkpoint / "model.safetensors")
    next(iter(weights.values())).flatten()[0] += 1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="weights of the start model"):
        run_recipe("finetune", given, datasets=data)


def test_a_stop_within_the_reference_keeps_what_the_run_had_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is made before the checkpoint says how far the run had come."""
    given = settings("preference", None, checkpoint_for("preference", tmp_path / "start"), tmp_path / "run")
    data = data_of(read_config("finetune", given))
    with stop_after(2), pytest.raises(Stopped):
        run_recipe("finetune", given, datasets=data)
    before = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert before["cost"]["train_seconds"] > 0 < before["cost"]["samples_per_second"]
    reference = Preference.reference

    def stopping(self: Preference, *arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return reference(self, *arguments)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Preference, "reference", stopping)
        run_recipe("finetune", given, datasets=data)
    after = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert after["cost"] == before["cost"] and after["status"] == "stopped"
    run_recipe("finetune", given, datasets=data)
    finished = json.loads((tmp_path / "run" / "manifest.json").read_text())["cost"]
    assert finished["train_seconds"] > before["cost"]["train_seconds"]


def test_nothing_is_learned_behind_the_mark_that_ends_an_answer(tmp_path: Path) -> None:
    """White space that a template sets behind it is the template's, as for causal_lm."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path, style="decoder"))
    task = preference({"messages_column": "talk"}, chat_template="zephyr")
    task.use_tokenizer(tokenizer, 64)
    cells = {"talk": ["user", "the cat"], "chosen": ["assistant", "sat "], "rejected": ["assistant", "ran"]}
    found = task.encode({name: [json.dumps({"role": role, "content": text})] for name, (role, text) in cells.items()})
    start = found["num_prompt_tokens"][0]
    said = [tokenizer.decode(found[f"{name}_input_ids"][0][start:]) for name in ("chosen", "rejected")]
    assert said == ["sat [EOS]", "ran[EOS]"]
