"""Messages to tokens through a chat template, and which of these tokens the assistant wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigError
from pipeline.tasks.base import Features
from pipeline.tasks.conversations import Message

Span = tuple[int, int]
Tools = list[dict[str, Any]] | None
Chat = tuple[list[Message], Tools]
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag by which a template itself says what the assistant wrote."""


def render(tokenizer: Any, messages: list[Message], tools: Tools, *, prompt: bool = False) -> tuple[str, list[Span]]:
    """The text of a conversation, and the spans within the template's `generation` tags.

    `prompt`: with the header of the assistant's next message at the end. Raises ValueError when the template refuses
    the conversation, ConfigError when the template itself is broken.
    """
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    template = tokenizer.get_chat_template(None, tools)
    tagged = GENERATION.search(template) is not None
    try:
        found: Any = render_jinja_template(
            conversations=[messages],
            tools=[*tools] if tools else None,
            chat_template=template,
            return_assistant_tokens_mask=tagged,
            add_generation_prompt=prompt,
            **tokenizer.special_tokens_map,
        )
    except TemplateSyntaxError as error:
        raise ConfigError(f"task.chat_template: line {error.lineno} of the template: {error.message}") from error
    except (TemplateError, TypeError, ValueError) as error:
        raise ValueError(f"is refused by the chat template: {error}") from error
    (text,), spans = found
    return text, spans[0] if tagged else []


def turns(tokenizer: Any, messages: list[Message], tools: Tools, text: str) -> list[Span]:
    """Where in the rendered `text` each message of the assistant stands, with what ends its turn.

    A turn begins where the rendering of the messages before it, with the header of the assistant, ends, and ends where
    the rendering up to its message ends. Both must be beginnings of the whole. Raises ValueError where they are not.
    """
    found: list[Span] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = render(tokenizer, messages[:number], tools, prompt=True)
        until, _ = render(tokenizer, messages[: number + 1], tools)
        if not (text.startswith(until) and until.startswith(before)):
            raise ValueError(
                f"turn {len(found) + 1} of the assistant: the chat template does not write the beginning of a "
                "conversation as it writes the whole, so where the assistant's words stand cannot be told; mark them "
                "in it with {% generation %}...{% endgeneration %}, or name another one with task.chat_template"
            )
        found.append((len(before), end_of_turn(until, message["content"])))
    return found


def end_of_turn(until: str, content: str) -> int:
    """The end of a turn without the white space behind its end mark, which belongs to the template.

    Without a mark the white space is the only end there is.
    """
    stripped = until.rstrip()
    return len(until) if content and stripped.endswith(content.rstrip()) else len(stripped)


def end_mark(tokenizer: Any) -> int | None:
    """The token that the template sets behind the assistant's words; None where it sets none, or several."""
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        text, _ = render(tokenizer, messages, None)
    except ValueError:  # a template with rules of its own
        return None
    behind = text.rpartition("answer")[2].strip()
    ids = tokenizer(behind, add_special_tokens=False, verbose=False)["input_ids"]
    return ids[0] if len(ids) == 1 else None


def encode_chats(
    tokenizer: Any, chats: Sequence[Chat], *, max_length: int, assistant_only: bool
) -> tuple[Features, dict[int, str]]:
    """Conversations to features, and what is wrong with which of them, by number.

    Features: `input_ids`; `trained`, 1 for each token with a loss; `num_trained`, their number; `num_prompt_tokens`,
    how many come before the assistant's last message; `num_bytes` of the text of the learned tokens; `full_length`.
    Each conversation is rendered and tokenized as a whole, so that learned tokens are those the model will meet; BOS is
    the template's to write.
    """
    texts, spans, problems = [], [], {}
    for number, (messages, tools) in enumerate(chats):
        try:
            text, tagged = render(tokenizer, messages, tools)
            said = tagged or turns(tokenizer, messages, tools, text)
            _refuse_omissions(messages, "".join(text[start:end] for start, end in said))
            spans.append(said)
            texts.append(text)
        except ConfigError:
            raise
        except ValueError as error:
            problems[number] = str(error)
    names = ("input_ids", "trained", "num_trained", "num_prompt_tokens", "num_bytes", "full_length")
    features: Features = {name: [] for name in names}
    if not texts:
        return features, problems
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    special = set(tokenizer.all_special_ids)
    for text, marked, ids, offsets in zip(texts, spans, found["input_ids"], found["offset_mapping"], strict=True):
        last = marked[-1][0]
        learned = trained_tokens(offsets, marked if assistant_only else [(0, len(text))])[:max_length]
        learned[0] = 0  # nothing comes before the first token
        kept = [span for span, token, flag in zip(offsets, ids, learned, strict=False) if flag and token not in special]
        features["input_ids"].append(ids[:max_length])
        features["trained"].append(learned)
        features["num_trained"].append(sum(learned))
        features["num_prompt_tokens"].append(sum(end <= last for _, end in offsets[:max_length]))
        features["num_bytes"].append(_bytes(text, kept))
        features["full_length"].append(len(ids))
    return features, problems


def trained_tokens(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """1 for each token whose last character lies in one of the spans.

    The last one, because tokenizers leave the space before a word out of its offsets, or take it in: a word that a
    template sets behind a space is one token with that space.
    """
    return [int(any(start < end <= stop for start, stop in spans)) for _, end in offsets]


def _bytes(text: str, offsets: Sequence[Span]) -> float:
    """UTF-8 bytes of the text under some tokens; a character of several tokens counts once."""
    total, done = 0, 0
    for start, end in offsets:
        total += len(text[max(start, done) : end].encode("utf-8", "surrogatepass"))
        done = max(done, end)
    return float(total)


def _refuse_omissions(messages: list[Message], said: str) -> None:
    """A template that knows no calls, or only content in parts, leaves them out without a word."""
    replies = [message for message in messages if message["role"] == "assistant"]
    for number, message in enumerate(replies, 1):
        # thoughts of earlier turns are left out on purpose
        wanted = [message["content"].rpartition("</think>")[2].strip()]
        wanted += [call["function"]["name"] for call in message.get("tool_calls", ())]
        if missing := [words for words in wanted if words not in said]:
            shown = missing[0] if len(missing[0]) <= 40 else f"{missing[0][:37]}..."
            raise ValueError(
                f"turn {number} of the assistant: the chat template leaves out {shown!r}; name another one with "
                "task.chat_template"
            )
