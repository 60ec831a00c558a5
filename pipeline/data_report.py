"""What the rows of a run are like: how many, how long, how balanced, and whether what is scored was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.manifest import write_json
from pipeline.progress import SPARKS
from pipeline.reading import Data
from pipeline.safe_text import clean

BINS = 16
SHOWN = 16
"""Labels in the table; the file holds all."""
BAR = 30


def describe_data(data: Data) -> dict[str, Any]:
    """Per split: rows, repeated rows, tokens, lengths, truncation, labels, overlap with the training rows."""
    return {split: _describe(data, split) for split in data.splits}


def _describe(data: Data, split: str) -> dict[str, Any]:
    features = data.splits[split]
    found: dict[str, Any] = {
        "rows": data.sizes[split],
        "fingerprint": data.fingerprints[split],
        "repeated_rows": data.repeated.get(split),
        "features": len(features),
    }
    if data.task.modality == "text":
        found |= _lengths(features, data.task.max_length)
    if data.task.block_size is not None:
        found["block_size"] = data.task.block_size
        found["filled"] = round(found["tokens"] / (len(features) * data.task.block_size), 6)
    kinds = data.task.columns().items() if split in data.rows else ()  # documents of a corpus have none to count
    for column, kind in kinds:
        if kind in ("label", "labels", "tags"):
            found["labels"] = dict(_labels(data.rows[split][column]).most_common())
        elif kind == "number":
            values = np.asarray(data.rows[split][column])
            found["numbers"] = {
                "min": float(values.min()),
                "mean": float(values.mean()),
                "standard deviation": float(values.std()),
                "max": float(values.max()),
            }
    if split == "train" and data.shares:
        found["sources"] = data.shares
    if split in data.overlaps:
        seen = data.overlaps[split]
        found["in_train"] = {"exact": seen.exact, "normalized": seen.normalized, "share": round(seen.share, 6)}
    return found


def _lengths(features: Any, max_length: int) -> dict[str, Any]:
    """Tokens, how they are spread over the rows, and what was cut off."""
    lengths, cut = np.asarray(features["length"]), int(np.sum(features["truncated"]))
    width = -(-(int(np.ptp(lengths)) + 1) // BINS)
    edges = np.arange(lengths.min(), lengths.max() + width + 1, width)
    counts, _ = np.histogram(lengths, bins=edges)
    return {
        "tokens": int(lengths.sum()),
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        },
        "truncated": cut,
        "truncated_share": round(cut / len(features), 6),
        "max_length": max_length,
    }


def _labels(column: Iterable[Any]) -> Counter[str]:
    return Counter(label for cell in column for label in ([cell] if isinstance(cell, str) else cell))


def save_data_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write data.json into the run folder."""
    write_json(folder / "data.json", report)


def lines(report: Mapping[str, Any]) -> list[str]:
    """One line per split, for the start of a run."""
    found = [_line(split, found) for split, found in report.items()]
    return [*found, *(_share(part) for part in report["train"].get("sources", []))]


def _share(part: Mapping[str, Any]) -> str:
    asked = "" if part["weight"] is None else f", asked for weight {part['weight']:g}"
    return (
        f"  {part['source']}: {part['tokens']:,} tokens per epoch, {100 * part['share']:.2f} %{asked}; "
        f"read {part['passes']:.2f} times"
    )


def _line(split: str, found: Mapping[str, Any]) -> str:
    features = "" if found["features"] == found["rows"] else f" in {found['features']:,} sequences"
    if "filled" in found:
        blocks = f"{found['features']:,} blocks of {found['block_size']} tokens"
        features = f" packed into {blocks}, {100 * found['filled']:.1f} % filled"
    parts = [f"{found['rows']:,} rows{features}"]
    if "length" in found:
        length = found["length"]
        parts += [
            f"{found['tokens']:,} tokens",
            f"length {length['min']} to {length['max']}, median {length['median']:.0f} {_sparks(length['histogram'])}",
            f"{100 * found['truncated_share']:.1f} % truncated at {found['max_length']}",
        ]
    if "labels" in found:
        parts.append(_balance(found["labels"]))
    if found["repeated_rows"]:
        parts.append(f"{found['repeated_rows']:,} rows repeat an earlier one")
    if "in_train" in found and (seen := found["in_train"])["normalized"]:
        parts.append(f"{seen['normalized']:,} rows ({100 * seen['share']:.2f} %) are also in train")
    return f"{split:<12} {'; '.join(parts)}"


def _sparks(histogram: Mapping[str, Any]) -> str:
    counts = histogram["counts"]
    return "".join(SPARKS[-(-count * (len(SPARKS) - 1) // max(counts))] for count in counts)


def _balance(labels: Mapping[str, int]) -> str:
    total = sum(labels.values())
    shown = [f"{name} {100 * count / total:.0f} %" for name, count in list(labels.items())[:4]]
    return f"labels {', '.join(shown)}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}"


def print_data(data: Data, console: Console | None = None) -> None:
    """The whole report for people, with the first rows that two splits share."""
    console = console or Console(highlight=False)
    report = describe_data(data)
    for split, found in report.items():
        for line in (_line(split, found), *map(_share, found.get("sources", []))):
            console.print(Text(clean(line)), soft_wrap=True)
        if "length" in found:
            _histogram(console, "tokens", _ranges(found["length"]["histogram"]))
        if "labels" in found:
            _histogram(console, "label", found["labels"])
        if "numbers" in found:
            console.print(", ".join(f"{name} {value:.4g}" for name, value in found["numbers"].items()))
        for sentence in data.shared_rows(split):
            console.print(Text(clean(sentence), style="yellow"), soft_wrap=True)
        console.print()


def _ranges(histogram: Mapping[str, Any]) -> dict[str, int]:
    edges = histogram["edges"]
    return {
        f"{low} to {high - 1}" if high - low > 1 else str(low): count
        for low, high, count in zip(edges[:-1], edges[1:], histogram["counts"], strict=True)
    }


def _histogram(console: Console, what: str, counts: Mapping[str, int]) -> None:
    table = Table(what, "rows", "", box=None, title_justify="left")
    most = max(counts.values())
    for name, count in list(counts.items())[:SHOWN]:
        table.add_row(Text(clean(name)), f"{count:,}", "█" * round(BAR * count / most))
    console.print(table)
    if len(counts) > SHOWN:
        console.print(f"and {len(counts) - SHOWN} more")
