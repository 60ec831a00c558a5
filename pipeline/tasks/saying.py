"""Numbers as they stand in a file of predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def shown(value: Any) -> float | None:
    """As short as tells it from its neighbours in its own precision; None for what is not finite."""
    return float(str(value)) if math.isfinite(value) else None


def shown_row(values: np.ndarray) -> list[float | None]:
    """The same for a row of them."""
    return [shown(value) for value in values]
