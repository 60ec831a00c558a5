"""The first axis: what is learned. A new task is one file and one line here."""

from pipeline.tasks.base import Batch, Task
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.tasks.text_classification import TextClassification
from pipeline.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "text_classification": TextClassification,
    "token_classification": TokenClassification,
}

__all__ = ["TASKS", "Batch", "Task"]
