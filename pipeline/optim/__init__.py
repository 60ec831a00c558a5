"""Optimizers, schedules and the rules that say which weights move."""

from pipeline.optim.optimizers import OPTIMIZERS, OptimConfig, make_optimizer
from pipeline.optim.rules import Movement, Rule, apply, movements
from pipeline.optim.schedules import SCHEDULES, multiplier

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "Movement",
    "OptimConfig",
    "Rule",
    "apply",
    "make_optimizer",
    "movements",
    "multiplier",
]
