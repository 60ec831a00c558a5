"""Which settings of `causal_lm` go together."""

from __future__ import annotations

from typing import Any

from pipeline.data import DataConfig
from pipeline.tasks import generation
from pipeline.tasks.chat_templates import template_problems
from pipeline.tasks.language import text_only

SEPARATOR = "\n"


def problems_of(config: Any, data: DataConfig, *, chatting: bool) -> list[str]:
    """What does not go together, one sentence each. `chatting`: rows go through a chat template."""
    plain = data.prompt_column is None and data.messages_column is None
    found = [*text_only(data), *template_problems(config.chat_template), *_columns(data, plain=plain)]
    if config.chat_template and plain:
        found.append("task.chat_template: plain text is read as it is; leave it out, or name data.messages_column")
    if not config.assistant_only_loss and not chatting:
        found.append("task.assistant_only_loss: false is for conversations and for pairs with a task.chat_template")
    if config.separator != SEPARATOR and chatting:
        found.append("task.separator: is written by the chat template here; leave it out")
    return [*found, *_writing(config, data)]


def _columns(data: DataConfig, *, plain: bool) -> list[str]:
    found = []
    if data.messages_column is None and (data.prompt_column is None) != (data.response_column is None):
        given = "response_column" if data.prompt_column is None else "prompt_column"
        found.append(f"data.{given}: prompt_column and response_column go together; give both or neither")
    if data.prompt_column == []:
        found.append("data.prompt_column: the list is empty; name at least one column")
    if not plain and data.packing == "blocks":
        found.append("data.packing: blocks joins plain text; set best_fit or none for pairs and conversations")
    for key in ("prompt_column", "response_column"):
        if data.messages_column and vars(data)[key]:
            found.append(f"data.{key}: stands beside messages_column; rows are conversations or pairs, not both")
    if not plain and data.text_column:
        found.append(
            "data.text_column: is for plain text; give it or prompt_column and response_column (or messages_column), "
            "not both"
        )
    if data.tools_column and data.messages_column is None:
        found.append("data.tools_column: is for conversations; set messages_column, or leave it out")
    if data.system_column and plain:
        found.append("data.system_column: plain text has no system prompt; leave it out")
    return found


def _writing(config: Any, data: DataConfig) -> list[str]:
    """What does not go with writing at evaluation."""
    found = generation.problems(config.generate)
    plain = data.prompt_column is None and data.messages_column is None
    if config.generate and plain and not config.sample_prompts:
        found.append(
            "task.generate: rows of plain text have no prompt to answer; give data.prompt_column and "
            "data.response_column, or task.sample_prompts"
        )
    if config.generate and not plain and data.packing == "best_fit":
        found.append("task.generate: answers one row at a time, and packed rows hold several; set data.packing: none")
    return found
