"""The first axis: what is learned. A new task is one file and one line here."""

from pipeline.tasks.base import Batch, Task
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.tasks.preference import Preference
from pipeline.tasks.text_classification import TextClassification

TASKS: dict[str, type[Task]] = {
    "causal_lm": CausalLM,
    "masked_lm": MaskedLM,
    "preference": Preference,
    "text_classification": TextClassification,
}

__all__ = ["TASKS", "Batch", "Task"]
