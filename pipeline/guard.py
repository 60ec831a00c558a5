"""What happens when a step goes wrong: not finite, out of proportion, or too large for the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Literal

from pydantic import Field

from pipeline.config import Section


class GuardConfig(Section):
    """When a step is left out, and when the run ends because of such steps."""

    max_skipped_steps: int = Field(3, ge=1)
    """A step whose loss or gradient is not finite is left out; so many in a row end the run."""
    spike_sigma: float | None = Field(None, gt=0)
    """A step is a spike when its loss or gradient norm is above the mean of the last ones by so many standard
    deviations (6 is usual, as in OLMo-core's SkipStepOptimizer). unset: only what is not finite is left out."""
    spike_window: int = Field(128, ge=4)
    """How many past steps a step is compared with; the first half of them are never spikes."""
    spike_action: Literal["skip", "rollback"] = "skip"
    """skip: the step does not reach the weights. rollback: besides, weights and optimizer go back to the newest
    checkpoint, and training goes on with the rows after the spike (PaLM, Chowdhery et al. 2022, section 5.1); a
    second spike within spike_window steps ends the run."""


def is_spike(config: GuardConfig, recent: Sequence[Sequence[float]], loss: float, norm: float) -> bool:
    """Whether the mean loss or the gradient norm stands out of `recent` (loss, norm) pairs, which hold no spike."""
    if config.spike_sigma is None or len(recent) < config.spike_window // 2:
        return False
    for past, now in zip(zip(*recent, strict=True), (loss, norm), strict=True):
        deviation = max(pstdev(past), 1e-8 * abs(fmean(past)))
        if now > fmean(past) + config.spike_sigma * deviation:
            return True
    return False


def is_finite(loss: float, norm: float) -> bool:
    """Whether a step may reach the weights."""
    return math.isfinite(loss) and math.isfinite(norm)
