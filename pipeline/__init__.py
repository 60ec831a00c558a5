"""graft: train, freeze, adapt or tune everything, on one loop, with numbers to choose by."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pipeline.parent  # noqa: F401  before anything slow: it looks at who started us

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline.callbacks import Event as Event
    from pipeline.errors import ConfigError as ConfigError
    from pipeline.errors import DataError as DataError
    from pipeline.errors import UserError as UserError
    from pipeline.failure import RunFailed as RunFailed
    from pipeline.functions import finetune as finetune
    from pipeline.functions import freeze as freeze
    from pipeline.functions import lora as lora
    from pipeline.functions import pretrain as pretrain
    from pipeline.functions import train as train
    from pipeline.hub.upload import Pushed as Pushed
    from pipeline.merging import merge as merge
    from pipeline.optim.rules import Rule as Rule
    from pipeline.predicting import predict as predict
    from pipeline.publishing import NotPushed as NotPushed
    from pipeline.publishing import push as push
    from pipeline.reports.compare import Comparison as Comparison
    from pipeline.reports.compare import compare as compare
    from pipeline.run import Run as Run
    from pipeline.scoring import Evaluation as Evaluation
    from pipeline.scoring import evaluate as evaluate
    from pipeline.stopping import Stopped as Stopped
    from pipeline.strategies.base import Strategy as Strategy
    from pipeline.sweeping import Sweep as Sweep
    from pipeline.sweeping import sweep as sweep
    from pipeline.tasks.base import Task as Task

PUBLIC = {
    "pretrain": "pipeline.functions",
    "finetune": "pipeline.functions",
    "freeze": "pipeline.functions",
    "lora": "pipeline.functions",
    "train": "pipeline.functions",
    "Run": "pipeline.run",
    "Event": "pipeline.callbacks",
    "compare": "pipeline.reports.compare",
    "Comparison": "pipeline.reports.compare",
    "predict": "pipeline.predicting",
    "evaluate": "pipeline.scoring",
    "Evaluation": "pipeline.scoring",
    "merge": "pipeline.merging",
    "push": "pipeline.publishing",
    "Pushed": "pipeline.hub.upload",
    "NotPushed": "pipeline.publishing",
    "sweep": "pipeline.sweeping",
    "Sweep": "pipeline.sweeping",
    "Task": "pipeline.tasks.base",
    "Strategy": "pipeline.strategies.base",
    "Rule": "pipeline.optim.rules",
    "UserError": "pipeline.errors",
    "ConfigError": "pipeline.errors",
    "DataError": "pipeline.errors",
    "Stopped": "pipeline.stopping",
    "RunFailed": "pipeline.failure",
}
"""Public name -> where it is; type checkers read the same from the imports above. A name must not be a module's."""

__all__ = [*PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for: `graft --help` need not wait seconds for torch and transformers."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    found = globals()[name] = import_module(PUBLIC[name]).__dict__[name]
    return found


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
