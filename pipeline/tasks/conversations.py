"""A conversation as it stands in a data file to the messages a chat template takes.

Two spellings are read: `{role, content}` (OpenAI) and `{from, value}` (ShareGPT). What is wrong is a ValueError whose
sentence follows the name of the column.
"""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""The roles of both spellings -> those of chat templates."""
KEPT = ("name", "tool_call_id", "reasoning_content", "thinking")
"""What else of a message a template may read."""


def messages_of(cell: str, system: str = "") -> list[Message]:
    """The messages of a JSON list, behind the system prompt of another column where there is one."""
    found = json.loads(cell)
    if not isinstance(found, list):
        raise ValueError('is an object, expected a list of messages such as [{"role": "user", "content": "Hi"}, ...]')
    if not found:
        raise ValueError("is an empty list, expected messages; fill it in or drop the row")
    messages = []
    for number, given in enumerate(found, 1):
        try:
            messages.append(_message(given))
        except ValueError as error:
            raise ValueError(f"message {number} {error}") from None
    roles = [message["role"] for message in messages]
    if system and "system" in roles:
        raise ValueError("has a system message, and data.system_column has one for the same row; keep one of them")
    if next((role for role in roles if role != "system"), None) == "assistant":
        raise ValueError("begins with the assistant, and there is nothing it answers; take that message out")
    if roles[-1] != "assistant":
        raise ValueError(
            f"ends with a {roles[-1]} message, behind which there is nothing to learn; end it with the assistant's "
            "answer, or drop the row"
        )
    return [*system_message(system), *messages]


def answered(cell: str, answer: str) -> str:
    """The same conversation with an answer of the assistant at its end, where the last message is somebody else's."""
    found = json.loads(cell)
    last = found[-1] if isinstance(found, list) and found else None
    role = last.get("role", last.get("from")) if isinstance(last, dict) else "assistant"
    if ROLES.get(str(role)) == "assistant" or not isinstance(last, dict):
        return cell
    return json.dumps([*found, {"role": "assistant", "content": answer}], ensure_ascii=False)


def system_message(system: str) -> list[Message]:
    """The message of a system prompt; none when it is empty."""
    return [{"role": "system", "content": system}] if system else []


def tools_of(cell: str) -> list[dict[str, Any]] | None:
    """The tools of a JSON list, each as `{type: function, function: {name, ...}}`; None when there are none."""
    found = json.loads(cell) if cell else []
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise ValueError('is not a list of tools such as [{"name": ..., "description": ..., "parameters": {...}}]')
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in found] or None


def _message(given: Any) -> Message:
    if not isinstance(given, dict):
        raise ValueError(f"is {_shorten(given)}, expected an object with role and content (or from and value)")
    said = given.get("role", given.get("from"))
    if not isinstance(said, str) or said not in ROLES:
        what = "has no role" if said is None else f"has the unknown role {_shorten(said)}"
        raise ValueError(f"{what}; known: {', '.join(ROLES)}")
    content = _text(given.get("content", given.get("value", "")))
    message: Message = {"role": ROLES[said], "content": content}
    message |= {key: given[key] for key in KEPT if key in given}
    calls = given.get("tool_calls")
    if said == "function_call":
        calls, message["content"] = _json(content, "the call of a function"), ""
    if calls:
        message["tool_calls"] = [_call(call) for call in (calls if isinstance(calls, list) else [calls])]
    elif not content and message["role"] != "tool":  # a tool may have nothing to say
        raise ValueError(f"({said}) is empty; fill it in or drop the row")
    return message


def _text(content: Any) -> str:
    """The text of a message; of a list of parts, all of which must be text, they are joined."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ValueError(f"holds {_shorten(content)}, expected text (images and sound are not read)")
    return content


def _call(given: Any) -> dict[str, Any]:
    """A call in either spelling; templates take its arguments as an object, never as text."""
    function = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"calls {_shorten(given)}, expected an object with name and arguments")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, "arguments of a function")
    if not isinstance(arguments, dict):
        raise ValueError(f"has the arguments {_shorten(arguments)}, expected an object")
    return {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"is {_shorten(text)}, expected {what} as JSON") from None


def _shorten(value: Any) -> str:
    shown = repr(value)  # a control character in the data must not reach the terminal
    return shown if len(shown) <= 60 else shown[:57] + "..."
