"""Metrics of texts against the libraries themselves, against published examples, and what they refuse."""

from __future__ import annotations

import json
import random
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_bleu, corpus_chrf

from pipeline.errors import ConfigError, DataError
from pipeline.metrics import METRICS, load_metric
from pipeline.metrics.generated import TEXTS, answer
from pipeline.tasks.generation import TEXT_METRICS

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k"
# metric -> (predictions, references, what the source prints, to the digits it prints)
PUBLISHED: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    # Google Cloud's explanation of BLEU: precisions 9/11, 5/10, 2/9, 1/8 and brevity exp(1 - 13/11) give 0.27
    "bleu": (
        ["A NASA rover is fighting a massive storm on Mars."],
        ["The NASA Opportunity rover is battling a massive dust storm on Mars."],
        {"bleu": "27"},
    ),
    # the model card of evaluate's chrf
    "chrf": (
        [
            "The relationship between cats and dogs is not exactly friendly.",
            "a good bookshop is just a genteel black hole that knows how to read.",
        ],
        [
            "The relationship between dogs and cats is not exactly friendly.",
            "A good bookshop is just a genteel Black Hole that knows how to read.",
        ],
        {"chrf": "84.642149"},
    ),
    # Lin 2004, section 3.1: S2 has an LCS of 3/4 with S1, and S3 one of 2/4; both share one of three bigrams
    "rouge": (
        ["police kill the gunman", "the gunman kill police"],
        ["police killed the gunman"] * 2,
        {"rouge1": "0.75", "rouge2": "0.3333", "rougeL": "0.625"},
    ),
    # the model card of evaluate's exact_match
    "exact_match": (
        ["cat?", "theater", "yelling", "agent"],
        ["the cat", "theater", "YELLING", "agent007"],
        {"exact_match": "0.25"},
    ),
    # Cobbe et al. 2021, the first training problem of GSM8K
    "numeric_match": (
        ["so she sold 48+24=72 clips.", "#### 71"],
        ["Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips\n#### 72"] * 2,
        {"numeric_match": "0.5"},
    ),
}


def test_every_metric_of_texts_is_here() -> None:
    assert set(PUBLISHED) == {name for name, metric in METRICS.items() if metric.inputs == TEXTS} == set(TEXT_METRICS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_example(name: str) -> None:
    predictions, references, expected = PUBLISHED[name]
    metric = load_metric(name)
    found = metric.compute(predictions=predictions, references=references)
    assert set(found) == set(expected) == set(metric.reported or (metric.name,))
    for key, value in expected.items():
        digits = len(value.partition(".")[2])
        assert f"{found[key]:.{digits}f}" == value


def random_texts(rows: int = 20) -> tuple[list[str], list[str]]:
    draw = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", ",", "and", "Grünes", "Gras.", "looked", "at", "it"]
    texts = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(rows)]
    changed = [" ".join(word for word in text.split() if draw.random() < 0.9) for text in texts]
    return changed, texts


def test_scores_are_those_of_the_libraries() -> None:
    predictions, references = random_texts()
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score(target=wanted, prediction=text) for text, wanted in zip(predictions, references, strict=True)]
    expected = {name: sum(row[name].fmeasure for row in rows) / len(rows) for name in rows[0]}
    expected["bleu"] = corpus_bleu(predictions, [references]).score
    expected["chrf"] = corpus_chrf(predictions, [references]).score
    found = {}
    for name in ("bleu", "chrf", "rouge"):
        metric = load_metric(name)
        for start in range(0, len(references), 7):
            part = slice(start, start + 7)
            metric.add_batch(predictions=predictions[part], references=references[part])
        found.update(metric.compute())
    assert found == pytest.approx(expected, abs=1e-12) and all(0 < value < 100 for value in found.values())


def test_signatures() -> None:
    assert load_metric("bleu").signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert load_metric("chrf").signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert load_metric("rouge").signature.startswith("score:f1|average:rows|stemmer:no|version:rouge-score-")
    assert load_metric("exact_match").signature is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,007", "1007"),
        ("12 #### 18 apples, not 3", "18"),
        ("#### 5 or #### $-2.50.", "-2.5"),
        ("#### none", None),
        ("= -1,234.50 dollars.", "-1234.5"),
        ("10-5 is 5.0", "5"),
        ("10-7", "7"),
        ("about .5", "0.5"),
        ("3,4", "4"),
        ("1,0000", "0"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer(text: str, number: str | None) -> None:
    assert answer(text) == (None if number is None else Decimal(number))


def test_a_reference_without_a_number_is_named() -> None:
    with pytest.raises(DataError, match="numeric_match: reference 2 has no number in it: 'ten'"):
        load_metric("numeric_match").compute(predictions=["1", "2"], references=["1", "ten"])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="gsm8k is not beside the project")
def test_every_answer_of_gsm8k_has_its_number() -> None:
    answers = [json.loads(line)["answer"] for line in (GSM8K / "test.jsonl").read_text().splitlines()]
    ends = [text.rsplit("#### ", 1)[1].replace(",", "") for text in answers]
    assert [answer(text) for text in answers] == [Decimal(end) for end in ends] and len(ends) == 1319
    assert [answer(f"It is ${text}.") for text in ends] == [Decimal(end) for end in ends]


@pytest.mark.parametrize(("name", "package"), [("bleu", "sacrebleu"), ("chrf", "sacrebleu"), ("rouge", "rouge_score")])
def test_a_missing_package_is_said_with_the_line_that_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"metric: {name} needs the package {package}.*graft-pipeline\[metrics\]"):
        load_metric(name)
