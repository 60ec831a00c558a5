"""The normal form of a cell, and the list of everything that is wrong with the rows."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pipeline.data.images import image
from pipeline.data.layouts import layout_hint
from pipeline.errors import DataError, nearest
from pipeline.safe_text import clean

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["text", "any_text", "texts", "label", "labels", "tags", "number", "json", "any_json", "image"]
"""What the cells of a column are; the functions of these names say what is accepted."""
LABEL_KINDS = ("label", "labels", "tags", "number")
"""What is to be found out about a row, as against what it is found out from."""
Row = tuple[str, Sequence[Any]]
"""Where the row is, for messages (`train.csv:7`), and its cells in the order of the asked columns."""

SHOWN, SHOWN_LEFT_OUT = 20, 5
CHUNK, POLL_ROWS = 1000, 50


class Problems:
    """Everything wrong with the rows: the first twenty sentences and how many there are.

    With `skip` a row that cannot be used is left out and counted apart; what is wrong with a whole file, or with
    its columns, is a problem all the same.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.shown: list[str] = []
        self.count = 0
        self.skip = skip
        self.left_out: list[str] = []
        self.rows_left_out = 0
        self.last_left_out = ""

    def add(self, place: str, sentence: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.shown.append(f"{place}: {sentence}")

    def bad_row(self, place: str, sentence: str) -> None:
        """A problem of one row; a row with several comes with all of them in a row."""
        if not self.skip:
            self.add(place, sentence)
            return
        if place != self.last_left_out:
            self.rows_left_out += 1
            if self.rows_left_out <= SHOWN_LEFT_OUT:
                self.left_out.append(f"{place}: {sentence}")
        self.last_left_out = place

    def said_of_left_out(self) -> str | None:
        """How many rows were left out, and the first few of them; None when there are none."""
        if not self.rows_left_out:
            return None
        more = self.rows_left_out - len(self.left_out)
        lines = [*self.left_out, *([f"... and {more} more"] if more else [])]
        rows = f"{self.rows_left_out} row{'s' if self.rows_left_out > 1 else ''}"
        return "\n  ".join(clean(line) for line in [f"data.on_bad_row: skip left out {rows}:", *lines])

    def sentences(self) -> list[str]:
        """All that is shown."""
        more = [f"... and {self.count - SHOWN} more ({self.count} in all)"] if self.count > SHOWN else []
        return [*self.shown, *more]

    def raise_any(self) -> None:
        if self.count:
            raise DataError(self.sentences())


def has_columns(
    place: str, wanted: Iterable[str], known: Sequence[str], problems: Problems, delimiter: str | None = None
) -> bool:
    """Whether every wanted column is there exactly once; what is not is a problem at `place`."""
    before = problems.count
    for name in wanted:
        if name not in known:
            problems.add(place, f"no column {name!r}; {_column_hint(name, known, delimiter)}")
        elif known.count(name) > 1:
            problems.add(place, f"{known.count(name)} columns are named {name!r}; expected one")
    return problems.count == before


def text(value: Any) -> str:
    """A non-empty string. White space counts as text: what was written is what is read."""
    if not isinstance(value, str):
        raise ValueError(_expected(value, "text"))
    if not value:
        raise ValueError("is empty; fill it in or drop the row")
    return _storable(value)


def any_text(value: Any) -> str:
    """A string that may be empty; a missing one is empty."""
    return "" if value is None or value == "" else text(value)


def texts(value: Any) -> list[str]:
    """A list of non-empty strings; in a csv cell, a JSON list."""
    return [text(part) for part in _list(value, "a list of texts")]


def tags(value: Any) -> list[str]:
    """A list of labels, one per word; in a csv cell, a JSON list."""
    return [label(part) for part in _list(value, "a list of labels")]


def json_text(value: Any) -> str:
    """Lists and objects as the text of their JSON, the same for every file format; a string must hold JSON itself.

    Keys whose value is null are left out: parquet files fill keys in that a row does not have.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(_expected(value, "JSON (a list or an object)")) from None
    if not isinstance(value, list | dict):
        raise ValueError(_expected(value, "a list or an object"))
    return _storable(json.dumps(_without_nulls(value), ensure_ascii=False))


def any_json(value: Any) -> str:
    """As `json_text`; a missing or empty one is empty text."""
    return "" if value is None or value == "" else json_text(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _list(value: Any, what: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(_expected(value, f'{what} such as ["a", "b"]')) from None
    if not isinstance(value, list):
        raise ValueError(_expected(value, what))
    if not value:
        raise ValueError(f"is an empty list, expected {what}; fill it in or drop the row")
    return value


def label(value: Any) -> str:
    """`str(value)`, so that 1 in a JSON file and "1" in a csv file are one label."""
    if isinstance(value, float) and not math.isnan(value):
        raise ValueError(
            f"is the fraction {value!r}, expected text or a whole number; "
            "write classes as whole numbers or names (scores belong to a regression task)"
        )
    if not isinstance(value, str | int):
        raise ValueError(_expected(value, "a label (text or a whole number)"))
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; fill in the label or drop the row")
    return _storable(str(value))


def labels(value: Any) -> list[str]:
    """A list of labels, maybe empty; a string is split at commas."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if value.strip() else []
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list):
        raise ValueError(_expected(value, "a list of labels, or labels separated by commas"))
    return [label(part) for part in value]


def number(value: Any) -> float:
    """A finite float."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(_expected(value, "a number"))
    try:
        if isinstance(value, str) and "_" in value:  # Python reads 1_000, nobody else does
            raise ValueError
        result = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is {_shorten(value)}, expected a number such as 2.5") from None
    if not math.isfinite(result):
        raise ValueError(f"is {value}, expected a finite number; fill it in or drop the row")
    return result


NORMAL_FORMS: dict[Kind, Callable[[Any], Any]] = {
    "text": text,
    "any_text": any_text,
    "texts": texts,
    "label": label,
    "labels": labels,
    "tags": tags,
    "number": number,
    "json": json_text,
    "image": image,
    "any_json": any_json,
}


def normal_rows(
    rows: Iterable[Row], columns: Mapping[str, Kind], problems: Problems, poll: Callable[[], None] = lambda: None
) -> Iterator[list[Any]]:
    """The cells of each row in normal form. What is wrong is added to `problems`, and such a row is left out.

    `poll` is called now and then; what it raises ends the work.
    """
    forms = [NORMAL_FORMS[kind] for kind in columns.values()]
    for number, (place, cells) in enumerate(rows):
        if number % POLL_ROWS == 0:
            poll()
        row = []
        for name, form, cell in zip(columns, forms, cells, strict=True):
            try:
                row.append(form(cell))
            except ValueError as error:
                problems.bad_row(place, f"{name} {error}")
        if len(row) == len(forms):
            yield row


def build(
    rows: Iterable[Row], columns: Mapping[str, Kind], problems: Problems, poll: Callable[[], None] = lambda: None
) -> Dataset:
    """`normal_rows` as a dataset in memory."""
    import pyarrow as pa  # here, as everywhere in data: with datasets over a second, which `--help` should not pay
    from datasets import Dataset
    from datasets.table import InMemoryTable

    lists = dict.fromkeys(("texts", "labels", "tags"), pa.list_(pa.string()))
    file = pa.struct([("path", pa.string()), ("bytes", pa.large_binary()), ("sha256", pa.string())])
    types = {"number": pa.float64(), "image": file, **lists}  # whatever is not here is text
    schema = pa.schema([(name, types.get(kind, pa.string())) for name, kind in columns.items()])
    batches, pending = [], []
    for row in normal_rows(rows, columns, problems, poll):
        pending.append(row)
        if len(pending) == CHUNK:
            batches.append(_record_batch(pending, schema))
            pending = []
    if pending:
        batches.append(_record_batch(pending, schema))
    # Without a fingerprint of its own Dataset hashes every byte: seconds, for a value nobody reads.
    return Dataset(InMemoryTable(pa.Table.from_batches(batches, schema)), fingerprint=uuid.uuid4().hex[:16])


def _record_batch(rows: list[list[Any]], schema: Any) -> Any:
    import pyarrow as pa

    cells = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(list(column), kind) for column, kind in zip(cells, schema.types, strict=True)], schema
    )


def _column_hint(name: str, known: Sequence[str], delimiter: str | None) -> str:
    if delimiter and len(known) == 1:
        for mark in "\t;,|":
            if mark != delimiter and mark in known[0]:
                return f"the header has one column and contains {mark!r}; set data.delimiter: {json.dumps(mark)}"
    hint = nearest(name, known)
    if layout := layout_hint(name, known):
        hint = layout
    elif not hint.startswith("did you mean"):
        hint = "say which is meant with data.text_column, data.label_column, ..."
        hint += ", or name the columns with data.column_names if this line is no header" if delimiter else ""
    return f"the columns are {', '.join(map(_shorten, known[:24]))}{', ...' if len(known) > 24 else ''}; {hint}"


def _storable(value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"has half a surrogate pair ({value[error.start]!a}) at character {error.start}, "
                "which is not a character; remove it or write the whole pair"
            ) from None
    return value


def _expected(value: Any, what: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f"is missing (null), expected {what}; fill it in or drop the row"
    return f"is {_shorten(value)} ({type(value).__name__}), expected {what}"


def _shorten(value: Any) -> str:
    shown = repr(value)  # a control character in the data must not reach the terminal
    return shown if len(shown) <= 60 else shown[:57] + "..."
