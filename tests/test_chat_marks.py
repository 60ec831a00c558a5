"""Marks of a chat format that a tokenizer does not have as tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipeline.tasks.chat_templates import CHAT_TEMPLATES
from tests.test_chat import chat_task
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), style="decoder")


@pytest.mark.parametrize("template", [*CHAT_TEMPLATES, "own.jinja"])
def test_marks_that_are_no_tokens_are_said(
    template: str, tokenizer_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the template comes from; zephyr has none but EOS, and a tokenizer that has them hears nothing."""
    if template.endswith(".jinja"):
        (tmp_path / template).write_text(CHAT_TEMPLATES["chatml"])
    name = str(tmp_path / template) if template.endswith(".jinja") else template
    chat_task(tokenizer_folder, name)
    marks = {"llama3": "<|start_header_id|>, <|end_header_id|>, <|eot_id|>", "zephyr": ""}
    wanted = marks.get(template, "<|im_start|>, <|im_end|>")
    said = [message for message in caplog.messages if "has no token for" in message]
    assert len(said) == bool(wanted) and all(f"for {wanted} and" in text and "zephyr" in text for text in said)
    caplog.clear()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_tokens(wanted.split(", ") if wanted else [], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "with")
    chat_task(tmp_path / "with", name)
    assert not caplog.messages
