"""A corpus as one memory-mapped array of tokens, and the blocks of a fixed length that it is read in.

A corpus is a folder: `tokens.bin` (all token ids one after another, 16 or 32 bits each), `documents.bin` (per document:
tokens and bytes of its text), `digests.bin` (per document: two digests of 16 bytes, of its text as written and of its
letters alone) and `corpus.json`. Only the pages that are read are in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.files import write_text

INDEX = "corpus.json"
VERSION = 1
DOCUMENT = np.dtype([("tokens", "<u4"), ("bytes", "<u4")])
DIGEST_BYTES = 16


def token_type(largest: int) -> np.dtype[Any]:
    """The smallest of two whole-number types that holds every token id up to `largest`."""
    return np.dtype("<u2" if largest < 2**16 else "<u4")


class Corpus:
    """What a corpus folder holds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / INDEX).read_text())

    @cached_property
    def tokens(self) -> np.ndarray:
        """All token ids: (tokens,), read from the disk as they are asked for."""
        return np.memmap(self.folder / "tokens.bin", dtype=self.facts["dtype"], mode="r")

    @cached_property
    def ends(self) -> np.ndarray:
        """Position behind the last token of every document: (documents,)."""
        return np.cumsum(self._documents["tokens"], dtype=np.int64)

    @cached_property
    def _bytes_before(self) -> np.ndarray:
        """Bytes of all documents before each: (documents + 1,)."""
        return np.concatenate([[0], np.cumsum(self._documents["bytes"], dtype=np.int64)])

    @cached_property
    def _documents(self) -> np.ndarray:
        return np.fromfile(self.folder / "documents.bin", dtype=DOCUMENT)

    def each_digests(self) -> Iterator[tuple[bytes, bytes]]:
        """Of every document in order, as `pipeline.data.overlap.digests_of` gives them."""
        with (self.folder / "digests.bin").open("rb") as file:
            while both := file.read(2 * DIGEST_BYTES):
                yield both[:DIGEST_BYTES], both[DIGEST_BYTES:]

    @property
    def fingerprint(self) -> str:
        """sha256 over the digests of all documents in order."""
        with (self.folder / "digests.bin").open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def bytes_until(self, position: int) -> float:
        """Bytes of the text of the first `position` tokens, a document's bytes being spread evenly over its tokens."""
        document = int(np.searchsorted(self.ends, position, side="right"))
        if document == len(self.ends):
            return float(self._bytes_before[-1])
        start = int(self.ends[document - 1]) if document else 0
        share = (position - start) / int(self._documents["tokens"][document])
        return float(self._bytes_before[document] + share * int(self._documents["bytes"][document]))


class Blocks:
    """A corpus in rows of `block_size` tokens, as `pipeline.data.packing.blocks` cuts it: a row starts with the last
    token of the row before, so that every token but the first is predicted once; the last row may be shorter."""

    column_names = ("input_ids", "num_bytes", "length", "truncated")

    def __init__(self, corpus: Corpus, block_size: int, *, drop_remainder: bool = False):
        """`drop_remainder` leaves the shorter last row out."""
        self.corpus, self.block_size = corpus, block_size
        predicted, step = max(0, len(corpus.tokens) - 1), block_size - 1
        self.count = predicted // step if drop_remainder else -(-predicted // step)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: int | str) -> Any:
        """A row by its number, or a whole column: `length` or `truncated`."""
        if isinstance(key, str):
            return {"length": self._lengths, "truncated": self._truncated}[key]
        start, end = self._range(key)
        return {
            "input_ids": self.corpus.tokens[start:end].tolist(),
            "num_bytes": self.corpus.bytes_until(end) - self.corpus.bytes_until(start + 1),
            "length": end - start,
            "truncated": False,
        }

    def _range(self, row: int) -> tuple[int, int]:
        if not 0 <= row < self.count:
            raise IndexError(row)
        start = row * (self.block_size - 1)
        return start, min(start + self.block_size, len(self.corpus.tokens))

    @cached_property
    def _lengths(self) -> np.ndarray:
        lengths = np.full(self.count, self.block_size)
        if self.count:
            start, end = self._range(self.count - 1)
            lengths[-1] = end - start
        return lengths

    @cached_property
    def _truncated(self) -> np.ndarray:
        return np.zeros(self.count, dtype=bool)


def write_index(folder: Path, **facts: Any) -> None:
    """Make the folder a corpus: the last file to be written."""
    write_text(folder / INDEX, json.dumps({"version": VERSION, **facts}, indent=1))


class Part:
    """What one worker has tokenized so far: three files that grow together, and how far they count.

    A worker that was killed goes on behind its last `commit`; what it had written since is cut off.
    """

    NAMES = ("tokens.bin", "documents.bin", "digests.bin")

    def __init__(self, folder: Path, dtype: np.dtype[Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.dtype = folder, dtype
        self.progress: dict[str, Any] = {"batches": [], "sizes": [0, 0, 0], "done": False}
        if (folder / "progress.json").is_file():
            found = json.loads((folder / "progress.json").read_text())
            pairs = zip(self.NAMES, found["sizes"], strict=True)
            if all((folder / name).stat().st_size >= size for name, size in pairs):  # else begin again
                self.progress = found
        self.files = []
        for name, size in zip(self.NAMES, self.progress["sizes"], strict=True):
            (folder / name).touch()
            file = (folder / name).open("r+b")
            file.truncate(size)
            file.seek(size)
            self.files.append(file)
        self.pending: list[list[int]] = []

    def add(self, token_ids: list[list[int]], sizes: list[float], digests: list[tuple[bytes, bytes]]) -> None:
        """One batch of documents: their tokens, the bytes of their text, their digests."""
        tokens, documents, both = self.files
        lengths = [len(ids) for ids in token_ids]
        tokens.write(np.concatenate([np.asarray(ids, dtype=self.dtype) for ids in token_ids]).tobytes())
        documents.write(np.array(list(zip(lengths, map(int, sizes), strict=True)), dtype=DOCUMENT).tobytes())
        both.write(b"".join(exact + letters for exact, letters in digests))
        self.pending.append([sum(lengths), len(lengths)])

    def commit(self, *, done: bool = False) -> None:
        """From here on a new start goes on behind what is written."""
        for file in self.files:
            file.flush()
            os.fsync(file.fileno())  # or the count of what is written could outlive what is written
        batches = [*self.progress["batches"], *self.pending]
        self.progress = {"batches": batches, "sizes": [file.tell() for file in self.files], "done": done}
        self.pending = []
        write_text(self.folder / "progress.json", json.dumps(self.progress))

    def close(self) -> None:
        """Let go of the files; what was not committed does not count."""
        for file in self.files:
            file.close()


def join(parts: list[Path], folder: Path, dtype: np.dtype[Any]) -> None:
    """Put the batches of all parts in their order: batch 0 of the first part, batch 0 of the second, and so on."""
    readers = [_batches(part, dtype) for part in parts]
    total = [0, 0]
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "documents.bin").open("wb") as documents,
        (folder / "digests.bin").open("wb") as digests,
    ):
        while readers:
            for reader in list(readers):
                found = next(reader, None)
                if found is None:
                    readers.remove(reader)
                    continue
                tokens.write(found[0])
                documents.write(found[1])
                digests.write(found[2])
                total = [total[0] + len(found[0]) // dtype.itemsize, total[1] + len(found[1]) // DOCUMENT.itemsize]
    write_index(folder, dtype=dtype.str, tokens=total[0], documents=total[1])


def _batches(part: Path, dtype: np.dtype[Any]) -> Iterator[tuple[bytes, bytes, bytes]]:
    progress = json.loads((part / "progress.json").read_text())
    with (
        (part / "tokens.bin").open("rb") as tokens,
        (part / "documents.bin").open("rb") as documents,
        (part / "digests.bin").open("rb") as digests,
    ):
        for length, count in progress["batches"]:
            yield (
                tokens.read(length * dtype.itemsize),
                documents.read(count * DOCUMENT.itemsize),
                digests.read(count * 2 * DIGEST_BYTES),
            )
