"""The sources of a run: each a corpus that is tokenized once, together a mixture of blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.data import Blocks, Corpus, Mixture, Seen, Stream, files_of, only, open_stream, stream_fingerprint
from pipeline.errors import DataError
from pipeline.stopping import StopRequest
from pipeline.tasks import Task
from pipeline.tokenizing import tokenize

POLL_EVERY = 100_000
"""Documents between two looks at whether to stop."""
KEPT_BATCHES = 64
"""Batches of a stream that stay in memory, for the threads that are ahead and for a step that is done again."""


@dataclass
class Corpora:
    """The training rows of a run with `data.sources`."""

    corpora: list[Corpus]
    blocks: Mixture
    shares: list[dict[str, Any]]
    """Per source: its name, weight, and what an epoch really takes from it."""

    @property
    def documents(self) -> int:
        """Of all sources."""
        return sum(len(corpus.ends) for corpus in self.corpora)

    @property
    def fingerprint(self) -> str:
        """Hash of all documents in order."""
        return sha256("".join(corpus.fingerprint for corpus in self.corpora).encode()).hexdigest()

    def seen(self, splits: Iterable[Seen], stop: StopRequest) -> Seen:
        """The documents that some of the splits hold too."""
        digests = chain.from_iterable(corpus.each_digests() for corpus in self.corpora)
        return only(splits, _polled(digests, stop))


def _polled(digests: Iterable[tuple[bytes, bytes]], stop: StopRequest) -> Iterator[tuple[bytes, bytes]]:
    for number, both in enumerate(digests):
        if number % POLL_EVERY == 0:
            stop.poll()
        yield both


@dataclass
class Streamed:
    """The training rows of a run with `data.streaming`."""

    blocks: Stream
    fingerprint: str

    @property
    def documents(self) -> int:
        """How many there are nobody knows; the blocks to come."""
        return len(self.blocks)


def read_stream(config: Any, task: Task) -> Streamed:
    """Open the stream; nothing is read yet. Raises DataError when there is none."""
    (column,) = task.columns()
    start = open_stream(config.data, task.encode, column, block_size=task.max_length, seed=config.train.seed)
    size = config.train.train_batch_size
    stream = Stream(start, count=config.train.max_steps * size, block_size=task.max_length, kept=KEPT_BATCHES * size)
    return Streamed(stream, stream_fingerprint(config.data))


def read_sources(config: Any, task: Task, stop: StopRequest) -> Corpora:
    """Tokenize what is not in the cache. Raises DataError with what is wrong with the rows."""
    corpora, names = [], []
    for number, source in enumerate(config.data.sources):
        files = files_of(source.train_file, f"data.sources[{number}].train_file")
        names.append(f"source {number + 1} ({Path(files[0]).name}{', ...' if len(files) > 1 else ''})")
        corpora.append(tokenize(config, task, files, names[-1], stop.poll))
    weighted = config.data.sources[0].weight is not None  # shares of tokens are exact over rows of one length
    blocks = [Blocks(corpus, task.max_length, drop_remainder=weighted) for corpus in corpora]
    empty = [name for name, part in zip(names, blocks, strict=True) if not len(part)]
    if empty:
        least = task.max_length if weighted else 2
        raise DataError([f"data.sources: {name} has fewer than {least} tokens to learn from" for name in empty])
    weights = [source.weight or len(part) for source, part in zip(config.data.sources, blocks, strict=True)]
    mixture = Mixture(blocks, weights, seed=config.train.seed)
    described = zip(names, config.data.sources, mixture.shares(), strict=True)
    shares = [{"source": name, "weight": source.weight, **found} for name, source, found in described]
    return Corpora(corpora, mixture, shares)
