"""Embeddings: which candidates compete, that the batch is one however it is cut, and that others load the model."""

from __future__ import annotations

import importlib.util
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.across_rows import whole_batch
from pipeline.api import read_config, run_recipe
from pipeline.data.batching import MicroBatch
from pipeline.errors import ConfigError
from pipeline.prepare import prepare
from pipeline.tasks.embedding import Embedding
from pipeline.tasks.ranking import competition, rank_of_positive
from pipeline.tasks.sentence_files import pooling_of
from tests.synthetic import checkpoint_for, data_of, settings
from tests.test_invariants import weights, worst_difference

LIBRARY = "sentence_transformers"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint_for("embedding", tmp_path_factory.mktemp("start"))


def run_with(checkpoint: Path, folder: Path, *, task: dict[str, Any] | None = None, **more: Any) -> Any:
    given = settings("embedding", None, checkpoint, folder, **{"max_steps": 1, **more})
    given["task"] = {**given["task"], **(task or {})}
    return run_recipe("finetune", given, datasets=data_of(read_config("finetune", given)))


def test_what_is_known_to_be_no_negative_does_not_compete() -> None:
    """Rows: anchor, positive, negative as numbers of texts; rows 0 and 1 share a positive, 0 and 3 an anchor."""
    texts = torch.tensor([[1, 10, 20], [2, 10, 21], [3, 12, 10], [1, 13, 23]])
    vectors = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    scores = competition(vectors, texts, torch.arange(4))
    out = {(0, 1), (0, 3), (1, 0), (3, 0), (0, 6), (1, 6)}  # column 6 is the negative of row 2: the text 10 again
    assert {(int(row), int(column)) for row, column in (scores == -torch.inf).nonzero()} == out
    for row in range(4):
        for column in set(range(8)) - {there for here, there in out if here == row}:
            other = vectors[column % 4, 1 + column // 4]
            expected = torch.cosine_similarity(vectors[row, 0], other, dim=0)
            assert scores[row, column] == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(competition(vectors, texts, torch.tensor([2, 3])), scores[2:])


def test_rank_counts_what_is_nearer_and_nan_comes_last() -> None:
    eye = torch.eye(3)
    vectors = torch.stack([eye, torch.stack([eye[0], eye[0], eye[2]])], dim=1)
    texts = torch.tensor([[1, 4], [2, 5], [3, 6]])
    # row 1's positive lies on row 0's anchor, as near to its own as the two others
    assert rank_of_positive(vectors, texts, torch.arange(3)).tolist() == [1, 1, 1]
    vectors[1, 0] = eye[2]
    assert rank_of_positive(vectors, texts, torch.arange(3)).tolist() == [1, 2, 1]
    vectors[1, 0] = torch.nan
    assert rank_of_positive(vectors, texts, torch.tensor([1])).tolist() == [4]


def test_second_pass_draws_what_the_first_one_drew(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout in both passes; otherwise the gradient would belong to other embeddings."""
    seen: list[torch.Tensor] = []
    represent = Embedding.represent

    def watched(self: Embedding, model: Any, batch: Any) -> Any:
        vectors, columns = represent(self, model, batch)
        if model.training:
            seen.append(vectors.detach())
        return vectors, columns

    monkeypatch.setattr(Embedding, "represent", watched)
    run_with(checkpoint, tmp_path / "run", micro_batch_size=3, dropout=0.3)
    assert len(seen) == 6
    assert all(torch.equal(first, second) for first, second in zip(seen[:3], seen[3:], strict=True))


def test_out_of_memory_in_the_first_pass_halves(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd: dict[str, Any] = {"name": "sgd", "momentum": 0.0, "learning_rate": 0.1, "train_batch_size": 7}
    run_with(checkpoint, tmp_path / "fits", **sgd)
    represent = Embedding.represent

    def narrow(self: Embedding, model: Any, batch: Any) -> Any:
        if model.training and len(batch["texts"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return represent(self, model, batch)

    monkeypatch.setattr(Embedding, "represent", narrow)
    run_with(checkpoint, tmp_path / "halved", micro_batch_size=6, **sgd)
    lines = (tmp_path / "halved" / "metrics.jsonl").read_text().splitlines()
    halved = [line["micro_batch_size"] for line in map(json.loads, lines) if line["event"] == "out_of_memory"]
    assert halved == [2]
    assert worst_difference(weights(tmp_path / "fits"), weights(tmp_path / "halved")) < 2e-6


@pytest.mark.parametrize("here", [True, False])
def test_out_of_memory_in_the_first_pass_is_told_to_all(here: bool) -> None:
    """The others would wait for its embeddings: each says how it went before any are sent."""
    said = []

    def represent(model: Any, batch: Any) -> Any:
        if here:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(1, 2, 3), {}

    def total(unfit: bool) -> list[float]:
        said.append(unfit)
        return [1.0]

    accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=nullcontext)
    training: Any = SimpleNamespace(
        task=SimpleNamespace(across_rows=True, represent=represent),
        processes=SimpleNamespace(count=2, total=total),
        model=torch.nn.Linear(1, 1),
        accelerator=accelerator,
    )
    portion: Any = SimpleNamespace(batches=[{}], parts=[MicroBatch(np.array([0]))])
    with pytest.raises(MemoryError, match="a process has run out of memory"):
        whole_batch(training, portion, lambda: None)
    assert said == [here]


def test_loss_of_a_split_does_not_depend_on_how_it_is_cut(checkpoint: Path, tmp_path: Path) -> None:
    """13 rows in batches of 13, 5 and 1; in groups of 4 they compete with fewer, so that loss is another."""
    found = [run_with(checkpoint, tmp_path / str(n), max_steps=0, eval_batch_size=n).metrics for n in (13, 5, 1)]
    assert found[0]["loss"] > 0.5
    for other in found[1:]:
        assert other == {key: pytest.approx(value, rel=1e-5) for key, value in found[0].items()}
    grouped = run_with(checkpoint, tmp_path / "grouped", task={"eval_group_size": 4}, max_steps=0).metrics
    assert grouped["loss"] < found[0]["loss"] - 0.1 and grouped["mrr_at10"] == found[0]["mrr_at10"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_every_parameter_that_moves_has_a_gradient(checkpoint: Path, tmp_path: Path, pooling: str) -> None:
    """A data-parallel wrapper waits for each; the pooler of a BERT, which is not used, never has one."""
    given = settings("embedding", None, checkpoint, tmp_path / "run", task={"name": "embedding", "pooling": pooling})
    config = read_config("finetune", given)
    prepared = prepare(config, datasets=data_of(config))
    rows = [prepared.splits["train"][row] for row in range(4)]
    prepared.task.loss(prepared.model, prepared.task.collate(rows, []))[0].backward()
    moving = {name: value.grad for name, value in prepared.model.named_parameters() if value.requires_grad}
    assert all(gradient is not None for gradient in moving.values())
    still = [name for name, value in prepared.model.named_parameters() if not value.requires_grad]
    assert still == ["pooler.dense.weight", "pooler.dense.bias"] and len(moving) > 20


def test_pooling_is_read_from_a_sentence_transformers_folder(tmp_path: Path) -> None:
    kinds = ["Transformer", "Pooling"]

    def write(settings: dict[str, Any]) -> None:
        modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"1_{kind}"} for kind in kinds]
        (tmp_path / "1_Pooling").mkdir(exist_ok=True)
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(settings))

    assert pooling_of(str(tmp_path), None) is None
    write({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    assert pooling_of(str(tmp_path), None) == "cls"
    write({"pooling_mode": "mean"})
    assert pooling_of(str(tmp_path), None) == "mean"
    write({"pooling_mode": "max"})
    with pytest.raises(ConfigError, match="pools by max; expected mean or cls"):
        pooling_of(str(tmp_path), None)
    kinds.append("Dense")
    write({"pooling_mode": "mean"})
    with pytest.raises(ConfigError, match="with Dense, which this task neither trains nor saves"):
        pooling_of(str(tmp_path), None)


@pytest.mark.skipif(importlib.util.find_spec(LIBRARY) is None, reason=f"{LIBRARY} is not installed")
@pytest.mark.filterwarnings("ignore")  # of the other library and what it imports
@pytest.mark.parametrize(
    ("pooling", "normalize", "strategy"), [("mean", True, None), ("cls", False, None), ("mean", True, "lora")]
)
def test_sentence_transformers_gives_the_same_embeddings(
    checkpoint: Path, tmp_path: Path, pooling: str, normalize: bool, strategy: str | None
) -> None:
    library: Any = importlib.import_module(LIBRARY)
    given = settings("embedding", strategy, checkpoint, tmp_path / "run", data={"max_length": 12})
    given["task"] = {"name": "embedding", "pooling": pooling, "normalize": normalize}
    config = read_config("lora" if strategy else "finetune", given)
    data = data_of(config)
    run = run_recipe("lora" if strategy else "finetune", given, datasets=data)
    task = prepare(config, datasets=data).task
    texts = data["validation"]["anchor"]
    features = task.encode({"anchor": texts, "positive": data["validation"]["positive"]})
    rows = [dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)]
    with torch.no_grad():
        ours = task.represent(run.model.eval().cpu(), task.collate(rows, []))[0][:, 0]
    ours = torch.nn.functional.normalize(ours, dim=-1) if normalize else ours
    theirs = library.SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert theirs.max_seq_length == 12 and theirs.similarity_fn_name == "cosine"
    np.testing.assert_allclose(theirs.encode(texts), ours.numpy(), atol=1e-5)
