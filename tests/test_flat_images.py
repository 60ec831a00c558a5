"""Images that lie in one folder: predicted as they are, trained on by the list beside them, refused without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.api import read_config, run_recipe
from pipeline.data import load_splits
from pipeline.errors import DataError
from pipeline.predicting import predict
from tests.synthetic import checkpoint_for, settings


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Six pictures, and what they show in a list as the hub's image folders have it."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (20, 20), (200 * (number % 2), 40 * number, 0)).save(folder / f"{number}.png")
    lines = "".join(f"{number}.png,{('dark', 'red')[number % 2]}\n" for number in range(6))
    (folder / "metadata.csv").write_text(f"file_name,label\n{lines}")
    return folder


def test_a_flat_folder_is_read_by_its_list(flat: Path, tmp_path: Path) -> None:
    start = checkpoint_for("image_classification", tmp_path / "start")
    given = settings("image_classification", None, start, tmp_path / "run", max_steps=1)

    def refusal() -> str:
        config = read_config("finetune", {**given, "data": {"train_file": str(flat)}})
        with pytest.raises(DataError) as caught:
            load_splits(config.data, {"image": "image", "label": "label"})
        return str(caught.value)

    assert "metadata.csv:1: no column 'image'" in refusal()
    given["data"] = {"train_file": str(flat), "image_column": "file_name"}
    run = run_recipe("finetune", given)
    assert run.results["label_names"] == ["dark", "red"]
    (flat / "metadata.csv").unlink()
    said = refusal()
    assert said.startswith(f"{flat}: its images lie in no folders") and "beside them that lists path and label" in said
    lines = predict(run.output_dir, str(flat), image_column="image")  # which asks for no labels
    assert [Path(line["image"]).name for line in lines] == [f"{number}.png" for number in range(6)]
