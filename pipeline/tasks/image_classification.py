"""Classify an image: one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.config import Section
from pipeline.data import Kind, open_image
from pipeline.errors import ConfigError
from pipeline.tasks.augmentation import RandomResizedCrop, flipped, random_crop, random_resized_crop
from pipeline.tasks.base import Batch, Features, Task
from pipeline.tasks.labels import check_labels, choose_labels, named_labels, recall_labels
from pipeline.tasks.saying import shown

MODES: dict[int, Literal["L", "RGB"]] = {1: "L", 3: "RGB"}
"""Pillow's name for images of so many channels."""


class ImageClassification(Task):
    """`data.image_column` names the image (a path or its bytes), `data.label_column` the label.

    Training rows may be changed at random; by default they are not, for what an image may lose without becoming
    another one depends on the images: a digit must not be flipped.
    """

    class Config(Section):
        name: str
        random_resized_crop: RandomResizedCrop | None = None
        """Cut out a part of random size and shape before resizing: `{scale: [0.08, 1.0], ratio: [0.75, 1.3333]}`."""
        random_crop: int | None = Field(None, ge=1)
        """Add so many black pixels on every side, then cut out the old size at random."""
        horizontal_flip: float = Field(0.0, ge=0, le=1)
        """Probability to mirror left and right."""

    modality = "image"
    reads = ("image_column", "label_column", "label_names")
    model_class = "AutoModelForImageClassification"
    pipeline_tag, purpose = "image-classification", "says which of several classes an image belongs to"
    head_modules = ("classifier", "pooler")
    main_metric = "accuracy"

    def __init__(self, config: Any, data: Any):
        super().__init__(config, data)
        self.label_names: list[str] = []
        self.label_ids: dict[str, int] = {}
        self.processor: Any = None
        self.mode: Literal["L", "RGB"] = "RGB"
        self.shape: tuple[int, ...] = ()
        """Channels, height and width of every input."""

    @property
    def image_column(self) -> str:
        return self.data.image_column or "image"

    @property
    def label_column(self) -> str:
        return self.data.label_column or "label"

    def problems(self) -> list[str]:
        found = super().problems()
        if find_spec("PIL") is None:
            found.append("task: image_classification needs Pillow; pip install 'graft-pipeline[vision]'")
        if self.config.random_resized_crop is not None and self.config.random_crop is not None:
            found.append("task.random_crop: random_resized_crop is set too; keep one of them")
        if self.data.max_length is not None:
            found.append("data.max_length: images have no tokens; leave it out")
        if self.image_column == self.label_column:
            found.append(f"data.label_column: {self.label_column!r} is the image's column too; name another")
        return found

    def columns(self) -> dict[str, Kind]:
        return {self.image_column: "image", self.label_column: "label"}

    def read_labels(self, splits: Mapping[str, Any], checkpoint_labels: list[str] | None) -> None:
        labels = splits["train"][self.label_column]
        self.label_names, self.label_ids = choose_labels(labels, self.data.label_names, checkpoint_labels)
        check_labels(splits, self.label_column, self.label_ids, self.data)

    def recall(self, settings: Mapping[str, Any], splits: Mapping[str, Any]) -> None:
        self.label_names, self.label_ids = recall_labels(settings, splits, self.label_column, self.data)

    def use_image_processor(self, processor: Any) -> None:
        """Take the processor, once two images of different shape have shown what it makes of them."""
        self.processor = processor
        means = processor.image_mean if processor.do_normalize else [0.5] * 3
        channels = len(means) if isinstance(means, Sequence) else 3
        if channels not in MODES:
            raise ConfigError(f"model: its image processor wants {channels} channels; images have 1 (grey) or 3 (RGB)")
        self.mode = MODES[channels]
        from PIL import Image

        shapes = [tuple(self._pixels([Image.new(self.mode, size)])[0].shape) for size in ((40, 30), (30, 50))]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"model: its image processor gives images of different shapes ({shapes[0]} and {shapes[1]}), which do "
                "not fit in one batch; set a size with height and width, or a center crop, in preprocessor_config.json"
            )
        self.shape = shapes[0]

    @property
    def row_processing(self) -> Any:
        return self.processor

    def processing(self) -> str:
        return "labels only"  # pixels are made when a batch is

    def save_processing(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def model_kwargs(self) -> dict[str, Any]:
        return {**named_labels(self.label_names), "problem_type": "single_label_classification"}

    def kept_columns(self) -> dict[str, str]:
        return {"image": self.image_column}

    def encode(self, rows: Mapping[str, Sequence[Any]]) -> Features:
        labels = rows[self.label_column]
        return {"label": [self.label_ids[label] for label in labels], "length": [1] * len(labels)}

    def augment(self, features: Mapping[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        config, image = self.config, open_image(features["image"], self.mode)
        if config.random_resized_crop is not None:
            image = random_resized_crop(image, config.random_resized_crop, draw)
        if config.random_crop is not None:
            image = random_crop(image, config.random_crop, draw)
        return {**features, "image": flipped(image, config.horizontal_flip, draw)}

    def collate(self, features: Sequence[Mapping[str, Any]], draws: Sequence[np.random.Generator]) -> Batch:
        images = [
            open_image(feature["image"], self.mode) if isinstance(feature["image"], dict) else feature["image"]
            for feature in features
        ]
        return {
            "pixel_values": torch.from_numpy(self._pixels(images)),
            "labels": torch.tensor([feature["label"] for feature in features]),
        }

    def _pixels(self, images: list[Any]) -> np.ndarray:
        """(batch, channels, height, width) of float32, resized, cropped and normalised as the processor says."""
        return self.processor(images, return_tensors="np")["pixel_values"].astype(np.float32)

    def terms(self, batch: Batch) -> int:
        return len(batch["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cross-entropy, summed over the images."""
        logits = model(pixel_values=batch["pixel_values"]).logits.float()
        return functional.cross_entropy(logits, batch["labels"], reduction="sum"), logits

    def postprocess(self, logits: Tensor, batch: Batch) -> Batch:
        return {"predictions": logits.argmax(-1), "references": batch["labels"]}

    def placeholders(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        return {self.label_column: [self.label_names[0] for _ in rows[self.image_column]]}

    def outputs(self, model: nn.Module, batch: Batch) -> Batch:
        _, logits = self.loss(model, batch)
        return {**self.postprocess(logits, batch), "score": logits.softmax(-1).amax(-1)}

    def predicted(self, columns: dict[str, np.ndarray], rows: Any, features: Any) -> list[dict[str, Any]]:
        """`{label, score}`, behind the file of the image where it has one."""
        cells = zip(rows[self.image_column], columns["predictions"], columns["score"], strict=True)
        return [
            {
                **({"image": image["path"]} if image["path"] else {}),
                "label": self.label_names[label],
                "score": shown(score),
            }
            for image, label, score in cells
        ]

    def metrics(self) -> list[str]:
        binary = ["f1"] if len(self.label_names) == 2 else []
        return ["accuracy", "f1_macro", *binary, "matthews_correlation"]

    def sequence_length(self, features: Any, model_config: Any) -> int:
        patch = model_config.to_dict().get("patch_size")
        sides = [patch, patch] if isinstance(patch, int) else patch or self.shape[1:]
        return 1 + self.shape[1] // sides[0] * (self.shape[2] // sides[1])

    def show(self, batch: Batch, row: int) -> list[tuple[str, bool]]:
        pixels = batch["pixel_values"][row]
        channels, height, width = pixels.shape
        said = f"image of {width} x {height} pixels in {channels} channel{'s' if channels > 1 else ''}, "
        said += f"values {pixels.min():.2f} to {pixels.max():.2f} -> "
        return [(said, False), (self.label_names[batch["labels"][row]], True)]
