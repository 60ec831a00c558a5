"""Files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write beside the file and rename. Raises OSError; the file is then what it was before."""
    temporary = path.with_name(f".{path.name}")  # always the same one: what a kill leaves, the next takes
    try:
        temporary.write_text(text)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
