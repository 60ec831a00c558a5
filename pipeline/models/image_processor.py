"""What turns images into a model's input: the processor of the checkpoint, or one made from the model's config."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from pipeline.errors import ConfigError
from pipeline.hub_names import locate
from pipeline.models import build, load
from pipeline.models.settings import ModelConfig

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
DEFAULT_SIZE = 224
"""Pixels; what most architectures were published with."""


def load_image_processor(config: ModelConfig) -> Any:
    """The image processor of the checkpoint, else one from the model's config: on Pillow, never on torchvision.

    The two round otherwise, and a run should not depend on what else is installed. From a config, images are resized
    to `image_size` (224 where there is none) and their values brought from 0..255 to -1..1, mean and standard
    deviation 0.5, in `num_channels` channels. ConfigError when the checkpoint's processor cannot be read.
    """
    if config.model_name_or_path is None:
        return _made(build.read_config(config, None))
    place, name = locate(config.model_name_or_path, what=load.KEY), config.model_name_or_path
    if Path(place).is_dir() and not (Path(place) / FILE).is_file():
        processor = _made(load.read_config(place, config))
        logger.warning("%s has no %s; images are resized to %s and scaled to -1..1", name, FILE, dict(processor.size))
        return processor
    # transformers 5.4 wants torchvision of those who ask for it by its short name.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        with load.quiet():
            processor = AutoImageProcessor.from_pretrained(
                place, revision=config.revision, backend="pil", trust_remote_code=False
            )
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{load.KEY}: no image processor could be read from {name} ({said}); put a {FILE} beside its weights "
            "(AutoImageProcessor of a model of the same kind, saved with save_pretrained)"
        ) from error
    vars(processor).pop("auto_map", None)  # or the saved processor would name code that it does not have
    return processor


def _made(config: PreTrainedConfig) -> Any:
    from transformers import ViTImageProcessorPil

    settings = config.to_dict()
    size, channels = settings.get("image_size") or DEFAULT_SIZE, settings.get("num_channels") or 3
    height, width = (size, size) if isinstance(size, int) else size
    return ViTImageProcessorPil(
        size={"height": height, "width": width}, image_mean=[0.5] * channels, image_std=[0.5] * channels
    )
