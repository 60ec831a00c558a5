"""Model cards of made-up run folders: what the hub reads, what a person reads, and nothing that escapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from pipeline.models import license_of
from pipeline.reports import draw_curves, write_card
from pipeline.safe_text import clean
from tests.fake_run import HOSTILE, fake_run


def front_matter(card: Path) -> dict[str, Any]:
    return yaml.safe_load(card.read_text().split("---\n")[1])


def test_the_card_of_an_adapter(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "lora")
    draw_curves(run)
    card = write_card(run)
    metadata, text = front_matter(card), card.read_text()
    assert card == run / "README.md"
    assert (metadata["base_model"], metadata["base_model_relation"]) == ("acme/tiny-llama", "adapter")
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("peft", "text-generation")
    results = metadata["model-index"][0]["results"][0]
    scores = {metric["type"]: metric["value"] for metric in results["metrics"]}
    assert scores == json.loads((run / "results.json").read_text())["metrics"]["validation"]
    assert "PeftModel.from_pretrained(base, 'lora/model')" in text and "![Learning curves](curves.png)" in text
    assert "graft train config.yaml" in text and "torch 2.13.0" in text and "0123456789ab" in text
    assert "40.9k of 599k parameters (6.83 %)" in text and str(tmp_path) not in text


def test_the_card_names_where_it_is_pushed(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "full", strategies=(), test=True, results={"start": "random"})
    card = write_card(run, "me/stories")
    metadata, text = front_matter(card), card.read_text()
    assert metadata["library_name"] == "transformers" and "base_model" not in metadata
    assert metadata["model-index"][0]["name"] == "stories"
    assert [one["dataset"]["split"] for one in metadata["model-index"][0]["results"]] == ["validation", "test"]
    assert "pipeline('text-generation', model='me/stories')" in text and "random weights" in text
    assert "curves.png" not in text


@pytest.mark.parametrize(
    ("model", "base"),
    [
        ({"name": "acme/tiny", "revision": None}, "acme/tiny"),
        ({"name": "bert-base-uncased", "revision": "a" * 40}, "bert-base-uncased"),
        ({"name": "bert-base-uncased", "revision": None, "local": False}, "bert-base-uncased"),
        ({"name": "model", "revision": None}, None),
        ({"name": "acme/tiny", "revision": None, "local": True}, None),
        ({"name": "runs/here", "revision": None}, None),
        ({"name": "./runs/x/model", "revision": None}, None),
        ({"name": "/home/me/model", "revision": None}, None),
        ({"name": "a'b\n---\nx: y", "revision": "main"}, None),
        ({"name": None, "revision": None}, None),
        (None, None),
    ],
)
def test_the_base_model_is_a_hub_id_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Any, base: str | None
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = write_card(fake_run(tmp_path / "run", manifest={"model": model}))
    assert front_matter(card).get("base_model") == base
    assert "/home/me" not in card.read_text()
    assert ("https://huggingface.co/" in card.read_text()) == (base is not None)


def test_a_card_cannot_be_broken_by_what_it_holds(tmp_path: Path) -> None:
    run = fake_run(
        tmp_path / "it's $a|b",
        results={"metrics": {"validation": {"loss": 1.0, HOSTILE: 0.5}}, "strategies": ["---", HOSTILE]},
        manifest={"command": "graft train '```\n# not a heading", "versions": {"torch": HOSTILE}},
    )
    card = write_card(run)
    metadata, text = front_matter(card), card.read_text()
    assert metadata["model-index"][0]["results"][0]["metrics"][1]["type"] == clean(HOSTILE)
    assert "````bash\ngraft train '```\n# not a heading\n````" in text
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body and "\x1b" not in body and "\u202e" not in body
    code = re.search(r"```python\n(.*?)\n```", text, re.S)
    assert code is not None
    compile(code.group(1), "card", "exec")


HUB_DATA = {
    "name": "acme/stories",
    "config": "short",
    "revision": "d" * 40,
    "splits": {"train": "train", "validation": "dev", "test": None},
    "max_eval_samples": None,
}
ACCURACY = {"main_metric": "token_accuracy", "greater_is_better": True}


@pytest.mark.parametrize("strategies", [("lora",), (), ("freeze",)])
@pytest.mark.parametrize("local", [True, False])
def test_the_metadata_is_what_the_hub_reads(tmp_path: Path, strategies: tuple[str, ...], local: bool) -> None:
    """There and back through the hub's own classes nothing changes, also for an adapter on a local base."""
    intervals = {"validation": {"loss": [1.5, 1.6]}}
    run = fake_run(
        tmp_path / "run",
        strategies=strategies,
        results={"intervals": intervals},
        manifest={"model": {"name": "tiny", "local": local, "license": "mit"}, "dataset": HUB_DATA},
    )
    card = ModelCard.load(write_card(run))
    again = ModelCard(f"---\n{card.data.to_yaml()}\n---\n")
    assert again.data.to_dict() == card.data.to_dict() == front_matter(run / "README.md")
    assert card.data.base_model == (None if local else "tiny") and card.data.license == "mit"
    assert card.data.datasets == ["acme/stories"]
    found = {result.metric_type: result for result in card.data.eval_results or []}
    assert found["loss"].metric_args == {"confidence_level": 0.95, "confidence_interval": [1.5, 1.6]}
    assert found["loss"].dataset_args == {"num_samples": 300, "fingerprint": "b" * 64}
    assert (found["loss"].dataset_type, found["loss"].dataset_split) == ("acme/stories", "dev")
    assert found["perplexity"].metric_args is None


def test_an_adapter_on_a_local_base_says_so(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", manifest={"model": {"name": "tiny", "local": True}})
    here = write_card(run).read_text()
    assert "the local checkpoint <code>tiny</code> (licence: not stated)" in here
    assert "PeftConfig.from_pretrained('run/model').base_model_name_or_path" in here
    pushed = write_card(run, "me/run").read_text()
    assert "'tiny',  # the folder of your copy of the base model" in pushed and "PeftConfig" not in pushed
    assert "trained on a local copy of <code>tiny</code>" in pushed and "base_model" not in front_matter(
        run / "README.md"
    )
    known = write_card(run, "me/run", hub_base_model_id="acme/tiny").read_text()
    assert front_matter(run / "README.md")["base_model"] == "acme/tiny"
    assert "    'acme/tiny',\n" in known and "local copy" not in known and "revision=" not in known


@pytest.mark.parametrize(
    ("stated", "front", "words"),
    [
        ({"license": "apache-2.0"}, ("apache-2.0", None), "apache-2.0"),
        ({"license": "other", "license_name": "My Terms"}, ("other", "my-terms"), "my-terms"),
        ({"license": "made by me: ask"}, ("other", "made-by-me-ask"), "made-by-me-ask"),
        ({"license": ["mit"]}, (None, None), "not stated"),
        ({"license": "???"}, (None, None), "not stated"),
        ({}, (None, None), "not stated"),
    ],
)
def test_the_licence_is_that_of_the_start_model(tmp_path: Path, stated: Any, front: Any, words: str) -> None:
    model = {"name": "acme/tiny", "local": False, **stated}
    card = write_card(fake_run(tmp_path / "run", manifest={"model": model}))
    metadata = front_matter(card)
    assert (metadata.get("license"), metadata.get("license_name")) == front
    assert f"(licence: {words})" in card.read_text()
    random = write_card(fake_run(tmp_path / "random", results={"start": "random"}, manifest={"model": model}))
    assert "license" not in front_matter(random) and "licence" not in random.read_text()


def test_where_a_licence_is_found(tmp_path: Path) -> None:
    for folder, text in {
        "named": "---\nlicense: mit\ntags: [x]\n---\n# A model",
        "none": "# A model",
        "broken": "---\n: [\n---\n",
        "list": "---\nlicense: [mit]\n---\n",
        "run": "---\nlicense: other\nlicense_name: mine\n---\n",
    }.items():
        (tmp_path / folder / "model").mkdir(parents=True)
        (tmp_path / folder / "README.md").write_text(text)
    (tmp_path / "run" / "results.json").write_text("{}")
    found = {name: license_of(str(tmp_path / name)) for name in ("named", "none", "broken", "list", "absent")}
    assert found == {"named": {"license": "mit"}, "none": {}, "broken": {}, "list": {}, "absent": {}}
    assert license_of(str(tmp_path / "run" / "model")) == {"license": "other", "license_name": "mine"}
    assert license_of(str(tmp_path / "named" / "model")) == {}, "a folder above that is no run says nothing"
    assert license_of("acme/never-seen") == {}


def test_a_score_on_a_benchmark_of_the_hub(tmp_path: Path) -> None:
    intervals = {"validation": {"token_accuracy": [0.3, 0.4]}}
    run = fake_run(tmp_path / "run", results={**ACCURACY, "intervals": intervals}, manifest={"dataset": HUB_DATA})
    write_card(run)
    (file,) = (run / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("acme/stories", "short", "d" * 40)
    assert entry.value == json.loads((run / "results.json").read_text())["metrics"]["validation"]["token_accuracy"]
    assert entry.notes is not None and "split dev, 300 samples, 95 % interval 0.3000 to 0.4000" in entry.notes


@pytest.mark.parametrize(
    ("results", "data"),
    [
        ({}, HUB_DATA),  # a loss
        (ACCURACY, None),
        (ACCURACY, {**HUB_DATA, "max_eval_samples": 10}),
        (ACCURACY, {**HUB_DATA, "splits": {"validation": None}}),  # drawn from the training rows
        (ACCURACY, {**HUB_DATA, "name": "/home/me/stories"}),
    ],
)
def test_what_is_no_score_on_a_benchmark(tmp_path: Path, results: Any, data: Any) -> None:
    run = fake_run(tmp_path / "run", results=results, manifest={"dataset": data})
    write_card(run)
    assert not (run / ".eval_results").exists() and "/home/me" not in (run / "README.md").read_text()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = write_card(fake_run(tmp_path / "one")).read_text()
    assert "start model could do: not measured" in text and "Bias: not measured" in text
    measured = {"forgetting": {"bits_per_byte": 0.25, "why": "x"}, "bias": {"gap": 0.5}}
    text = write_card(fake_run(tmp_path / "two", results=measured)).read_text()
    assert "start model could do: bits\\_per\\_byte 0.2500\n- Bias: gap 0.5000" in text


def test_data_and_settings_are_told(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", manifest={"dataset": HUB_DATA})
    shared = {"exact": 2, "normalized": 3, "share": 0.01}
    report = {
        "train": {"labels": {"cats": 75, "dogs": 25}, "truncated": 5, "truncated_share": 0.05, "max_length": 64},
        "validation": {"in_train": shared},
        "test": {"in_train": {"exact": 0, "normalized": 0, "share": 0.0}},
    }
    (run / "data.json").write_text(json.dumps(report))
    config = {
        "lora": {"r": 8, "dropout": None},
        "optim": {"name": "adamw", "learning_rate": 1e-4},
        "train": {"seed": 3},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_card(run).read_text()
    for line in (
        "- 3 (1 %) of the validation rows are also training rows.",
        "- None of the test rows are also training rows.",
        "- 5 % of the train rows were cut at 64 tokens.",
        "- Labels of the training rows: <code>cats</code> 75 %, <code>dogs</code> 25 %.",
        "From [acme/stories](https://huggingface.co/datasets/acme/stories) (<code>short</code>, ",
        "| strategy | lora (r 8) |",
        "| optimizer | adamw |",
        "| learning_rate | 0.0001 |",
        "| seed | 3 |",
    ):
        assert line in text, line
    (run / "data.json").write_text('{"train": ')
    (run / "config.yaml").write_text(": [")
    assert "Labels of the training rows" not in write_card(run).read_text()


def test_no_path_and_no_secret_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "canary-in-environment")
    token = "hf_" + "a" * 34
    command = ["graft", "lora", "/home/me/my runs/x.yaml", f"--note={token}", "--data.train_file", "~/a/b.csv"]
    settings = {"lora": {"target": "/home/me/x.txt", "note": "canary-in-environment"}}
    run = fake_run(tmp_path / "run", manifest={"command": command, "model": {"name": "/home/me/base", "local": True}})
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    text = write_card(run, "me/run").read_text()
    assert "graft lora x.yaml --note=*** --data.train_file b.csv" in text and "target x.txt" in text
    assert "/home/me" not in text and "canary" not in text and token not in text


def test_the_merged_model_of_a_repository_is_loaded_too(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run")
    text = write_card(run, "me/run", merged=True).read_text()
    blocks = re.findall(r"```python\n(.*?)\n```", text, re.S)
    assert len(blocks) == 2 and "PeftModel" in blocks[0]
    assert "snapshot_download('me/run', allow_patterns='merged/*') + '/merged'" in blocks[1]
    assert "pipeline('text-generation', model=where)" in blocks[1]


def test_a_folder_of_an_older_graft_has_a_card_all_the_same(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", results={"model_class": None, "purpose": None, "pipeline_tag": None})
    text = write_card(run).read_text()
    assert "does the task causal\\_lm" in text and "Not recorded; the run was made by an older graft." in text
