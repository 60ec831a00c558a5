"""The first axis: what is learned. A new task is one file and one line here."""

from pipeline.tasks.base import Batch, Task
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.embedding import Embedding
from pipeline.tasks.image_classification import ImageClassification
from pipeline.tasks.masked_lm import MaskedLM
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.preference import Preference
from pipeline.tasks.question_answering import QuestionAnswering
from pipeline.tasks.seq2seq import Seq2Seq
from pipeline.tasks.text_classification import TextClassification
from pipeline.tasks.token_classification import TokenClassification

TASKS: dict[str, type[Task]] = {
    "causal_lm": CausalLM,
    "embedding": Embedding,
    "masked_lm": MaskedLM,
    "multiple_choice": MultipleChoice,
    "question_answering": QuestionAnswering,
    "seq2seq": Seq2Seq,
    "preference": Preference,
    "text_classification": TextClassification,
    "image_classification": ImageClassification,
    "token_classification": TokenClassification,
}

__all__ = ["TASKS", "Batch", "Task"]
