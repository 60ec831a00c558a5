"""What the experiments share: placeholders for folders, and settings of short runs."""

from __future__ import annotations

from typing import Any

ENCODER, DATA, WORK = "{encoder}", "{data}", "{work}"
"""Stand for the folder of all-MiniLM-L6-v2, that of the data sets, and that of prepared texts and runs."""

Experiment = tuple[str, dict[str, Any], str]
"""Recipe, settings, and what others have published."""

SHORT = {"train_sampling_strategy": "group_by_length", "warmup_steps": 0.06, "lr_scheduler_type": "linear", "seed": 0}
