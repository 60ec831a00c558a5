"""Learning-rate schedules: pure functions, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable

from pipeline.config import resolve
from pipeline.optim.optimizers import OptimConfig

Schedule = Callable[[float], float]
"""Progress after warm-up, from 0 to 1, to the multiplier of the learning rate."""


def linear(progress: float) -> float:
    """Down to zero in a straight line."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine wave down to zero (Loshchilov & Hutter 2017, without restarts)."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def constant(progress: float) -> float:
    """No decay."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"linear": linear, "cosine": cosine, "constant": constant}


def multiplier(config: OptimConfig, step: int, total_steps: int) -> float:
    """What the learning rate is multiplied by in optimizer step `step`, counted from 0."""
    warmup = config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * total_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total_steps - warmup)
    return resolve(SCHEDULES, config.lr_scheduler_type, what="optim.lr_scheduler_type")(min(1.0, progress))
