"""Read sentences with a tag per word: one word a line, a blank line after each sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from pipeline.data.columns import Problems, Row, has_columns
from pipeline.data.settings import DataConfig

Cells = tuple[int, list[str]]
"""Number of a line, and its word and tag."""
WORDS, TAGS = "tokens", "ner_tags"
"""Names of the two columns where the configuration has none for them."""
FORM, UPOS, CONLLU_CELLS = 1, 3, 10


def read_conll(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """First the word, last its tag, apart by tabs or else by spaces; a row's place is the first line of the sentence.

    Every line has as many cells as the first. `-DOCSTART-` lines, which begin a document in CoNLL-2003, are skipped.
    """
    with open(path, encoding=config.codec, newline="\n") as file:
        yield from _sentences(path, _words_and_tags(path, file, problems), wanted, config, problems)


def read_conllu(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """Universal Dependencies: FORM is the word, UPOS its tag; comments, ranges (1-2), empty nodes (1.1) are skipped."""
    with open(path, encoding=config.codec, newline="\n") as file:
        yield from _sentences(path, _forms_and_tags(path, file, problems), wanted, config, problems)


def _sentences(
    path: Path, lines: Iterator[Cells | None], wanted: Sequence[str], config: DataConfig, problems: Problems
) -> Iterator[Row]:
    """Rows from words and tags, where None ends a sentence."""
    words = config.text_column if isinstance(config.text_column, str) else WORDS
    names = [words, config.label_column or TAGS]
    if not has_columns(str(path), wanted, names, problems):
        return
    sentence: list[Cells] = []
    for cells in chain(lines, [None]):
        if cells is not None:
            sentence.append(cells)
        elif sentence:
            columns = zip(*(pair for _, pair in sentence), strict=True)
            row = dict(zip(names, map(list, columns), strict=True))
            yield f"{path}:{sentence[0][0]}", [row[name] for name in wanted]
            sentence = []


def _words_and_tags(path: Path, file: Iterator[str], problems: Problems) -> Iterator[Cells | None]:
    first: Cells | None = None
    for number, line in enumerate(file, start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            yield None
            continue
        line = line.rstrip("\r\n")
        cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        first = first or (number, cells)
        if len(cells) == 1:
            problems.add(f"{path}:{number}", f"{line[:60]!r} is one cell; expected a word, a tab and its tag")
        elif len(cells) != len(first[1]):
            problems.add(f"{path}:{number}", f"{len(cells)} cells, expected {len(first[1])} as on line {first[0]}")
        elif not cells[0] or not cells[-1].strip():
            missing = "word" if not cells[0] else "tag"
            problems.add(f"{path}:{number}", f"the {missing} is empty; expected a word first and its tag last")
        else:
            yield number, [cells[0], cells[-1].strip()]


def _forms_and_tags(path: Path, file: Iterator[str], problems: Problems) -> Iterator[Cells | None]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            yield None
        elif not line.startswith("#"):
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) != CONLLU_CELLS:
                problems.add(f"{path}:{number}", f"{len(cells)} cells, expected the 10 of CoNLL-U with tabs between")
            elif cells[0].isdigit():
                yield number, [cells[FORM], cells[UPOS]]
