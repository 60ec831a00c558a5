"""Read rows from parquet and Arrow files and from datasets, with class names in place of class ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.columns import CHUNK, Problems, Row, has_columns
from pipeline.data.settings import DataConfig

if TYPE_CHECKING:
    from datasets import Dataset, Features


def read_parquet(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """The wanted columns of a parquet file; the others (images, say) are not read."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from datasets import Features

    try:
        with parquet.ParquetFile(path) as file:
            if has_columns(str(path), wanted, file.schema_arrow.names, problems):
                batches = file.iter_batches(columns=list(wanted), batch_size=CHUNK)
                features = Features.from_arrow_schema(file.schema_arrow)
                yield from _rows(str(path), (_cells(batch, wanted) for batch in batches), features, wanted)
    except pa.ArrowInvalid as error:
        problems.add(str(path), f"not a whole parquet file ({_first_line(error)})")


def read_arrow(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """The wanted columns of an Arrow file, as a stream (what datasets saves) or with a footer."""
    import pyarrow as pa
    from datasets import Features

    try:
        with pa.memory_map(str(path)) as source:
            footer = source.read(6) == b"ARROW1"  # the magic word; a stream does not start with it
            source.seek(0)
            reader = pa.ipc.open_file(source) if footer else pa.ipc.open_stream(source)
            if has_columns(str(path), wanted, reader.schema.names, problems):
                batches = map(reader.get_batch, range(reader.num_record_batches)) if footer else reader
                features = Features.from_arrow_schema(reader.schema)
                yield from _rows(str(path), (_cells(batch, wanted) for batch in batches), features, wanted)
    except pa.ArrowInvalid as error:
        problems.add(str(path), f"not a whole Arrow file ({_first_line(error)})")


def read_dataset(name: str, dataset: Dataset, wanted: Sequence[str], problems: Problems) -> Iterator[Row]:
    """The wanted columns of a dataset in memory; a row's place is `name[index]`."""
    from datasets import Image

    if len(dataset) == 0:
        problems.add(name, "0 rows; expected at least one")
    elif has_columns(name, wanted, dataset.column_names, problems):
        plain = dataset.with_format(None).select_columns(list(wanted))
        for column in wanted:
            if isinstance(plain.features[column], Image):
                plain = plain.cast_column(column, Image(decode=False))  # its bytes or its path, not its pixels
        batches = plain.iter(batch_size=CHUNK)
        yield from _rows(name, ([batch[column] for column in wanted] for batch in batches), plain.features, wanted)


def _rows(name: str, batches: Iterable[list[list[Any]]], features: Features, wanted: Sequence[str]) -> Iterator[Row]:
    """Rows from batches of columns; a ClassLabel gives its name, because ids of two files need not agree."""
    named = [_class_name(features[column]) for column in wanted]
    index = 0
    for batch in batches:
        columns = [
            column if name_of is None else map(name_of, column) for column, name_of in zip(batch, named, strict=True)
        ]
        for cells in zip(*columns, strict=True):
            yield f"{name}[{index}]", cells
            index += 1


def _class_name(feature: Any) -> Callable[[Any], Any] | None:
    """What turns an id, or a list of ids, of a ClassLabel column into names; None for any other column."""
    from datasets import ClassLabel, LargeList, List

    if isinstance(feature, List | LargeList):
        name_of = _class_name(feature.feature)
        return name_of and (lambda ids: ids if ids is None else [name_of(value) for value in ids])
    if not isinstance(feature, ClassLabel):
        return None
    names = feature.names
    # -1 is what hub datasets write for "unlabelled": a missing value, which the checks then report.
    return lambda value: names[value] if value is not None and 0 <= value < len(names) else None


def _cells(batch: Any, wanted: Sequence[str]) -> list[list[Any]]:
    return [batch.column(name).to_pylist() for name in wanted]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
