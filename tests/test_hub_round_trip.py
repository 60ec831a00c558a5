"""What a run pushes is what plain transformers, peft and sentence-transformers load: the same numbers, and no more."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from huggingface_hub import snapshot_download
from sentence_transformers import SentenceTransformer

from pipeline.api import read_config, run_recipe
from pipeline.hub.upload import Pushed
from pipeline.publishing import push
from pipeline.run import Run
from tests.hub_online import online
from tests.hub_server import OWNER, Hub
from tests.synthetic import RECIPE_OF, SHORT_MATRIX, checkpoint_for, data_of, model_class, settings

Runs = Callable[[str, str | None], Run]
TRAINED = list(dict.fromkeys([*SHORT_MATRIX, ("text_classification", "lora"), ("embedding", "lora")]))
ADAPTERS = [(task, strategy) for task, strategy in TRAINED if strategy == "lora"]
BASE = "owner/base"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Finished runs, each trained once."""
    made: dict[tuple[str, str | None], Run] = {}

    def run(variant: str, strategy: str | None) -> Run:
        if (variant, strategy) not in made:
            folder = tmp_path_factory.mktemp("private-place")
            given = settings(variant, strategy, checkpoint_for(variant, folder / "start"), folder / "run")
            config = read_config(RECIPE_OF[strategy], given)
            made[variant, strategy] = run_recipe(RECIPE_OF[strategy], given, datasets=data_of(config))
            made[variant, strategy].model.eval()
        return made[variant, strategy]

    return run


@pytest.fixture
def fresh(hub: Hub, tmp_path: Path) -> Iterator[None]:
    """Nothing of what was pushed is in this cache."""
    with online(hub, tmp_path / "other-home"):
        yield


def outputs(model: Any) -> torch.Tensor:
    """What a model says about made-up rows of its kind."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.arange(7, 19)[None]
    given: dict[str, Any] = {"input_ids": ids}
    if base.main_input_name == "pixel_values":
        given = {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)}
    elif base.config.is_encoder_decoder:
        given |= {"decoder_input_ids": ids}
    elif type(base).__name__.endswith("ForMultipleChoice"):
        given = {"input_ids": torch.stack([ids, ids.flip(1)], dim=1)}
    with torch.no_grad():
        return next(iter(model.cpu().eval()(**given).values()))


def push_base(hub: Hub, run: Run) -> None:
    start = run.output_dir.parent / "start"
    hub.add(BASE, {path.name: path.read_bytes() for path in start.iterdir() if path.is_file()})


@pytest.mark.parametrize(("task", "strategy"), [one for one in TRAINED if one not in ADAPTERS])
def test_a_whole_model_comes_back(
    task: str, strategy: str | None, runs: Runs, hub: Hub, request: pytest.FixtureRequest
) -> None:
    run = runs(task, strategy)
    pushed = push(run.output_dir, "owner/mine")
    assert pushed.changed and pushed.notes == [] and hub.repository("owner/mine").private
    assert len(hub.commits("owner/mine")) == 1
    saved = {path.relative_to(run.output_dir / "model").as_posix() for path in (run.output_dir / "model").rglob("*.*")}
    assert saved <= set(hub.files("owner/mine")), "a file that the model needs is on no list"
    request.getfixturevalue("fresh")
    again = getattr(transformers, model_class(task)).from_pretrained("owner/mine")
    assert torch.equal(outputs(again), outputs(run.model))
    if task == "embedding":
        theirs = SentenceTransformer("owner/mine").encode(["the cat sat"])
        assert (theirs == SentenceTransformer(str(run.output_dir / "model")).encode(["the cat sat"])).all()


@pytest.mark.parametrize(("task", "strategy"), ADAPTERS)
def test_an_adapter_comes_back(task: str, strategy: str, runs: Runs, hub: Hub, request: pytest.FixtureRequest) -> None:
    """Alone, on the base's name on the hub; and both, with the whole model in a folder."""
    import peft

    run = runs(task, strategy)
    push_base(hub, run)
    push(run.output_dir, "owner/adapter", hub_base_model_id=BASE)
    both = push(run.output_dir, "owner/both", hub_base_model_id=BASE, hub_push="both")
    assert both.changed and "merged/model.safetensors" in hub.files("owner/both")
    assert "model.safetensors" not in hub.files("owner/adapter")
    request.getfixturevalue("fresh")
    name = model_class(task).removeprefix("AutoModel")
    kind = getattr(peft, f"AutoPeftModel{name or 'ForFeatureExtraction'}")
    more = {"num_labels": 3} if task == "text_classification" else {}
    for repository in ("owner/adapter", "owner/both"):
        assert torch.equal(outputs(kind.from_pretrained(repository, **more)), outputs(run.model))
    folder = f"{snapshot_download('owner/both', allow_patterns='merged/*')}/merged"
    whole = getattr(transformers, model_class(task)).from_pretrained(folder)
    torch.testing.assert_close(outputs(whole), outputs(run.model), rtol=1e-4, atol=1e-5)
    assert "allow_patterns='merged/*'" in hub.files("owner/both")["README.md"].decode()


@pytest.mark.parametrize(("task", "strategy"), ADAPTERS)
def test_an_adapter_on_a_folder_of_this_machine_is_pushed_merged(
    task: str, strategy: str, runs: Runs, hub: Hub, request: pytest.FixtureRequest
) -> None:
    run = runs(task, strategy)
    pushed = push(run.output_dir, "owner/whole")
    files = hub.files("owner/whole")
    assert "pushed merged" in pushed.notes[0] and not any(name.startswith("adapter") for name in files)
    assert yaml.safe_load(files["README.md"].decode().split("---\n")[1])["library_name"] != "peft"
    request.getfixturevalue("fresh")
    again = getattr(transformers, model_class(task)).from_pretrained("owner/whole")
    torch.testing.assert_close(outputs(again), outputs(run.model), rtol=1e-4, atol=1e-5)
    if task == "embedding":
        assert SentenceTransformer("owner/whole").encode(["the cat sat"]).shape == (1, 32)


@pytest.mark.promise(15, "second pushes that sent nothing")
def test_pushing_again_sends_nothing(runs: Runs, hub: Hub) -> None:
    run = runs("text_classification", None)
    first = push(run.output_dir, "mine", hub_tag="v1")
    sent = len(hub.asked("PUT /lfs/upload"))
    second = push(run.output_dir, "mine", hub_tag="v1")
    assert sent and first.repo_id == "owner/mine" and first.commit == second.commit and not second.changed
    assert str(second).startswith("nothing to push") and hub.commits("owner/mine")[1:] == []
    assert len(hub.asked("PUT /lfs/upload")) == sent and len(hub.asked("POST .*/commit/")) == 1
    assert hub.files("owner/mine", "v1") == hub.files("owner/mine")


def test_what_an_earlier_push_left_is_taken_away_and_what_others_put_there_stays(runs: Runs, hub: Hub) -> None:
    run = runs("causal_lm", "lora")
    push(run.output_dir, "owner/mine", hub_base_model_id=BASE)
    hub.add(
        "owner/mine",
        {"LICENSE": b"mine", "model-00001-of-00002.safetensors": b"old", "notes/config.json": b"{}", "me.png": b"I"},
    )
    push(run.output_dir, "owner/mine", hub_push="merged")
    names = set(hub.files("owner/mine"))
    assert {"LICENSE", "notes/config.json", "me.png", "model.safetensors"} <= names
    assert not {"adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors"} & names


def test_branch_tag_and_pull_request(runs: Runs, hub: Hub) -> None:
    run = runs("text_classification", None)
    hub.add("owner/mine", {"README.md": b"hello"})
    there = push(run.output_dir, "owner/mine", hub_revision="trials/one", hub_tag="v1")
    assert there.url.endswith("/owner/mine/tree/trials/one") and set(hub.files("owner/mine")) == {"README.md"}
    assert "model.safetensors" in hub.files("owner/mine", "trials/one")
    assert hub.files("owner/mine", "v1") == hub.files("owner/mine", "trials/one")
    asked = push(run.output_dir, "owner/mine", hub_create_pr=True)
    assert asked.pull_request and asked.pull_request.endswith("/discussions/1")
    assert "model.safetensors" in hub.files("owner/mine", "refs/pr/1")
    again = push(run.output_dir, "owner/mine", hub_create_pr=True)
    assert not again.changed and "discussions/1" in str(again)
    assert not [ref for ref in hub.repository("owner/mine").refs if ref.endswith("pr/2")]


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_that_is_there_keeps_its_visibility(private: bool, runs: Runs, hub: Hub) -> None:
    hub.add("owner/mine", {"README.md": b"hello"}, private=private)
    pushed = push(runs("text_classification", None).output_dir, "owner/mine", hub_private_repo=not private)
    assert hub.repository("owner/mine").private == private and "it stays so" in pushed.notes[0]
    assert not hub.asked("/settings") and not hub.asked("/repos/create")


def test_a_new_repository_is_public_only_when_asked(runs: Runs, hub: Hub) -> None:
    push(runs("text_classification", None).output_dir, "owner/mine", hub_private_repo=False)
    assert not hub.repository("owner/mine").private


def place_of(run: Run) -> list[str]:
    """What names this machine: folders of the run, of its data and of the home."""
    return [str(run.output_dir.parent.parent), run.output_dir.parent.name, str(Path.home()), os.environ["HF_HOME"]]


@pytest.mark.promise(15, "pushed repositories without a local folder or a byte of the token")
@pytest.mark.parametrize(("task", "strategy"), TRAINED)
def test_no_byte_names_a_folder_or_holds_the_token(task: str, strategy: str | None, runs: Runs, hub: Hub) -> None:
    run = runs(task, strategy)
    (run.output_dir / "model" / "training_args.bin").write_bytes(b"pickled")
    config = yaml.safe_load((run.output_dir / "config.yaml").read_text())
    config["data"] |= {"train_file": [f"{run.output_dir.parent}/my rows/a.csv", "~/b.csv", "c/d.csv"]}
    config["data"] |= {"validation_file": "/srv/secret place/x.jsonl"}
    manifest = json.loads((run.output_dir / "manifest.json").read_text())
    manifest["command"] = f"graft lora '{run.output_dir.parent}/my file.yaml' --train_file=/srv/secret/x.csv"
    folder = run.output_dir.parent / "altered"
    os.makedirs(folder, exist_ok=True)
    for path in run.output_dir.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    for name, text in (("config.yaml", yaml.safe_dump(config)), ("manifest.json", json.dumps(manifest))):
        (folder / name).unlink()
        (folder / name).write_text(text)
    kinds = ("adapter", "both") if strategy == "lora" else ("auto",)
    for kind in kinds:
        pushed: Pushed = push(folder, f"owner/{kind}", hub_push=kind)
        files = hub.files(pushed.repo_id)
        found = [
            f"{name}: {word}"
            for name, content in files.items()
            for word in [*place_of(run), OWNER, "/srv", "secret"]
            if word.encode() in content
        ]
        assert found == []
        sent = yaml.safe_load(files["config.yaml"])["data"]
        assert sent["train_file"] == ["a.csv", "b.csv", "c/d.csv"] and sent["validation_file"] == "x.jsonl"
        assert json.loads(files["manifest.json"])["command"] == "graft lora 'my file.yaml' --train_file=x.csv"
        assert "training_args.bin" not in files and "checkpoints" not in str(sorted(files))
        assert any("training_args.bin" in note for note in pushed.notes)
        if strategy == "lora":
            assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "start"
    (run.output_dir / "model" / "training_args.bin").unlink()
