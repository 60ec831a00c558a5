"""Imported before anything slow by the script of a real run: FAULT=slow_import makes the imports last longer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pipeline  # noqa: F401  it looks at who started us, as in every run

if os.environ.get("FAULT") == "slow_import":
    Path(os.environ["FAULT_SAYS"]).touch()
    time.sleep(2)
