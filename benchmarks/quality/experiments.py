"""All quality runs by name, in the order of the table. A new one is an entry in the file of its kind."""

from __future__ import annotations

from benchmarks.quality import encoder, images, writing
from benchmarks.quality.places import Experiment

EXPERIMENTS: dict[str, Experiment] = {**writing.EXPERIMENTS, **encoder.EXPERIMENTS, **images.EXPERIMENTS}
