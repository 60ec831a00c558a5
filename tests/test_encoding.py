"""What the cache of encoded rows depends on, and what is shown of them, for every task."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.api import read_config
from pipeline.data import DataConfig
from pipeline.encoding import code_files, code_of
from pipeline.evaluation import collate
from pipeline.reading import read
from pipeline.stopping import StopRequest
from pipeline.tasks import TASKS
from tests.synthetic import VARIANTS, checkpoint_for, data_of, settings, task_of

HOME = Path(pipeline.__file__).parent
SAID: dict[str, Callable[[Any], str]] = {
    "text_classification": lambda row: row["label"],
    "text_classification pair": lambda row: row["label"],
    "text_classification multi-label": lambda row: ", ".join(sorted(row["label"])),
    "text_classification regression": lambda row: f"{row['label']:g}",
    "image_classification": lambda row: row["label"],
    "multiple_choice": lambda row: f"choice {row['choices'].index(row['label'])}",
    "embedding scored": lambda row: f"cosine {row['score'] / 3:.4g}",
    "seq2seq": lambda row: f"{row['target']}[EOS]".replace(" ", "Ġ"),
}
"""What is to be answered for a row, where the input does not say it."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_task(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of our files whose code runs within `encode` is in the key; a dry run is shown what is to be answered."""
    kind, ran = task_of(variant), set()
    encode = kind.encode

    def traced(self: Any, rows: Any) -> Any:
        sys.setprofile(lambda frame, event, argument: ran.add(frame.f_code.co_filename))
        try:
            return encode(self, rows)
        finally:
            sys.setprofile(None)

    monkeypatch.setattr(kind, "encode", traced)
    given = settings(
        variant, None, checkpoint_for(variant, tmp_path / "start"), tmp_path / "run", cache_dir=str(tmp_path)
    )
    config = read_config("finetune", given)
    data = read(config, data_of(config), StopRequest())
    ours = {Path(file) for file in ran if Path(file).is_relative_to(HOME)}
    assert ours and ours <= set(code_files(kind))
    ran.clear()
    read(config, data_of(config), StopRequest())
    assert not ran, "rows that are kept were encoded again"
    if variant in SAID:
        batch = collate(data.task, data.splits["train"], np.arange(2), seed=0, epoch=0)
        pieces = data.task.show(batch, 1)
        said = "".join(piece for piece, learned in pieces if learned)
        assert said == SAID[variant](data.rows["train"][1])


def test_a_change_in_a_helper_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of the user's own in a package: the file beside it counts too."""
    package = tmp_path / "own_tasks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "helper.py").write_text("SIZE = 1\n")
    (package / "mine.py").write_text("from pipeline.tasks import Task\n\nclass Mine(Task):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    task = importlib.import_module("own_tasks.mine").Mine(None, DataConfig(train_file="none"))
    before = code_of(task)
    assert code_of(task) == before
    (package / "helper.py").write_text("SIZE = 2\n")
    assert code_of(task) != before
    assert {HOME / "tasks" / "chat.py", HOME / "data" / "packing.py"} <= set(code_files(TASKS["masked_lm"]))
