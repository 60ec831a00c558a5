"""Chat formats that may be named, for tokenizers that come without a template, and how one is chosen.

The formats are public; the templates are written here after their descriptions:
`chatml` (OpenAI's chat markup language; tools as in the Hermes function-calling format), `llama3` (Meta's Llama 3.1
model card and prompt formats) and `zephyr` (Tunstall et al. 2023, the HuggingFaceH4 models), which needs no tokens
but the tokenizer's EOS.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, nearest

logger = logging.getLogger("graft")

_CHATML = r"""
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- if system or tools %}
    {{- '<|im_start|>system\n' + system }}
    {%- if tools %}
        {{- ('\n\n' if system else '') + '# Tools\n\nYou may call functions. Their signatures are within ' }}
        {{- '<tools></tools>:' }}
        {{- '\n<tools>\n' }}
        {%- for tool in tools %}
            {{- (tool | tojson) + '\n' }}
        {%- endfor %}
        {{- '</tools>\nFor each call write a JSON object with the name and the arguments within ' }}
        {{- '<tool_call></tool_call>:' }}
        {{- '\n<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>tool\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- elif not (message.role == 'system' and loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if message.content or not loop.first else '' }}
            {{- '<tool_call>\n{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

_LLAMA3 = r"""
{{- bos_token }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- if system or tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\n\n' + system }}
    {%- if tools %}
        {{- ('\n\n' if system else '') + 'You have access to the following functions. To call one, respond ' }}
        {{- 'with JSON in the format {"name": function name, "parameters": dictionary of argument name ' }}
        {{- 'and its value}.\n' }}
        {%- for tool in tools %}
            {{- '\n' + (tool | tojson) }}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'system' and loop.first) %}
        {%- set role = 'ipython' if message.role == 'tool' else message.role %}
        {{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n' if message.content or not loop.first else '' }}
            {{- '{"name": ' + (call.function.name | tojson) + ', "parameters": ' }}
            {{- (call.function.arguments | tojson) + '}' }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

_ZEPHYR = r"""
{%- for message in messages %}
    {%- if message.role not in ('system', 'user', 'assistant') %}
        {{- raise_exception('zephyr knows the roles system, user and assistant, not ' + message.role) }}
    {%- endif %}
    {{- '<|' + message.role + '|>\n' + message.content + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n' }}
{%- endif %}
"""

CHAT_TEMPLATES = {"chatml": _CHATML, "llama3": _LLAMA3, "zephyr": _ZEPHYR}
"""Name -> Jinja template."""
OWN = "tokenizer"
_MARKERS = re.compile(r"<\|(?:im_\w+|eot_id|\w+_header_id)\|>")
"""What must be one token, or the end of a turn is a few pieces of text like any other."""


def template_problems(asked: str | None) -> list[str]:
    """What is wrong with `task.chat_template`, without a tokenizer at hand."""
    if asked is None or asked == OWN or asked in CHAT_TEMPLATES:
        return []
    if not asked.endswith(".jinja"):
        hint = nearest(asked, [*CHAT_TEMPLATES, OWN])
        return [f"task.chat_template: no format is named {asked!r}; {hint}; or name a .jinja file"]
    if not Path(asked).expanduser().is_file():
        return [f"task.chat_template: {asked}: no such file (relative paths start at {Path.cwd()})"]
    return []


def set_template(tokenizer: Any, asked: str | None, *, tools: bool = False) -> None:
    """Give the tokenizer the template that `task.chat_template` asks for; it is saved with it.

    Raises ConfigError, with the choices, when the tokenizer is to bring its own and has none, or when there are `tools`
    and the template does not write them down.
    """
    if asked in CHAT_TEMPLATES:
        template = CHAT_TEMPLATES[asked].strip("\n")
        if "eos_token" in template and tokenizer.eos_token is None:
            raise ConfigError(f"task.chat_template: {asked} ends turns with EOS, and this tokenizer has none")
        tokenizer.chat_template = template
    elif asked is not None and asked != OWN:
        tokenizer.chat_template = Path(asked).expanduser().read_text(encoding="utf-8")
    elif not tokenizer.chat_template:
        raise ConfigError(
            "task.chat_template: the tokenizer has no chat template of its own; name the format the model is to learn: "
            f"{', '.join(CHAT_TEMPLATES)}, or a .jinja file"
        )
    template = tokenizer.get_chat_template(None, [{}])
    _warn_of_pieces(tokenizer, template)
    if tools and "tools" not in template:
        raise ConfigError(
            "data.tools_column: the chat template does not write tools down; name one that does (chatml, llama3) with "
            "task.chat_template, or leave it out"
        )


def _warn_of_pieces(tokenizer: Any, template: str) -> None:
    """Say when the marks of a format are no tokens: the model can learn them so, but nothing ends a turn by itself."""
    known = tokenizer.get_vocab()
    if apart := [mark for mark in dict.fromkeys(_MARKERS.findall(template)) if mark not in known]:
        logger.warning(
            "task.chat_template: this tokenizer has no token for %s and reads each as pieces of text: longer rows, and "
            "nothing that ends a turn when the model writes; set zephyr, which needs only the tokenizer's EOS, or "
            "start from a checkpoint that has them",
            ", ".join(apart),
        )
