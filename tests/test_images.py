"""Images: the same rows from every kind of file, bad ones named, changed at random only while training."""

from __future__ import annotations

import csv
import io
import json
import logging
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from rich.console import Console
from transformers import ViTImageProcessorPil, pipeline

from pipeline.api import read_config, run_recipe
from pipeline.data import DataConfig, fingerprint, load_splits, open_image
from pipeline.dry_run import print_plan
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation import collate
from pipeline.models import ModelConfig, load_image_processor
from pipeline.prepare import Prepared, prepare
from pipeline.tasks.augmentation import RandomResizedCrop, flipped, random_crop, random_resized_crop
from tests.synthetic import checkpoint_for, data_of, settings
from tests.tiny import tiny_checkpoint, tiny_config

COLUMNS: dict[str, Any] = {"image": "image", "label": "label"}


def load(**given: Any) -> Dataset:
    return load_splits(DataConfig(**given), COLUMNS)["train"]


def message(**given: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(**given)
    return str(caught.value)


def png(seed: int, size: tuple[int, int] = (12, 10)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six images of two classes, with files beside them that are no images."""
    for number in range(6):
        path = tmp_path / "pictures" / ("cat" if number < 3 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "pictures" / "LICENCE").write_text("free")
    (tmp_path / "pictures" / "cat" / ".hidden.png").write_bytes(b"")
    return tmp_path / "pictures"


def pixels_of(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image)


def zipped(folder: Path, file: Path) -> str:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    return str(file)


def test_the_same_images_are_the_same_rows_in_every_kind_of_file(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(pictures.glob("*/?.png"))
    rows = [{"image": f"pictures/{path.parent.name}/{path.name}", "label": path.parent.name} for path in paths]
    with open(tmp_path / "list.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "label"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held = Dataset.from_dict({"image": [Image.fromarray(pixels_of(path)) for path in paths], "label": ["x"] * 6})
    by_bytes = [{"image": {"bytes": path.read_bytes(), "path": None}, "label": path.parent.name} for path in paths]
    Dataset.from_list(by_bytes).to_parquet(tmp_path / "list.parquet")
    shutil.copytree(pictures, tmp_path / "nested" / "train")
    files = [pictures, tmp_path / "nested", zipped(pictures, tmp_path / "a.zip")]
    files += [tmp_path / name for name in ("list.csv", "list.jsonl", "list.parquet")]
    found = {str(file): load(train_file=str(file)) for file in files}
    monkeypatch.chdir(tmp_path)
    found["from the working directory"] = load(train_file="pictures")
    prints = {name: fingerprint(split, COLUMNS) for name, split in found.items()}
    assert len(set(prints.values())) == 1, prints
    assert found[str(pictures)]["label"] == ["cat"] * 3 + ["dog"] * 3
    on_disk, in_zip = found[str(pictures)][0]["image"], found[str(tmp_path / "a.zip")][0]["image"]
    assert on_disk["bytes"] is None and in_zip["path"] is None and in_zip["bytes"] == paths[0].read_bytes()

    given = load_splits(DataConfig(), COLUMNS, {"train": held})["train"]  # datasets writes a PNG of its own
    assert (np.asarray(open_image(given[1]["image"], "RGB")) == pixels_of(paths[1])).all()
    (pictures / "cat" / "0.png").write_bytes(png(7))
    assert fingerprint(load(train_file=str(pictures)), COLUMNS) not in prints.values()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has a hundred million pixels: more than Pillow decodes without a warning."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BAD = {
    "cut.png": (png(1)[:80], "cannot be decoded"),
    "empty.png": (b"", "it is empty"),
    "text.jpg": (b"no image", "it is no PNG, JPEG"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is no PNG, JPEG"),
    "bomb.png": (bomb(), "exceeds limit"),
}


@pytest.mark.parametrize("packed", [False, True])
def test_bad_images_are_named_all_at_once_or_left_out(
    packed: bool, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = fingerprint(load(train_file=str(pictures)), COLUMNS)
    for name, (content, _) in BAD.items():
        (pictures / "cat" / name).write_bytes(content)
    (pictures / "loose.png").write_bytes(png(9))
    source = zipped(pictures, tmp_path / "a.zip") if packed else str(pictures)
    said = message(train_file=source)
    for name, (_, reason) in BAD.items():
        (line,) = [line for line in said.splitlines() if f"cat/{name}: " in line]
        assert reason in line and str(tmp_path) in line
    assert packed or "loose.png: lies in no folder that could name its class" in said
    with caplog.at_level(logging.WARNING):
        split = load(train_file=source, on_bad_row="skip", max_train_samples=6)
    assert fingerprint(split, COLUMNS) == good
    assert f"data.on_bad_row: skip left out {5 if packed else 6} rows:" in caplog.text and "cat/bomb.png" in caplog.text


def test_images_that_are_not_there_and_cells_that_are_no_images(pictures: Path, tmp_path: Path) -> None:
    cells = ["pictures/cat/0.png", "pictures/cat/00.png", "https://a.b/c.png", "", None, 5, "x" * 5000]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"image": cell, "label": 1}) + "\n" for cell in cells))
    lines = message(train_file=str(tmp_path / "a.jsonl")).splitlines()[1:]
    expected = ["there is no such file", "is the address", "is empty", "is missing (null)", "is of type int"]
    assert len(lines) == 6 and all(f"a.jsonl:{number}: image " in line for number, line in enumerate(lines, start=2))
    assert all(words in line for words, line in zip(expected, lines, strict=False))


def test_trees_that_cannot_be_meant(pictures: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for split in ("train", "test"):
        shutil.copytree(pictures, both / split)
    assert f"holds several splits (test, train); name the folder of one, such as {both / 'train'}" in message(
        train_file=str(both)
    )
    assert "no column 'label'" not in message(train_file=str(both))
    with pytest.raises(DataError, match="no column 'text'; the columns are 'image', 'label'"):
        load_splits(DataConfig(train_file=str(pictures)), {"text": "text"})
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    assert "broken.zip: not a whole zip file" in message(train_file=str(tmp_path / "broken.zip"))
    whole = Path(zipped(pictures, tmp_path / "a.zip")).read_bytes()
    content = (pictures / "dog" / "4.png").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole.replace(content[-40:-20], b"x" * 20))
    assert "a.zip/pictures/dog/4.png: cannot be read from the zip file (Bad CRC-32" in message(
        train_file=str(tmp_path / "a.zip")
    )


def test_reading_can_be_stopped(pictures: Path) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_splits(DataConfig(train_file=str(pictures)), COLUMNS, poll=stop)


def test_what_pillow_would_get_wrong_is_put_right() -> None:
    deep = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(deep, "PNG")
    lying = Image.new("RGB", (4, 2))
    exif = lying.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned = io.BytesIO()
    lying.save(turned, "JPEG", exif=exif)
    assert np.asarray(open_image({"path": None, "bytes": deep.getvalue()}, "L")).tolist() == [[0, 128, 255]]
    assert open_image({"path": None, "bytes": turned.getvalue()}, "RGB").size == (2, 4)
    with pytest.raises(DataError, match="could be decoded when the run began and cannot be now"):
        open_image({"path": "/nowhere.png", "bytes": None}, "RGB")


# -- random changes ---------------------------------------------------------------------------------------------------


def test_changes_are_what_they_are_called() -> None:
    image = Image.open(io.BytesIO(png(3, (20, 12)))).convert("RGB")
    pixels = np.asarray(image)
    draw = np.random.default_rng(0)
    assert (np.asarray(flipped(image, 1.0, draw)) == pixels[:, ::-1]).all() and flipped(image, 0.0, draw) is image
    padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)))
    for _ in range(10):
        cut = np.asarray(random_crop(image, 3, draw))
        windows = (padded[top : top + 12, left : left + 20] for top in range(7) for left in range(7))
        assert any((cut == window).all() for window in windows)
    config = RandomResizedCrop(scale=[0.25, 0.5], ratio=[0.5, 2.0])
    for _ in range(50):
        part = random_resized_crop(image, config, draw)
        assert 0.2 < part.width * part.height / 240 < 0.6 and 0.4 < part.width / part.height < 2.5


@pytest.fixture(scope="module")
def augmented(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("augmented")
    variant = "image_classification augmented"
    config = read_config("finetune", settings(variant, None, checkpoint_for(variant, folder / "start"), folder / "run"))
    return prepare(config, datasets=data_of(config, 12))


def test_changes_follow_from_seed_epoch_and_row_and_are_made_only_while_training(augmented: Prepared) -> None:
    task, dataset = augmented.task, augmented.splits["train"]

    def made(rows: list[int], *, epoch: int = 0, seed: int = 0, training: bool = True) -> Any:
        batch = collate(task, dataset, np.array(rows), seed=seed, epoch=epoch, training=training)
        return batch["pixel_values"].numpy()

    together = made([0, 1, 2, 3])
    assert together.shape == (4, 3, 16, 16) and together.dtype == np.float32
    for row in range(4):
        assert (made([row])[0] == together[row]).all()
    assert (made([0, 1, 2, 3], epoch=1) != together).any() and (made([0, 1, 2, 3], seed=1) != together).any()
    still = made([0, 1], training=False)
    images = [open_image(dataset[row]["image"], "RGB") for row in (0, 1)]
    assert (still == load_plain(images)).all() and (made([0, 1], epoch=5, training=False) == still).all()


def load_plain(images: list[Any]) -> Any:
    return ViTImageProcessorPil(size={"height": 16, "width": 16})(images, return_tensors="np")["pixel_values"]


# -- processor and whole runs -----------------------------------------------------------------------------------------


def test_processors_that_cannot_serve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start = tiny_checkpoint(tmp_path / "start", "vit", "AutoModel")
    given = {"task": "image_classification", "model_name_or_path": str(start), "output_dir": str(tmp_path / "run")}
    config = read_config("finetune", given)
    ViTImageProcessorPil(size={"shortest_edge": 16}).save_pretrained(start)
    with pytest.raises(ConfigError, match="gives images of different shapes"):
        prepare(config, datasets=data_of(config, 8))
    (start / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match="no image processor could be read"):
        prepare(config, datasets=data_of(config, 8))
    (start / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        processor = load_image_processor(ModelConfig(model_name_or_path=str(start)))
    assert processor.size["height"] == 16 and "has no preprocessor_config.json" in caplog.text


@pytest.mark.parametrize("channels", [1, 3])
def test_from_scratch_on_a_folder_and_loaded_by_transformers(channels: int, pictures: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "task": {"name": "image_classification", "random_crop": 1},
        "model": {"config": {**tiny_config("vit"), "num_channels": channels}},
        "data": {"train_file": str(pictures), "validation_file": zipped(pictures, tmp_path / "a.zip")},
        **{"max_steps": 3, "train_batch_size": 4, "output_dir": str(tmp_path / "run"), "mixed_precision": "no"},
    }
    with pytest.raises(DataError, match="6 of 6 validation rows .* are training rows too"):
        prepare(read_config("pretrain", given))
    given["allow_overlap"] = True
    prepared = prepare(read_config("pretrain", given))
    text = io.StringIO()
    print_plan(prepared, Console(file=text, width=200))
    assert (
        "train        6 rows; labels" in text.getvalue() and f"16 x 16 pixels in {channels} channel" in text.getvalue()
    )
    assert "tokens" not in text.getvalue()
    run = run_recipe("pretrain", given)
    assert run.processing.size and run.metrics.keys() >= {"loss", "accuracy", "f1_macro", "f1"}
    assert run.results["label_names"] == ["cat", "dog"]
    if channels == 3:  # transformers' pipeline makes every image RGB
        said = pipeline("image-classification", model=str(tmp_path / "run" / "model"))(str(pictures / "dog" / "3.png"))
        batch = collate(prepared.task, prepared.splits["validation"], np.array([3]), seed=0, epoch=0)
        logits = prepared.task.loss(run.model.cpu().eval(), batch)[1].softmax(-1)[0].tolist()
        assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in said} == dict(
            zip(["cat", "dog"], logits, strict=True)
        )
