"""Model cards of made-up run folders: what the hub reads, what a person reads, and nothing that escapes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert "AutoPeftModelForCausalLM.from_pretrained('lora/model')" in text and "![Learning curves](curves.png)" in text
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
