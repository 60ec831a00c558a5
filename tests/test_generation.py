"""Text written at evaluation: the same as one row at a time, on any number of processes, under LoRA, and in the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoTokenizer

from pipeline.api import read_config, run_recipe
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation import collate, joined
from pipeline.prepare import Prepared, prepare
from pipeline.settings import check
from pipeline.stopping import Stopped
from pipeline.tasks import generation
from pipeline.tasks.generation import NOTHING, GenerateConfig
from tests import launched
from tests.faults import stop_after
from tests.synthetic import data_of
from tests.tiny import tiny_checkpoint, tiny_config, tiny_tokenizer

PROMPTED = {"prompt_column": "prompt", "response_column": "response"}
MODELS = {"t5": "AutoModelForSeq2SeqLM", "bart": "AutoModelForSeq2SeqLM"}
MODELS |= {"llama": "AutoModelForCausalLM", "gpt2": "AutoModelForCausalLM"}
OTHERS = {**dict.fromkeys(("marian", "mbart"), "AutoModelForSeq2SeqLM"), "qwen3": "AutoModelForCausalLM"}
"""Architectures that are only trained, asked, saved and loaded again."""
ROWS = np.arange(9)
SPECIAL = ("PAD", "BOS", "EOS")


def settings(kind: str, folder: Path, **generate: Any) -> dict[str, Any]:
    """A small run of the task that an architecture is for."""
    model_class = {**MODELS, **OTHERS}[kind]
    start = tiny_checkpoint(folder / "start", kind, model_class)
    name = "causal_lm" if model_class == "AutoModelForCausalLM" else "seq2seq"
    data = {"max_length": 48, **(PROMPTED if name == "causal_lm" else {})}
    task = {"name": name, "generate": {"max_new_tokens": 10, **generate}}
    flat = {"train_batch_size": 8, "learning_rate": 1e-2, "mixed_precision": "no", "output_dir": str(folder / "run")}
    return {"task": task, "model_name_or_path": str(start), "data": data, **flat}


def taught(prepared: Prepared) -> torch.nn.Module:
    """The model after some steps on its rows, so that some texts end early and they differ."""
    model, task = prepared.model, prepared.task
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collate(task, prepared.splits["validation"], np.arange(13), seed=0, epoch=0)
    for _ in range(40):
        loss, _ = task.loss(model, batch)
        (loss / task.terms(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures_write_after_loading_what_they_wrote_before(kind: str, tmp_path: Path) -> None:
    given = settings(kind, tmp_path, num_beams=2) | {"max_steps": 3}
    run = run_recipe("finetune", given, datasets=data_of(read_config("finetune", given)))
    assert "exact_match" in run.metrics
    folder = tmp_path / "run" / "model"
    models: list[Any] = [run.model.cpu(), vars(transformers)[OTHERS[kind]].from_pretrained(folder)]
    words = AutoTokenizer.from_pretrained(folder)("the cat sat", return_tensors="pt")
    asked = {key: words[key] for key in ("input_ids", "attention_mask")}
    one, other = (model.eval().generate(**asked, max_new_tokens=6, do_sample=False) for model in models)
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", MODELS)
def test_a_batch_is_written_as_its_rows_one_by_one(kind: str, tmp_path: Path) -> None:
    """Against transformers' own generate over single rows without padding; greedy, beams, and draws."""
    given = settings(kind, tmp_path)
    config = read_config("finetune", given)
    prepared = prepare(config, datasets=data_of(config))
    task, split = prepared.task, prepared.splits["validation"]
    model: Any = taught(prepared)
    wanted: dict[str, list[list[int]]] = {}
    for name, more in {"greedy": {}, "beams": {"num_beams": 3}, "drawn": {"do_sample": True, "top_k": 50}}.items():
        task.config.generate = GenerateConfig(max_new_tokens=10, **more)
        with torch.inference_mode():
            together = task.generate(model, collate(task, split, ROWS, seed=0, epoch=0))["written"]
            alone = [task.generate(model, collate(task, split, ROWS[[row]], seed=0, epoch=0)) for row in ROWS]
        assert together.shape == (9, 10) and torch.equal(together, joined([part["written"] for part in alone]))
        wanted[name] = [[token for token in row if token != NOTHING] for row in together.tolist()]
        if name == "drawn":
            continue
        for row, found in enumerate(wanted[name]):
            batch = collate(task, split, ROWS[[row]], seed=0, epoch=0)
            ids = batch["input_ids"]
            if task.config.name == "causal_lm":
                ids = ids[:, : split[row]["num_prompt_tokens"]]
            written = model.generate(ids, max_new_tokens=10, do_sample=False, **more)[0]
            written = written[1:] if task.config.name == "seq2seq" else written[ids.shape[1] :]
            assert written.tolist() == found
    assert len({len(row) for row in wanted["greedy"]}) > 1, "some texts end before others"
    assert wanted["drawn"] != wanted["greedy"]


def test_the_loss_and_the_shift_are_those_of_the_model(tmp_path: Path) -> None:
    for kind in ("t5", "bart"):
        config = read_config("finetune", settings(kind, tmp_path / kind))
        prepared = prepare(config, datasets=data_of(config))
        model: Any = prepared.model.eval()
        batch = collate(prepared.task, prepared.splits["validation"], ROWS, seed=0, epoch=0)
        with torch.inference_mode():
            loss, _ = prepared.task.loss(model, batch)
            theirs = model(**{key: batch[key] for key in ("input_ids", "attention_mask", "labels")}).loss
        assert float(loss) == pytest.approx(float(theirs) * prepared.task.terms(batch), rel=1e-5)
        learned, shifted = batch["labels"] >= 0, model.prepare_decoder_input_ids_from_labels(batch["labels"])
        assert torch.equal(batch["decoder_input_ids"][learned], shifted[learned])
        assert (batch["labels"].flip(1) == prepared.task.tokenizer.eos_token_id).any(1).all()


def test_a_target_that_is_cut_has_no_end(tmp_path: Path) -> None:
    given = settings("t5", tmp_path)
    given["task"] |= {"max_target_length": 4, "source_prefix": "turn around: "}
    config = read_config("finetune", given)
    prepared = prepare(config, datasets=data_of(config))
    split, eos = prepared.splits["train"], prepared.task.tokenizer.eos_token_id
    assert {(len(row) <= 4, row[-1] == eos) for row in split["target_ids"]} <= {(True, True), (True, False)}
    cut = [row for row in split if row["truncated"]]
    assert cut and all(len(row["target_ids"]) == 4 and row["target_ids"][-1] != eos for row in cut)
    assert "turn around: " in prepared.task.tokenizer.decode(split[0]["input_ids"])


def test_only_rows_that_are_answered_need_room_to_write(tmp_path: Path) -> None:
    """A model of 64 positions: training rows may fill them; a prompt to be answered that would is refused by name."""
    given = settings("llama", tmp_path, max_new_tokens=40)
    prompts = {"train": ["the cat", "the cat sat " * 10], "validation": ["the cat", "the cat sat " * 10]}
    made = {split: {"prompt": texts, "response": ["sat", "ran"]} for split, texts in prompts.items()}
    given["data"] |= {"max_length": 64, "allow_overlap": True}

    def prepared() -> Prepared:
        rows = {split: Dataset.from_dict(columns) for split, columns in made.items()}
        return prepare(read_config("finetune", given), datasets=rows)

    with pytest.raises(DataError, match=r"'validation'\]\[1\]: prompt gives a prompt of \d+ tokens; 40 wr") as refused:
        prepared()
    assert len(refused.value.problems) == 1
    advice = int(str(refused.value).rpartition(" ")[2])
    given["task"]["generate"]["max_new_tokens"] = advice + 1
    with pytest.raises(DataError, match=rf"give task.generate.max_new_tokens: {advice}"):
        prepared()
    given["task"]["generate"]["max_new_tokens"] = advice
    prepared()
    given["task"]["generate"]["max_new_tokens"] = 40
    made["validation"]["prompt"] = ["the cat", "the dog"]
    train = prepared().splits["train"]
    assert max(train["num_prompt_tokens"]) + 40 > 64


def test_samples_are_shown_where_nothing_is_scored(tmp_path: Path) -> None:
    """At every point of an evaluation, once each, also when the run is stopped on one of them and goes on."""
    given = settings("llama", tmp_path)
    given["task"] |= {"sample_prompts": ["the cat"]}
    given |= {"max_steps": 6, "eval_steps": 2, "save_steps": 100}
    rows = {"train": data_of(read_config("finetune", given))["train"]}
    with stop_after(3), pytest.raises(Stopped):
        run_recipe("finetune", given, datasets=rows)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:  # of a session that was killed behind its samples
        file.write(json.dumps({"event": "sample", "step": 4, "prompt": "the cat", "text": ""}) + "\n")
    run_recipe("finetune", given, datasets=rows)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    samples = [line for line in lines if line["event"] == "sample"]
    assert [line["step"] for line in samples] == [2, 4, 6]
    assert all(line["prompt"] == "the cat" and "split" not in line for line in samples)


def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    """Adapters, draws, and samples, over real processes; what the metrics say of the texts is the same."""
    given = settings("llama", tmp_path, do_sample=True)
    given["task"] |= {"sample_prompts": ["the cat", "the moon and the dog"]}
    given |= {"lora": {"r": 2}, "max_steps": 2, "eval_steps": 1, "eval": {"metrics": ["bleu", "chrf", "rouge"]}}
    events = {}
    for processes in (1, 2):
        given["output_dir"] = str(tmp_path / str(processes) / "run")
        if processes == 1:
            run_recipe("lora", given, datasets=data_of(read_config("lora", given)))
        else:
            done = launched.run(tmp_path / str(processes), "lora", given, processes)
            assert done.returncode == 0, done.stderr[-3000:]
        lines = (tmp_path / str(processes) / "run" / "metrics.jsonl").read_text().splitlines()
        events[processes] = [json.loads(line) for line in lines]
    for event in ("evaluate", "sample"):
        one, two = ([line for line in events[count] if line["event"] == event] for count in (1, 2))
        assert len(one) == len(two) == (2 if event == "evaluate" else 4)
        for first, second in zip(one, two, strict=True):
            assert {
                key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                for key, value in first.items()
            } == second
    assert events[1][-1]["chrf"] > 0
    assert {line["prompt"] for line in events[1] if line["event"] == "sample"} == {"the cat", "the moon and the dog"}
    results = json.loads((tmp_path / "2" / "run" / "results.json").read_text())
    assert set(results["metric_settings"]) == {"bleu", "chrf", "rouge"}


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_from_scratch_and_in_low_precision(kind: str, tmp_path: Path) -> None:
    tokenizer = str(tiny_tokenizer(tmp_path / "tokenizer", style="decoder"))
    given = {
        "task": {"name": "seq2seq", "generate": {"max_new_tokens": 5, "num_beams": 2}},
        "model": {"config": tiny_config(kind), "tokenizer_name_or_path": tokenizer, "init": "xavier_uniform"},
        "eval": {"metrics": ["rouge"], "metric_for_best_model": "rougeL"},
        **{"max_steps": 3, "learning_rate": 3e-3, "mixed_precision": "bf16", "output_dir": str(tmp_path / "run")},
    }
    run = run_recipe("pretrain", given, datasets=data_of(read_config("pretrain", given)))
    assert {"perplexity", "exact_match", "rouge1", "rouge2", "rougeL"} <= set(run.metrics)
    assert list(run.results["metric_settings"]) == ["rouge"]
    settings = json.loads((tmp_path / "run" / "model" / "generation_config.json").read_text())
    pad, bos, eos = (AutoTokenizer.from_pretrained(tokenizer).convert_tokens_to_ids(f"[{name}]") for name in SPECIAL)
    assert settings["decoder_start_token_id"] == (pad if kind == "t5" else bos)
    assert settings.get("forced_eos_token_id", eos) == eos


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"task": {"name": "seq2seq"}, "train": {"fsdp": True}},
            "fsdp: no text is written .* set task.generate: false",
        ),
        ({"task": {"name": "seq2seq", "generate": False}, "eval": {"metrics": ["bleu"]}}, "compared by bleu, and"),
        ({"task": "causal_lm", "eval": {"metrics": ["rouge"]}}, "compared by rouge, .* give task.generate"),
        ({"task": {"name": "causal_lm", "sample_prompts": ["a"]}, "train": {"fsdp": True}}, "task.sample_prompts out"),
        ({"task": {"name": "causal_lm", "generate": {}}}, "plain text have no prompt"),
        ({"task": {"name": "seq2seq", "generate": {"temperature": 0.5}}}, "temperature: has an effect only with do_s"),
        (
            {"task": {"name": "seq2seq", "generate": {"length_penalty": 2}}},
            "length_penalty: has an effect only with nu",
        ),
        ({"task": {"name": "seq2seq", "generate": {"do_sample": True, "num_beams": 2}}}, "do_sample: draws one text"),
        ({"task": {"name": "seq2seq", "generate": {"no_repeat_ngram_size": 1}}}, "give 2 or more"),
    ],
)
def test_what_does_not_go_together_is_said(given: dict[str, Any], says: str) -> None:
    config = read_config("train", {"model_name_or_path": "anything", **given})
    with pytest.raises(ConfigError, match=says):
        check(config, has_validation=True)


def test_generation_is_off_and_on() -> None:
    def task(**more: Any) -> Any:
        return read_config("train", {"task": {"name": "seq2seq", **more}, "model_name_or_path": "anything"}).task

    assert task().generate == GenerateConfig() and task(generate=True).generate == GenerateConfig()
    assert task(generate=False).generate is None
    assert task(generate={"num_beams": 4}).generate == task(num_beams=4).generate == GenerateConfig(num_beams=4)


def test_seeds_are_the_rows_own() -> None:
    draws = [np.random.default_rng(number) for number in (1, 2, 1)]
    seeds = generation.sampling_seeds(GenerateConfig(do_sample=True), draws)["sampling_seeds"].tolist()
    assert seeds[0] == seeds[2] != seeds[1]
    assert generation.sampling_seeds(GenerateConfig(), draws) == generation.sampling_seeds(None, draws) == {}


def test_draws_follow_the_probabilities() -> None:
    scores = torch.tensor([0.5, 0.3, 0.2]).log().repeat(4000, 1)
    chosen = generation.SeededChoice(range(4000))(torch.zeros(4000, 1), scores).argmax(1)
    assert (chosen.bincount() / 4000).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
