"""The lines of a card that load its model, executed: every task with every strategy, from its folder and from a hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import PeftModel

from pipeline.api import read_config
from pipeline.evaluation import collate
from pipeline.export import logits_of
from pipeline.prepare import prepare
from pipeline.publishing import push
from pipeline.reports import write_card
from pipeline.run import train
from pipeline.strategies import STRATEGIES
from pipeline.tasks import TASKS, Task
from tests.hub_server import Hub
from tests.synthetic import RECIPE_OF, checkpoint_for, data_of, settings

ALL = [(task, strategy) for task in TASKS for strategy in (None, *STRATEGIES)]
STATEMENTS = 3


@dataclass
class Finished:
    """A run folder, and what its model said about one batch before it was saved."""

    folder: Path
    task: Task
    batch: dict[str, torch.Tensor]
    logits: torch.Tensor
    labels: Any


class Runs(dict[tuple[str, str | None], Finished]):
    """Runs of a few steps, each made when it is first asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, key: tuple[str, str | None]) -> Finished:
        task, strategy = key
        place = self.folder / f"{task}-{strategy}"
        checkpoint = checkpoint_for(task, place / "start")
        given = settings(task, strategy, checkpoint, place / "run", eval_batch_size=3)
        config = read_config(RECIPE_OF[strategy], given)
        (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n")
        recipe, typed = RECIPE_OF[strategy], ["graft", RECIPE_OF[strategy], str(place / "it.yaml")]
        prepared = prepare(config, datasets=data_of(config), recipe=recipe, command=typed)
        run = train(prepared)
        batch = collate(prepared.task, prepared.splits["validation"], np.arange(3), seed=0, epoch=0)
        logits = logits_of(run.model.cpu(), prepared.task, batch)
        self[key] = Finished(run.output_dir, prepared.task, batch, logits, run.results["label_names"])
        return self[key]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def python_of(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", card.read_text(), re.S)


def executed(code: str) -> Mapping[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), names)
    return names


def model_in(names: Mapping[str, Any]) -> Any:
    """What was loaded: a pipeline's model, the transformer of a sentence-transformers model, or a model."""
    if "pipe" in names:
        return names["pipe"].model
    return names["model"][0].auto_model if "vectors" in names else names["model"]


def assert_same(names: Mapping[str, Any], run: Finished) -> None:
    model = model_in(names)
    assert torch.allclose(logits_of(model.cpu(), run.task, run.batch), run.logits, atol=1e-6)
    if run.labels:
        assert list(model.config.id2label.values()) == run.labels
    assert {"pipe", "vectors", "tokenizer", "processor"} & set(names)


def test_the_matrix_is_whole() -> None:
    assert len(ALL) == len(TASKS) * (1 + len(STRATEGIES)) >= 30
    assert all(task.purpose or task.__init__ is not Task.__init__ for task in TASKS.values())


@pytest.mark.parametrize(("task", "strategy"), ALL)
def test_a_card_loads_its_model(task: str, strategy: str | None, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs[task, strategy]
    card = write_card(run.folder)
    (code,) = python_of(card)
    body = code.split("\n\n")[1]
    assert len(re.findall(r"^\w+ = ", body, re.M)) <= STATEMENTS
    monkeypatch.chdir(run.folder.parent)
    assert_same(executed(code), run)
    text = card.read_text()
    assert str(run.folder.parent) not in text and "{{" not in text and "{%" not in text
    assert "A model that " in text and run.task.purpose in text
    assert f"```bash\ngraft {RECIPE_OF[strategy]} it.yaml\n```" in text and "(licence: mit)" in text
    assert ModelCard.load(card).data.pipeline_tag == run.task.pipeline_tag


def files_of(folder: Path, base: str | None = None) -> dict[str, bytes]:
    """Path -> content as pushed: the base of an adapter by its name on the hub, or by the last name of its folder."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "adapter_config.json" in files:
        config = json.loads(files["adapter_config.json"])
        config["base_model_name_or_path"] = base or Path(config["base_model_name_or_path"]).name
        files["adapter_config.json"] = json.dumps(config).encode()
    return files


def start_of(run: Finished) -> Path:
    return run.folder.parent / "start"


@pytest.mark.parametrize(("task", "strategy"), ALL)
def test_a_card_loads_its_model_from_a_hub(
    task: str, strategy: str | None, runs: Runs, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a fresh cache; an adapter from its base on the hub, and from the reader's own copy of a base that is not."""
    run = runs[task, strategy]
    adapter = (run.folder / "model" / "adapter_config.json").is_file()
    hub.add("owner/start", files_of(start_of(run)))
    card = write_card(run.folder, "owner/it", hub_base_model_id="owner/start")
    hub.add("owner/it", {**files_of(run.folder / "model", "owner/start"), "README.md": card.read_bytes()})
    ModelCard.load("owner/it").validate()
    assert ModelCard.load("owner/it").data.base_model == "owner/start"
    monkeypatch.chdir(tmp_path)
    assert_same(executed(python_of(card)[0]), run)
    if adapter:
        card = write_card(run.folder, "owner/local")
        hub.add("owner/local", {**files_of(run.folder / "model"), "README.md": card.read_bytes()})
        ModelCard.load("owner/local").validate()
        assert ModelCard.load("owner/local").data.base_model is None
        monkeypatch.chdir(start_of(run).parent)
        assert_same(executed(python_of(card)[0]), run)


@pytest.mark.parametrize(
    ("task", "strategy"),
    [("text_classification", None), ("embedding", None), ("multiple_choice", "lora"), ("image_classification", None)],
)
def test_a_card_on_a_branch_loads_from_that_branch(
    task: str, strategy: str | None, runs: Runs, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter, merged model and whole models; main is empty."""
    run = runs[task, strategy]
    hub.add("owner/start", files_of(start_of(run)))
    push(
        run.folder,
        "owner/it",
        hub_revision="trial",
        hub_base_model_id="owner/start",
        hub_push="both" if strategy else "auto",
    )
    card = tmp_path / "card.md"
    card.write_bytes(hub.files("owner/it", "trial")["README.md"])
    assert "config.json" not in hub.files("owner/it")
    monkeypatch.chdir(tmp_path)
    for code in python_of(card):
        assert_same(executed(code), run)


def write_merged(run: Finished, folder: Path) -> None:
    """The run's model with the adapter added into its weights."""
    kind: Any = getattr(transformers, run.task.model_class)
    config = run.folder / "model" / "config.json"
    given = {"config": transformers.AutoConfig.from_pretrained(config)} if config.is_file() else {}
    adapted = PeftModel.from_pretrained(kind.from_pretrained(start_of(run), **given), str(run.folder / "model"))
    adapted.merge_and_unload().save_pretrained(folder)


@pytest.mark.parametrize("task", ["text_classification", "embedding", "multiple_choice"])
def test_a_card_loads_the_merged_model_beside_an_adapter(
    task: str, runs: Runs, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = runs[task, "lora"], tmp_path / "whole"
    write_merged(run, whole)
    model = files_of(run.folder / "model", "owner/start")
    rest = {name: content for name, content in model.items() if "adapter" not in name and name != "config.json"}
    merged = {f"merged/{name}": content for name, content in (rest | files_of(whole)).items()}
    card = write_card(run.folder, "owner/it", hub_base_model_id="owner/start", merged=True)
    hub.add("owner/start", files_of(start_of(run)))
    hub.add("owner/it", {**model, **merged, "README.md": card.read_bytes()})
    monkeypatch.chdir(tmp_path)
    beside, in_one = python_of(card)
    assert_same(executed(beside), run)
    assert_same(executed(in_one), run)
