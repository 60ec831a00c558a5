"""Other people's text on a terminal or in a page: it may not drive either, and it may not hold a secret."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

CREDENTIAL = re.compile(
    r"\b(?:hf_|api_org_)[A-Za-z0-9]{20,}"
    r"|\b(?:sk-|glpat-)[A-Za-z0-9_-]{20,}"
    r"|\b(?:gh[opsur]_|github_pat_)[A-Za-z0-9_]{20,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bAIza[A-Za-z0-9_-]{35}\b"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|(?<=://)[^/\s@'\"]+(?=@)"
)
"""Access tokens by the beginnings their makers gave them, private keys, and what stands before the @ of an address."""
FOLDERS = re.compile(
    r"(?<![\w/\\.:~-])(?:file:/{2})?(?:~[\w-]*|[A-Za-z]:)?"
    r"[/\\]+(?:[^\s/\\'\",;=\[\]{}][^/\\'\",;=\[\]{}]*[/\\]+)*(?=[^\s/\\])"
)
"""The folders of an absolute path, up to its last name; a name may have spaces in it."""
NAMED = re.compile(
    r"(?:token|api[_-]?key|access[_-]?key|secret|passwd|password)[\"']*\s*[:=]\s*[\"']*"
    r"(?=[^\s\"',]*[0-9])(?=[^\s\"',]*[A-Za-z])[A-Za-z0-9+/_.~-]{16,}={0,2}(?![^\s\"',;)}\]])",
    re.IGNORECASE,
)
"""`token: ...` and the like: a value of letters and digits that is named as a secret."""
SECRET_NAME = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$", re.IGNORECASE)
SHORTEST_SECRET = 8
MASK = "***"


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Text that cannot drive a terminal or reorder a line: control and bidirectional characters become U+FFFD."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    text = text if keep_lines else " ".join(text.split("\n"))
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else "\ufffd"
        for character in text
    )


def has_credential(text: str) -> bool:
    """Whether a token or an address with a user name or password in it stands in the text."""
    return CREDENTIAL.search(text) is not None


def without_paths(word: str) -> str:
    """One word of a command, or one name, in which an absolute path has become its last name.

    Not for sentences: between two paths they would be taken for one.
    """
    return FOLDERS.sub("", word)


def in_environment() -> dict[str, str]:
    """Environment variables whose names say secret."""
    return {
        name: value for name, value in os.environ.items() if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET
    }


def lines_with_secrets(text: str, *, by_name: bool = True) -> list[tuple[int, str]]:
    """(line from 1, what it looks like) of every secret in a text, in order; `by_name` counts `token: ...` too."""
    found: dict[int, str] = {}
    patterns = [(CREDENTIAL, "an access token, a private key, or an address with a password")]
    if by_name:
        patterns.append((NAMED, "a secret by its name"))
    for pattern, what in patterns:
        for match in pattern.finditer(text):
            found.setdefault(text.count("\n", 0, match.start()) + 1, what)
    for name, value in in_environment().items():
        if (at := text.find(value)) >= 0:
            found.setdefault(text.count("\n", 0, at) + 1, f"the value of {name} of this environment")
    return sorted(found.items())


def masked(text: str) -> str:
    """The text without credentials, also without the values of environment variables whose names say secret."""
    for value in in_environment().values():
        text = text.replace(value, MASK)
    return CREDENTIAL.sub(MASK, text)


class SafeFormatter(logging.Formatter):
    """Log lines, and the traceback of one that has it, cleaned and masked."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(masked(super().format(record)), keep_lines=True)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the moment, which progress on a terminal stands in for."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def print_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A `sys.excepthook`: what a library says when it breaks may hold an address with a password in it."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(clean(masked(text), keep_lines=True), end="", file=sys.stderr, flush=True)
