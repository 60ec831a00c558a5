"""Words to tokens in overlapping windows, where every token is answered for by the window that sees most around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PROBE = ["cat", "sat", "cat"]


@dataclass(frozen=True)
class Window:
    """Part of a row, with the special tokens around it."""

    input_ids: list[int]
    token_type_ids: list[int]
    words: list[int]
    """Per token the number of its word in the row, -1 for a special token."""
    first: list[bool]
    """Per token whether it is the first one of its word (which may have begun in an earlier window)."""
    owned: list[bool]
    """Per token whether this window answers for it; each token of a row is owned by one window."""

    @property
    def answers(self) -> list[int]:
        """Per token the word whose prediction is taken from it, else -1: first tokens that the window owns."""
        columns = zip(self.words, self.first, self.owned, strict=True)
        return [word if first and owned else -1 for word, first, owned in columns]


def needs_spaces(tokenizer: Any) -> bool:
    """Whether a word is only tokenized as in running text when the space before it is part of it.

    So it is with the byte-level tokenizers of GPT-2, RoBERTa, Llama 3 and Qwen; asked by trying.
    """
    backend = tokenizer.backend_tokenizer
    running = backend.encode(" ".join(PROBE), add_special_tokens=False).ids
    spaced = [PROBE[0], *(f" {word}" for word in PROBE[1:])]
    apart, joined = (
        backend.encode(words, is_pretokenized=True, add_special_tokens=False).ids for words in (PROBE, spaced)
    )
    return apart != running and joined == running


def windows_of(tokenizer: Any, rows: Sequence[Sequence[str]], *, max_length: int, stride: int) -> list[list[Window]]:
    """The windows of every row of words: `max_length` tokens at most, of which `stride` are also in the next one."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, stride=stride)
    encodings = backend.encode_batch([list(row) for row in rows], is_pretokenized=True)
    backend.no_truncation()  # the state is part of the key of cached rows
    return [_windows([encoding, *encoding.overflowing], stride) for encoding in encodings]


def _windows(parts: Sequence[Any], stride: int) -> list[Window]:
    inside = [[word for word in part.word_ids if word is not None] for part in parts]
    starts, words = [0], list(inside[0])
    for before, part in zip(inside, inside[1:], strict=False):
        starts.append(starts[-1] + len(before) - stride)
        words += part[stride:]
    owner = owners(starts, [len(part) for part in inside])
    begins = np.diff(np.array(words, dtype=np.int64), prepend=-1) != 0
    found = []
    for number, (part, start) in enumerate(zip(parts, starts, strict=True)):
        own = np.array([word is not None for word in part.word_ids])
        first, owned = np.zeros(len(own), dtype=bool), np.zeros(len(own), dtype=bool)
        first[own] = begins[start : start + own.sum()]
        owned[own] = owner[start : start + own.sum()] == number
        numbers = [-1 if word is None else word for word in part.word_ids]
        found.append(Window(part.ids, part.type_ids, numbers, first.tolist(), owned.tolist()))
    return found


def put_together(
    predictions: np.ndarray, features: Any, rows: Sequence[Sequence[Any]], missing: int
) -> list[list[int]]:
    """What windows say of their tokens, (windows, tokens), as one list per row, with an entry for each of its words.

    `features` has `words`, the `answers` of every window, and `example`, its row; `rows` have as many entries as words;
    a word that no window answers for is `missing`.
    """
    found = [[missing] * len(row) for row in rows]
    for said, words, row in zip(predictions, features["words"], features["example"], strict=True):
        for position, word in enumerate(words):
            if word >= 0:
                found[row][word] = int(said[position])
    return found


def owners(starts: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """Per token of a row the window that sees most of what is around it: (tokens,) of int; of equals the earlier.

    What a token sees is the smaller number of tokens on its two sides (the maximal context of Devlin et al., 2019, in
    their code for SQuAD). Where the row itself ends nothing is missing on that side; the choice is the same.
    """
    total = starts[-1] + lengths[-1]
    owner, most = np.zeros(total, dtype=np.int64), np.full(total, -1)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        inside = slice(start, start + length)
        seen = np.minimum(np.arange(length), np.arange(length)[::-1])
        better = seen > most[inside]
        owner[inside][better], most[inside][better] = number, seen[better]
    return owner
