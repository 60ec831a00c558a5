"""One mechanism for freezing, layer-wise rates and no-decay sets: ordered (regex, rate, decay) rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """Parameters whose name matches `pattern` (re.search) get `multiplier` times the learning rate; 0 freezes them."""

    pattern: str
    multiplier: float = 1.0
    weight_decay: float | None = None
    """None leaves the run's weight decay; a number replaces it."""
    reason: str = ""
    """Who asked for it, for the plan and for messages."""


@dataclass(frozen=True)
class Movement:
    """How one parameter may move, and which rules said so."""

    multiplier: float
    weight_decay: float
    reasons: tuple[str, ...]


def movements(model: nn.Module, rule_sets: Sequence[Sequence[Rule]], weight_decay: float) -> dict[str, Movement]:
    """For every parameter name its movement.

    In each set the first rule that matches counts; the sets' multipliers multiply. Biases and normalization weights
    (one-dimensional tensors) have no weight decay. A parameter that already does not require a gradient (the base
    under an adapter) stays frozen. Raises ConfigError for a rule that matches nothing and when nothing would move.
    """
    problems = []
    found: dict[str, Movement] = {}
    unmatched = {rule for rules in rule_sets for rule in rules}
    for name, parameter in model.named_parameters():
        multiplier = 1.0 if parameter.requires_grad else 0.0
        decay = weight_decay if parameter.ndim > 1 else 0.0
        reasons = [] if parameter.requires_grad else ["frozen base"]
        for rules in rule_sets:
            matching = [rule for rule in rules if re.search(rule.pattern, name)]
            unmatched.difference_update(matching)
            if matching:
                first = matching[0]
                multiplier *= first.multiplier
                decay = decay if first.weight_decay is None else first.weight_decay
                reasons.append(first.reason or first.pattern)
        found[name] = Movement(multiplier, decay, tuple(reasons))
    for rule in unmatched:
        problems.append(f"{rule.reason or 'a rule'}: the pattern {rule.pattern!r} matches no parameter of this model")
    if found and not any(movement.multiplier for movement in found.values()):
        reasons = sorted({reason for movement in found.values() for reason in movement.reasons})
        problems.append(f"nothing is left to train: every parameter is frozen by {', '.join(reasons)}")
    if problems:
        raise ConfigError(problems)
    return found


def apply(model: nn.Module, found: dict[str, Movement]) -> None:
    """Set `requires_grad` so that backward skips what does not move."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(found[name].multiplier != 0.0)


def parameter_groups(model: nn.Module, found: dict[str, Movement], learning_rate: float) -> list[dict[str, Any]]:
    """Optimizer groups, one per distinct (multiplier, decay), in the order of first appearance.

    Each group keeps `initial_lr`, which the schedule multiplies at every step.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        movement = found[name]
        if movement.multiplier:
            groups.setdefault((movement.multiplier, movement.weight_decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": learning_rate * multiplier,
            "initial_lr": learning_rate * multiplier,
            "weight_decay": decay,
        }
        for (multiplier, decay), parameters in groups.items()
    ]
