"""The rows of `causal_lm`: which columns they have, and the prompts and conversations in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.data import DataConfig, Kind, listed
from pipeline.tasks.chat import Chat
from pipeline.tasks.conversations import answered, messages_of, system_message, tools_of

ANSWER = "."
"""In place of a response that is to be written."""
Rows = Mapping[str, Sequence[Any]]


def columns_of(data: DataConfig) -> dict[str, Kind]:
    """The columns of a row, by name, with the kind of each."""
    found: dict[str | None, Kind] = {data.text_column or "text": "text"}  # type: ignore[dict-item]
    if data.messages_column:
        found = {data.messages_column: "json"}
        found |= {data.tools_column: "any_json", data.system_column: "any_text"}
    elif data.prompt_column is not None:
        first, *others = _prompt_columns(data)
        found = {first: "text", data.response_column: "text", data.system_column: "any_text"}
        found |= dict.fromkeys(others, "any_text")
    return {name: kind for name, kind in found.items() if name is not None}


def _prompt_columns(data: DataConfig) -> list[str]:
    return listed(data.prompt_column or [])


def to_be_answered(data: DataConfig) -> DataConfig:
    """The same columns where no row has a response yet; a plain text is a prompt, and what follows is the response."""
    changed: dict[str, Any] = {"packing": "none"}
    if data.prompt_column is None and data.messages_column is None:
        column = data.text_column or "text"
        changed |= {"prompt_column": column, "text_column": None, "response_column": f"{column} goes on"}
    return data.model_copy(update=changed)


def placeholders(rows: Rows, data: DataConfig) -> dict[str, list[Any]]:
    """Something in place of the response of every row; a conversation that has its last answer stays as it is."""
    if data.messages_column:
        return {data.messages_column: [answered(cell, ANSWER) for cell in rows[data.messages_column]]}
    return {str(data.response_column): [ANSWER for _ in rows[_prompt_columns(data)[0]]]}


def chats_of(rows: Rows, data: DataConfig) -> tuple[list[Chat], dict[int, str]]:
    """Conversations, or pairs as conversations of one turn, and what is wrong with which rows, by number."""
    chats: list[Chat] = []
    bad: dict[int, str] = {}
    names = list(columns_of(data))
    for number, cells in enumerate(zip(*(rows[name] for name in names), strict=True)):
        try:
            chats.append(_chat(dict(zip(names, cells, strict=True)), data))
        except ValueError as error:
            bad[number] = str(error)
    return chats, bad


def _chat(row: Mapping[str, str], data: DataConfig) -> Chat:
    system = row[data.system_column] if data.system_column else ""
    if data.messages_column:
        tools = tools_of(row[data.tools_column]) if data.tools_column else None
        return messages_of(row[data.messages_column], system), tools
    assert data.response_column is not None
    answer = {"role": "assistant", "content": row[data.response_column]}
    return [*system_message(system), {"role": "user", "content": _prompt(row, data)}, answer], None


def prompts_of(rows: Rows, data: DataConfig) -> list[str]:
    """The prompts of pairs, each behind the system prompt of its row."""
    cells = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    system = data.system_column
    parts = [([row[system]] if system and row[system] else []) + [_prompt(row, data)] for row in cells]
    return ["\n".join(part) for part in parts]


def _prompt(row: Mapping[str, str], data: DataConfig) -> str:
    return "\n".join(row[column] for column in _prompt_columns(data) if row[column])
