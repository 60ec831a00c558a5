"""The sources of a run: each a corpus that is tokenized once, together a mixture of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.data import Blocks, Corpus, Mixture, Seen, files_of
from pipeline.errors import ConfigError, DataError
from pipeline.stopping import StopRequest
from pipeline.tasks import Task
from pipeline.tokenizing import tokenize


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

    def seen(self) -> Seen:
        """The documents of all sources, for telling whether a split repeats them."""
        return Seen(chain.from_iterable(corpus.each_digests() for corpus in self.corpora))


def read_sources(config: Any, task: Task, stop: StopRequest) -> Corpora:
    """Tokenize what is not in the cache. Raises ConfigError when the task does not read blocks of plain text."""
    if not task.packs or config.data.packing == "best_fit":
        raise ConfigError("data.sources: a corpus is plain text that is read in blocks; set data.packing: blocks")
    corpora, names = [], []
    for number, source in enumerate(config.data.sources):
        files = files_of(source.train_file, f"data.sources[{number}].train_file")
        names.append(f"source {number + 1} ({Path(files[0]).name}{', ...' if len(files) > 1 else ''})")
        corpora.append(tokenize(config, task, files, names[-1], stop.poll))
    blocks = [Blocks(corpus, task.max_length) for corpus in corpora]
    empty = [name for name, part in zip(names, blocks, strict=True) if not len(part)]
    if empty:
        raise DataError([f"data.sources: {name} has no two tokens to learn from" for name in empty])
    weights = [source.weight or len(part) for source, part in zip(config.data.sources, blocks, strict=True)]
    mixture = Mixture(blocks, weights, seed=config.train.seed)
    described = zip(names, config.data.sources, mixture.shares(), strict=True)
    shares = [{"source": name, "weight": source.weight, **found} for name, source, found in described]
    return Corpora(corpora, mixture, shares)
