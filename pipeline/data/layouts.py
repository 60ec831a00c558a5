"""How rows of well-known forms (Alpaca, ShareGPT, OpenAI, KTO) are named in the data section, for error messages."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.aliases import ONLY_MARKED

_PROMPTS = "set data.prompt_column: {prompt} and data.response_column: {response}"
_LAYOUTS: list[tuple[tuple[str, ...], set[str], str]] = [
    (("text",), {"instruction", "input", "output"}, _PROMPTS.format(prompt="[instruction, input]", response="output")),
    (("text",), {"instruction", "output"}, _PROMPTS.format(prompt="instruction", response="output")),
    (("text",), {"prompt", "completion"}, _PROMPTS.format(prompt="prompt", response="completion")),
    (("text",), {"conversations", "tools"}, "set data.messages_column: conversations and data.tools_column: tools"),
    (("text", "prompt"), {"conversations"}, "set data.messages_column: conversations"),
    (("text",), {"messages", "tools"}, "set data.messages_column: messages and data.tools_column: tools"),
    (("text",), {"messages"}, "set data.messages_column: messages"),
    (("prompt",), {"instruction", "input", "chosen"}, "set data.prompt_column: [instruction, input]"),
    (("prompt",), {"instruction", "chosen"}, "set data.prompt_column: instruction"),
    (("chosen", "rejected"), {"label"}, ONLY_MARKED),
]
"""Columns that were looked for, the columns there are instead, and what to do."""


def layout_hint(missing: str, known: Iterable[str]) -> str | None:
    """What to do when a column is missing from rows of a known form; None for other rows."""
    there = set(known)
    return next((said for wanted, columns, said in _LAYOUTS if missing in wanted and columns <= there), None)
