"""The share of written answers that end in `#### number`, as those of GSM8K do."""

from __future__ import annotations

import re
from typing import Any

import datasets
import evaluate

FORM = re.compile(r"####\s*-?[\d,.]+\s*$")


class AnswerForm(evaluate.Metric):
    """`answer_form`: 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: list[str]) -> dict[str, Any]:
        return {"answer_form": sum(bool(FORM.search(text)) for text in predictions) / len(predictions)}
