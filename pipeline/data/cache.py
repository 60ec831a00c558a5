"""Encode rows once: an Arrow file on disk, written by one process and memory-mapped by all."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from pipeline.errors import DataError
from pipeline.progress import kind_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Batch = dict[str, list[Any]]
LOCK_SECONDS = 0.5


def default_cache_dir() -> Path:
    """`graft` inside the Hugging Face home folder (`HF_HOME`, by default ~/.cache/huggingface)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "graft"


def encode_cached(
    rows: Dataset,
    encode: Callable[[Iterator[Batch]], Iterator[Batch]],
    *,
    key: str,
    cache_dir: Path,
    description: str,
    poll: Callable[[], None] = lambda: None,
    batch_size: int = 1000,
) -> Dataset:
    """`encode(batches of rows)` as a dataset on disk, made at most once per `key`, which must say all it depends on.

    Processes that ask for the same key at once wait for the one that writes. `poll` is called between batches and
    while waiting; what it raises ends the work and leaves no file. Lists of integers are stored as 32 bits.
    Raises DataError when encoding leaves no rows.
    """
    from datasets import Dataset

    path = cache_dir / f"{key}.arrow"
    if not path.exists():
        with locked(path, poll):
            if not path.exists():
                _write(path, _encoded(rows, encode, description, poll, batch_size), description)
    try:
        return Dataset.from_file(str(path))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: the cached rows are damaged ({error}); delete the file and run again") from error


def beside(features: Dataset, rows: Dataset, columns: Mapping[str, str]) -> Dataset:
    """Encoded rows with some columns (feature -> column) of the rows they were made from; nothing is copied."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    if not columns:
        return features
    table, kept = (part.with_format("arrow")[:] for part in (features, rows.select_columns(list(columns.values()))))
    assert len(table) == len(kept), "columns can be kept only where each row makes one feature row"
    for feature, column in columns.items():
        table = table.append_column(feature, kept[column])
    return Dataset(InMemoryTable(table), fingerprint=uuid.uuid4().hex[:16])


@contextmanager
def locked(path: Path, poll: Callable[[], None]) -> Iterator[None]:
    """One process at a time works on `path`; the others wait, and `poll` meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock")
    while True:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
            break
        except Timeout:
            poll()
    try:
        yield
    finally:
        lock.release()


def _encoded(
    rows: Dataset,
    encode: Callable[[Iterator[Batch]], Iterator[Batch]],
    description: str,
    poll: Callable[[], None],
    batch_size: int,
) -> Iterator[Batch]:
    """What `encode` makes of the rows, with a progress bar on a terminal and one line at the end elsewhere."""
    console = Console(stderr=True)
    started = time.monotonic()
    with Progress(console=console, transient=True, disable=kind_of(console) != "terminal") as progress:
        bar = progress.add_task(escape(description), total=len(rows))

        def batches() -> Iterator[Batch]:
            for batch in rows.iter(batch_size=batch_size):
                poll()
                yield batch
                progress.advance(bar, len(next(iter(batch.values()))))

        yield from encode(batches())
    seconds = time.monotonic() - started
    console.print(f"{description}: {len(rows)} rows in {seconds:.1f} s", highlight=False, markup=False)


def _write(path: Path, batches: Iterator[Batch], description: str) -> None:
    """All batches to a file that has its name only when it is whole."""
    import pyarrow as pa

    partial = path.with_name(path.name + ".partial")
    schema, count = None, 0
    try:
        with open(partial, "wb") as file:
            writer = None
            for batch in batches:
                if not batch or not next(iter(batch.values())):
                    continue
                if schema is None:
                    schema = _schema(batch)
                    writer = pa.ipc.new_stream(file, schema)
                assert writer is not None and list(batch) == schema.names, "every batch must have the same columns"
                arrays = [pa.array(values, kind) for values, kind in zip(batch.values(), schema.types, strict=True)]
                writer.write_batch(pa.record_batch(arrays, schema))
                count += len(arrays[0])
            if writer is not None:
                writer.close()
            file.flush()
            os.fsync(file.fileno())
        if count == 0:
            raise DataError(f"{description}: 0 rows are left after encoding; expected at least one")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _schema(batch: Batch) -> pa.Schema:
    import pyarrow as pa

    fields = []
    for name, values in batch.items():
        kind = pa.array(values).type
        assert not pa.types.is_null(kind) and not str(kind).endswith("null>"), f"{name}: no value to tell the type from"
        fields.append((name, pa.list_(pa.int32()) if kind == pa.list_(pa.int64()) else kind))
    return pa.schema(fields)
