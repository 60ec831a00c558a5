"""Read the rows of one file, one at a time, so that every problem names its line."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.data.columns import Problems, Row, has_columns
from pipeline.data.conll import read_conll, read_conllu
from pipeline.data.image_folders import read_image_folder, read_image_zip
from pipeline.data.settings import DataConfig
from pipeline.data.squad import is_squad, squad_rows
from pipeline.data.tables import read_arrow, read_parquet

CELL_LIMIT = 2**31 - 1
"""Characters in one csv cell; Python's own limit of 131,072 is less than a long document."""
Reader = Callable[[Path, Sequence[str], DataConfig, Problems], Iterator[Row]]


def read_csv(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """Comma-separated cells, quoted as Python's csv and spreadsheets do."""
    delimiter = config.delimiter or ","
    old_limit = csv.field_size_limit(CELL_LIMIT)
    try:
        with open(path, encoding=config.codec, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            yield from _table(path, _csv_lines(path, reader, problems), delimiter, wanted, config, problems)
    finally:
        csv.field_size_limit(old_limit)


def read_tsv(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """Tab-separated cells without quoting: a quotation mark is text, as in the files of GLUE."""
    delimiter = config.delimiter or "\t"
    with open(path, encoding=config.codec, newline="\n") as file:
        lines = ((number, line.removesuffix("\n").removesuffix("\r")) for number, line in enumerate(file, start=1))
        cells = ((number, line.split(delimiter)) for number, line in lines if line)
        yield from _table(path, cells, delimiter, wanted, config, problems)


def read_jsonl(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    first = True
    with open(path, encoding=config.codec, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                row = json.loads(line.rstrip("\r\n"), object_pairs_hook=_no_duplicates)
            except (ValueError, RecursionError) as error:
                is_list = first and line.lstrip()[0] == "[" and isinstance(error, json.JSONDecodeError)
                hint = "; a file that is one list should be named .json" if is_list else ""
                first = False
                problems.bad_row(place, f"invalid JSON ({_json_error(error)}); expected one object on the line{hint}")
                continue
            if first and isinstance(row, dict) and not has_columns(place, wanted, list(row), problems):
                return
            first = False
            yield from _object(place, row, wanted, problems)


def read_json(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """A JSON list of objects, or a file of SQuAD's, whose questions become rows."""
    with open(path, encoding=config.codec, newline="\n") as file:
        content = file.read()
    if not content.strip():
        return
    try:
        rows = json.loads(content, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        hint = "; a file with one object a line should be named .jsonl" if "Extra data" in str(error) else ""
        problems.add(f"{path}:{line}", f"invalid JSON ({_json_error(error)}); expected a list of objects{hint}")
        return
    if not isinstance(rows, list) and not is_squad(rows):
        problems.add(str(path), f"holds one JSON {_json_kind(rows)}, expected a list of objects")
        return
    listed = ((f"{path}[{index}]", row) for index, row in enumerate(rows))
    for index, (place, row) in enumerate(squad_rows(str(path), rows, problems) if is_squad(rows) else listed):
        if index == 0 and isinstance(row, dict) and not has_columns(place, wanted, list(row), problems):
            return
        yield from _object(place, row, wanted, problems)


def read_txt(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """One column, `text`: the lines, the paragraphs (between blank lines) or the whole file. Blank ones are skipped."""
    if not has_columns(str(path), wanted, ["text"], problems):
        return
    with open(path, encoding=config.codec, newline="" if config.sample_by == "document" else None) as file:
        if config.sample_by == "document":
            document = file.read()
            if document.strip():
                yield f"{path}:1", [document]
            return
        start, pending = 0, ""
        for number, line in enumerate(file, start=1):
            if not pending:
                start = number
            if line.strip():
                pending += line
            if pending and (not line.strip() or config.sample_by == "line"):
                yield f"{path}:{start}", [pending.removesuffix("\n")]
                pending = ""
        if pending:
            yield f"{path}:{start}", [pending.removesuffix("\n")]


READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".txt": read_txt,
    ".conll": read_conll,
    ".bio": read_conll,
    ".iob": read_conll,
    ".conllu": read_conllu,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".zip": read_image_zip,
}


def read(path: Path, wanted: Sequence[str], config: DataConfig, problems: Problems) -> Iterator[Row]:
    """The rows of a file, by its suffix, or of a folder of images. A file without any row is a problem."""
    before, empty = problems.count, True
    reader = read_image_folder if path.is_dir() else READERS[path.suffix.lower()]
    try:
        for row in reader(path, wanted, config, problems):
            empty = False
            yield row
    except UnicodeDecodeError:
        problems.add(*_encoding_problem(path, config))
    except OSError as error:
        problems.add(str(path), f"cannot be read ({error.strerror or error})")
    if empty and problems.count == before:
        problems.add(str(path), "0 rows; expected at least one")


def _csv_lines(path: Path, reader: Any, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Line number where a row starts, and its cells. Blank lines are skipped."""
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            open_quote = "; the quote opened here is never closed" if "unexpected end" in str(error) else ""
            # What follows a broken quote is guesswork, so the rest of the file is not reported on.
            problems.add(
                f"{path}:{start}", f"broken csv ({error}){open_quote}; a quote inside a quoted cell is written twice"
            )
            return
        if cells is None:
            return
        if cells:
            yield start, cells


def _table(
    path: Path,
    lines: Iterator[tuple[int, list[str]]],
    delimiter: str,
    wanted: Sequence[str],
    config: DataConfig,
    problems: Problems,
) -> Iterator[Row]:
    """Rows of a table: the header (unless the names are configured), then only rows as wide as it."""
    header = config.column_names
    if header is None:
        number, header = next(lines, (0, None))
        if header is None:
            return
        if not has_columns(f"{path}:{number}", wanted, header, problems, delimiter):
            return
    elif not has_columns(f"{path} (column_names)", wanted, header, problems):
        return
    positions = [header.index(name) for name in wanted]
    for number, cells in lines:
        if len(cells) != len(header):
            problems.bad_row(
                f"{path}:{number}",
                f"{len(cells)} cell{'s' if len(cells) != 1 else ''}, expected {len(header)} ({', '.join(header)}); "
                "is a delimiter inside a cell, or a line missing cells?",
            )
            continue
        yield f"{path}:{number}", [cells[position] for position in positions]


def _object(place: str, row: Any, wanted: Sequence[str], problems: Problems) -> Iterator[Row]:
    if not isinstance(row, dict):
        problems.bad_row(place, f"a JSON {_json_kind(row)}, expected an object with the keys {', '.join(wanted)}")
    elif missing := [name for name in wanted if name not in row]:
        for name in missing:
            keys = ", ".join(map(repr, list(row)[:24])) or "none"
            problems.bad_row(place, f"no column {name!r}; the keys of this row are {keys}; add it or drop the row")
    else:
        yield place, [row[name] for name in wanted]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return row


def _json_kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", type(None): "null"}
    return names.get(type(value), "number")


def _json_error(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _encoding_problem(path: Path, config: DataConfig) -> tuple[str, str]:
    """Line, byte offset and a guess; the file is decoded again because a stream's error counts from its buffer."""
    data = path.read_bytes()
    try:
        data.decode(config.codec)
    except UnicodeDecodeError as error:
        offset, reason = error.start, error.reason
    place = f"{path}:{data.count(10, 0, offset) + 1}"
    if reason == "unexpected end of data":
        return place, f"the file ends inside a character (byte {offset}); is it cut off?"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        guess = "utf-16"
    else:
        # any bytes at all are latin-1, so it comes last
        guess = next(name for name in ("utf-8", "cp1252", "latin-1") if _decodes(data, name))
    return place, f"byte {offset} ({data[offset]:#04x}) is not {config.encoding}; maybe `encoding: {guess}`"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
