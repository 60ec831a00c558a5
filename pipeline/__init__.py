"""graft: train, freeze, adapt or tune everything, on one loop, with numbers to choose by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pipeline.parent  # noqa: F401  before anything slow: it looks at who started us

__version__ = "0.1.0"
__all__ = ["finetune", "freeze", "lora", "pretrain"]

if TYPE_CHECKING:
    from pipeline.api import finetune, freeze, lora, pretrain


def __getattr__(name: str) -> Any:
    """Load the recipes when they are asked for: `graft --help` need not wait seconds for torch and transformers."""
    if name in __all__:
        import pipeline.api

        return pipeline.api.__dict__[name]
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
