"""What a strategy is: how the weights may move. Each file is only its difference from tuning everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from pipeline.config import Section
from pipeline.optim.rules import Rule


class TaskView(Protocol):
    """All that a strategy knows of the task."""

    model_class: ClassVar[str]
    head_modules: ClassVar[tuple[str, ...]]

    @property
    def new_parameters(self) -> str | None: ...
    def terms(self, batch: dict[str, Tensor]) -> int: ...
    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]: ...


class Strategy:
    """The contract. A new strategy is one file that overrides what it needs and one line in `STRATEGIES`.

    It is on when its section is in the configuration. Strategies compose in the order of the registry.
    """

    class Config(Section):
        """Settings; the section named like the strategy."""

    def __init__(self, config: Any):
        self.config = config

    def check(self, model: nn.Module, task: TaskView) -> None:
        """Raise ConfigError when the settings do not fit the model, whose weights may have no values yet."""
        self.rules(model, task)

    def wrap(self, model: nn.Module, task: TaskView) -> nn.Module:
        """Change the model before training (add adapters, say)."""
        return model

    def rules(self, model: nn.Module, task: TaskView) -> list[Rule]:
        """Ordered (regex, learning-rate multiplier, weight decay) rules; the first that matches a parameter counts."""
        return []

    def start(self, model: nn.Module, task: TaskView, batches: Iterable[dict[str, Tensor]]) -> None:
        """Look at the start weights once (keep a copy, estimate importance)."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A term added to the loss once per optimizer step."""
        return None

    def at_step(self, model: nn.Module, step: int) -> None:
        """Called before each optimizer step."""

    def exported(self, model: nn.Module) -> nn.Module:
        """The model as it is to be saved for use (adapters merged, say)."""
        return model
