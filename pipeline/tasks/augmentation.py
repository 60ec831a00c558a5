"""Random changes of a training image, each from one row's random generator alone. Pillow images in, and out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from pipeline.config import Section

TRIES = 10


class RandomResizedCrop(Section):
    """Crops of random size and shape (Szegedy et al. 2015, section 6)."""

    scale: list[float] = Field([0.08, 1.0], min_length=2, max_length=2)
    """Smallest and largest share of the image's area."""
    ratio: list[float] = Field([3 / 4, 4 / 3], min_length=2, max_length=2)
    """Smallest and largest width per height."""

    @model_validator(mode="after")
    def _in_order(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}, expected two shares of the area, 0 < first <= second <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ValueError(f"ratio is {self.ratio}, expected two widths per height, 0 < first <= second")
        return self


def random_resized_crop(image: Any, config: RandomResizedCrop, draw: np.random.Generator) -> Any:
    """A part of the image with an area from `scale` and a shape from `ratio`; the processor resizes it afterwards.

    A part that would stick out is drawn again, ten times at most; then the whole image is left as it is.
    """
    for _ in range(TRIES):
        area = image.width * image.height * draw.uniform(config.scale[0], config.scale[1])
        ratio = math.exp(draw.uniform(math.log(config.ratio[0]), math.log(config.ratio[1])))
        width, height = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if width <= image.width and height <= image.height:
            return _cut(image, width, height, draw)
    return image


def random_crop(image: Any, padding: int, draw: np.random.Generator) -> Any:
    """The image moved by up to `padding` pixels in both directions; what comes in from outside is black."""
    from PIL import ImageOps

    return _cut(ImageOps.expand(image, padding), image.width, image.height, draw)


def flipped(image: Any, probability: float, draw: np.random.Generator) -> Any:
    """The image, mirrored left and right with this probability."""
    from PIL import ImageOps

    return ImageOps.mirror(image) if draw.random() < probability else image


def _cut(image: Any, width: int, height: int, draw: np.random.Generator) -> Any:
    left, top = draw.integers(image.width - width + 1), draw.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))
