"""Reports rendered from run folders alone: curves, model card, comparison."""

from __future__ import annotations

from pipeline.reports.card import write_card
from pipeline.reports.compare import Comparison, compare
from pipeline.reports.curves import draw_curves
from pipeline.reports.read import Run, read_run

__all__ = ["Comparison", "Run", "compare", "draw_curves", "read_run", "write_card"]
