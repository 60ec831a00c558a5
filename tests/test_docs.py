"""Every YAML block of the documentation is a configuration that graft takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import load
from pipeline.settings import RunConfig, check, user_strategy

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{number}")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", path.read_text(), re.DOTALL))
]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 12


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_a_configuration(block: str) -> None:
    given: dict[str, Any] = {"task": "causal_lm", "model": {"model_name_or_path": "somewhere"}, **yaml.safe_load(block)}
    check(load(RunConfig, given, extra_section=user_strategy), has_validation=True)
