"""The second axis: how the weights may move. A new strategy is one file and one line here.

Order matters: strategies are applied from top to bottom.
"""

from pipeline.strategies.base import Strategy
from pipeline.strategies.freeze import Freeze
from pipeline.strategies.lora import LoRA

STRATEGIES: dict[str, type[Strategy]] = {
    "lora": LoRA,
    "freeze": Freeze,
}

__all__ = ["STRATEGIES", "Strategy"]
