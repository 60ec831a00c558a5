"""The run folder: what other libraries load from it, what is refused, what survives a tracker that fails."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import AutoPeftModelForSequenceClassification
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers import pipeline as hub_pipeline

from pipeline import finetune, lora
from pipeline.api import main, read_config, run_recipe
from pipeline.dry_run import print_plan
from pipeline.errors import ConfigError, DataError, UserError
from pipeline.prepare import prepare
from tests.synthetic import checkpoint_for, data_of, rows, settings

TEXT = "the cat looked at the moon"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("text_classification", tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("causal_lm", tmp_path_factory.mktemp("decoder"))


def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    inputs = tokenizer(TEXT, return_tensors="pt")
    with torch.inference_mode():
        found: torch.Tensor = model.cpu().eval()(**inputs).logits
    return found


def test_plain_transformers_load_a_classifier(encoder: Path, tmp_path: Path) -> None:
    given = settings("text_classification", None, encoder, tmp_path / "run", max_steps=12)
    run = finetune(given, datasets=data_of(read_config("finetune", given)))
    again = AutoModelForSequenceClassification.from_pretrained(run.output_dir / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.output_dir / "model")
    assert again.config.id2label == {0: "cats", 1: "dogs", 2: "other"}
    assert torch.equal(logits_of(run.model, run.tokenizer), logits_of(again, tokenizer))
    (answer,) = hub_pipeline("text-classification", model=str(run.output_dir / "model"))(TEXT)
    expected = again.config.id2label[int(logits_of(again, tokenizer).argmax())]
    assert answer["label"] == expected


def test_plain_transformers_load_a_language_model(decoder: Path, tmp_path: Path) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "run")
    run = finetune(given, datasets=data_of(read_config("finetune", given)))
    again = AutoModelForCausalLM.from_pretrained(run.output_dir / "model")
    assert torch.equal(logits_of(run.model, run.tokenizer), logits_of(again, run.tokenizer))
    (answer,) = hub_pipeline("text-generation", model=str(run.output_dir / "model"))(TEXT, max_new_tokens=3)
    assert answer["generated_text"].startswith("the cat")


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("switch", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_adapter_loads_as_it_was(merge: bool, switch: dict[str, bool], encoder: Path, tmp_path: Path) -> None:
    given = settings("text_classification", "lora", encoder, tmp_path / "run", max_steps=12)
    given["lora"] = {"r": 2, "merge": merge, **switch}
    run = lora(given, datasets=data_of(read_config("lora", given)))
    folder = run.output_dir / "model"
    assert (folder / "adapter_model.safetensors").exists() != merge
    loader = AutoModelForSequenceClassification if merge else AutoPeftModelForSequenceClassification
    again = loader.from_pretrained(folder, num_labels=3)
    assert torch.allclose(logits_of(run.model, run.tokenizer), logits_of(again, run.tokenizer), atol=1e-5)


def test_a_lost_head_is_noticed(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: the adapter is saved without its head. The check after saving must not let it pass."""
    from safetensors.torch import load_file, save_file

    import pipeline.session as module
    from pipeline.export import save_model as save

    def careless(model: Any, weights: Any, tokenizer: Any, folder: Path, processes: Any) -> None:
        save(model, weights, tokenizer, folder, processes)
        file = folder / "adapter_model.safetensors"
        save_file({key: value * 0 if "classifier" in key else value for key, value in load_file(file).items()}, file)

    monkeypatch.setattr(module, "save_model", careless)
    given = settings("text_classification", "lora", encoder, tmp_path / "run")
    with pytest.raises(RuntimeError, match="does not give the logits"):
        lora(given, datasets=data_of(read_config("lora", given)))


def test_run_object_is_readable(decoder: Path, tmp_path: Path) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "run")
    run = finetune(given, datasets=data_of(read_config("finetune", given)), max_steps=2)
    assert "run: causal_lm, all weights, 2 steps" in repr(run) and "loss" in repr(run)
    assert run.metrics["loss"] > 0
    page = run._repr_html_()
    assert f"<td><b>{run.metrics['loss']:.4g}</b></td>" in page
    assert page.startswith(run.summary)
    assert "<th>validation, 3 examples</th>" in page and page.count("<tr>") == 1 + len(run.metrics)
    run.results["intervals"] = {"validation": {"loss": [1.0, 2.0]}}
    run.results["metrics"]["test"] = {"loss": 3.0, "<b>": float("nan")}
    run.results["num_samples"]["test"] = 7
    page = run._repr_html_()
    assert "(1 to 2)</b></td><td><b>3</b></td>" in page and "<th>&lt;b&gt;</th><td></td><td>nan</td>" in page
    run.results["metrics"] = {}
    assert "not evaluated" in run._repr_html_() and "<table>" not in run._repr_html_()


def test_resolved_config_repeats_the_run(decoder: Path, tmp_path: Path) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "one")
    data = data_of(read_config("finetune", given))
    first = finetune(given, datasets=data)
    again = finetune(tmp_path / "one" / "config.yaml", datasets=data, output_dir=str(tmp_path / "two"))
    assert first.metrics == again.metrics
    one, two = (tmp_path / name / "model" / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_best_model_is_the_one_saved(decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluations get worse after the second: its weights and its numbers are the ones kept."""
    import pipeline.session as module
    from pipeline.evaluation import evaluate

    def worse_and_worse(*arguments: Any, **more: Any) -> dict[str, float]:
        worse_and_worse.calls += 1  # type: ignore[attr-defined]
        found = evaluate(*arguments, **more)
        return {**found, "loss": found["loss"] + 10 * (worse_and_worse.calls > 2)}  # type: ignore[attr-defined]

    worse_and_worse.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "evaluate", worse_and_worse)
    more = {"max_steps": 12, "eval_steps": 2, "early_stopping_patience": 2}
    given = settings("causal_lm", None, decoder, tmp_path / "run", **more)
    data = data_of(read_config("finetune", given))
    run = finetune(given, datasets=data)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["event"] == "evaluate"}
    assert run.metrics["loss"] == min(losses.values()) == losses[4] and run.results["best_step"] == 4
    assert run.results["stopped_early"] and run.results["steps"] < 12
    monkeypatch.undo()
    fresh = {"model_name_or_path": str(run.output_dir / "model")}
    check = finetune({**given, "model": fresh, "max_steps": 0, "output_dir": str(tmp_path / "check")}, datasets=data)
    assert check.metrics["loss"] == pytest.approx(run.metrics["loss"], rel=1e-6)


def test_other_settings_do_not_continue_a_run(decoder: Path, tmp_path: Path) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "run")
    data = data_of(read_config("finetune", given))
    finetune(given, datasets=data)
    with pytest.raises(ConfigError, match=r"optim.learning_rate: 0.01 there, 0.5 now"):
        finetune({**given, "learning_rate": 0.5}, datasets=data)
    longer = finetune({**given, "max_steps": 5}, datasets=data)
    assert longer.results["steps"] == 5
    finetune({**given, "learning_rate": 0.5, "resume": "never"}, datasets=data)
    assert (tmp_path / "run.earlier-1" / "results.json").exists()


def test_a_second_writer_is_refused(decoder: Path, tmp_path: Path) -> None:
    from pipeline.lock import only_writer

    given = settings("causal_lm", None, decoder, tmp_path / "run")
    with only_writer(tmp_path / "run"), pytest.raises(UserError, match="another run is writing here"):
        finetune(given, datasets=data_of(read_config("finetune", given)))


def test_nan_is_written_as_it_is_and_never_reaches_the_weights(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings("causal_lm", None, decoder, tmp_path / "run", max_steps=6)
    config = read_config("finetune", given)
    prepared = prepare(config, datasets=data_of(config))
    loss = prepared.task.loss

    def poisoned(model: Any, batch: Any) -> Any:
        value, logits = loss(model, batch)
        poisoned.calls += model.training  # type: ignore[attr-defined]
        bad = model.training and poisoned.calls in (2, 3)  # type: ignore[attr-defined]
        return (value * float("nan") if bad else value), logits

    poisoned.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(prepared.task, "loss", poisoned)
    from pipeline.run import train

    run = train(prepared)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    skipped = [line for line in lines if line["event"] == "skipped"]
    assert [line["step"] for line in skipped] == run.results["skipped_steps"] == [2, 3]
    assert skipped[0]["loss"] is None and skipped[0]["not_finite"]["loss"] == "nan"
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


def test_a_tracker_that_fails_warns_once(
    decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from accelerate.tracking import TensorBoardTracker

    def fail(*arguments: Any, **more: Any) -> None:
        raise ConnectionError("tracker is down")

    given = settings("causal_lm", None, decoder, tmp_path / "run", report_to=["tensorboard"])
    data = data_of(read_config("finetune", given))
    finetune(given, datasets=data)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))
    monkeypatch.setattr(TensorBoardTracker, "log", fail)
    run = finetune({**given, "output_dir": str(tmp_path / "two")}, datasets=data)
    assert run.results["steps"] == 3
    assert len([record for record in caplog.records if "tracker is down" in record.getMessage()]) == 1


def test_plan_says_it_all(encoder: Path, tmp_path: Path) -> None:
    given = settings("text_classification", "freeze", encoder, tmp_path / "run")
    config = read_config("freeze", given)
    console = Console(record=True, width=160, file=io.StringIO())
    print_plan(prepare(config, datasets=data_of(config)), console)
    text = console.export_text()
    for part in ("parameters", "freeze.num_layers 1", "frozen", "memory", "will write", "truncated", "row 1:", "steps"):
        assert part in text
    assert not (tmp_path / "run").exists()


def test_rows_with_nothing_to_learn_are_named(decoder: Path, tmp_path: Path) -> None:
    given = settings("causal_lm prompted", None, decoder, tmp_path / "run")
    given["data"]["max_length"] = 4
    with pytest.raises(DataError, match=r"\d+ of 40 train rows hold nothing to learn"):
        finetune(given, datasets=data_of(read_config("finetune", given)))


def test_unseen_label_is_named_before_a_model_is_loaded(encoder: Path, tmp_path: Path) -> None:
    given = settings("text_classification", None, encoder, tmp_path / "run")
    data = data_of(read_config("finetune", given))
    strange = rows({"text": "text", "label": "label"}, 5).map(lambda row: {"label": "catz"})
    with pytest.raises(DataError, match=r"the validation label 'catz' .* did you mean 'cats'"):
        finetune(given, datasets={"train": data["train"], "validation": strange})


def test_what_does_not_go_together_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"task": "causal_lm", "lora": {"r": 4}, "data": {"prompt_column": "a", "label_column": "b"}}
    given |= {"model": {"model_name_or_path": "x"}, "optim": {"name": "adamww"}, "eval": {"eval_steps": 5}}
    file = tmp_path / "bad.yaml"
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(SystemExit) as stopped:
        main("lora", arguments=[str(file)])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    for part in ("did you mean 'adamw'", "response_column", "label_column", "no validation rows"):
        assert part in message
    assert "Traceback" not in message


def test_recipes_refuse_what_they_are_not(encoder: Path, tmp_path: Path) -> None:
    given = settings("text_classification", "lora", encoder, tmp_path / "run")
    with pytest.raises(ConfigError, match="run it as `graft lora`"):
        run_recipe("finetune", given)
    with pytest.raises(ConfigError, match="use `graft finetune`, freeze or lora"):
        run_recipe("pretrain", settings("text_classification", None, encoder, tmp_path / "run"))
    with pytest.raises(ConfigError, match="there is no freeze section"):
        run_recipe("freeze", settings("text_classification", None, encoder, tmp_path / "run"))
