"""Files that are written whole or not at all, and never over another one."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import ConfigError


def write_text(path: Path, text: str) -> None:
    """Write beside the file and rename. Raises OSError; the file is then what it was before."""
    temporary = path.with_name(f".{path.name}")  # always the same one: what a kill leaves, the next takes
    try:
        temporary.write_text(text)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_place(path: Path, key: str) -> None:
    """Raise ConfigError, naming the setting `key`, where no file or folder of that name can be made."""
    above = next(folder for folder in path.absolute().parents if os.path.exists(folder))  # not in a closed folder
    if not above.is_dir():
        raise ConfigError(f"{key}: {path} cannot be written, since {above} is a file; name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {path} cannot be written, since {above} is closed to you; name another place")
    try:
        path.exists()
    except OSError as error:  # a name of 300 letters
        raise ConfigError(f"{key}: {path} cannot be written ({error.strerror}); name another place") from error
