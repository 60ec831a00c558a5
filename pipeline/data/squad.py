"""SQuAD's own files: questions inside paragraphs inside articles, made into one row per question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.data.columns import Problems


def is_squad(content: Any) -> bool:
    """Whether JSON is `{"data": [{"paragraphs": [...]}, ...]}`, as SQuAD 1.1 and 2.0 and their translations are."""
    articles = content.get("data") if isinstance(content, dict) else None
    return isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )


def squad_rows(path: str, content: Any, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place (`dev.json data[3].paragraphs[2].qas[1]`) and row (`id`, `title`, `context`, `question`, `answers`).

    A row has only the keys that the file has. A question marked `is_impossible` has no answers: what SQuAD 2.0 lists
    as its plausible ones are wrong.
    """
    for first, article in enumerate(content["data"]):
        in_article = f"{path} data[{first}]"
        for second, paragraph in _inside(in_article, article, "paragraphs", problems):
            in_paragraph = f"{in_article}.paragraphs[{second}]"
            for third, question in _inside(in_paragraph, paragraph, "qas", problems):
                place = f"{in_paragraph}.qas[{third}]"
                if not isinstance(question, dict):
                    problems.add(place, f"is {question!r:.60}, expected an object with id, question and answers")
                    continue
                row = {**_known(article, "title"), **_known(paragraph, "context")}
                row |= _known(question, "id", "question", "answers")
                yield place, {**row, "answers": []} if question.get("is_impossible") else row


def _known(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value[key] for key in keys if key in value}


def _inside(place: str, value: Any, key: str, problems: Problems) -> Iterator[tuple[int, Any]]:
    """The numbered parts of an article or a paragraph; what has none is a problem."""
    parts = value.get(key) if isinstance(value, dict) else None
    if not isinstance(parts, list):
        problems.add(place, f"has no list {key!r}; a SQuAD file is data > paragraphs > qas, an object each")
        return
    yield from enumerate(parts)
