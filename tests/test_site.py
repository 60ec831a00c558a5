"""The documentation builds without a warning, and holds a page for each thing a user looks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.config import json_schema
from pipeline.settings import RunConfig
from tests.doc_blocks import OUTPUT, PAGES, blocks_of

ROOT = Path(__file__).resolve().parents[1]


def test_the_pages_build_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= pages and len(pages) > 10
    settings = (tmp_path / "site" / "settings.html").read_text()
    assert "learning_rate" in settings and "lora_alpha" in settings


def test_no_line_of_code_is_hidden_at_the_right() -> None:
    """A page shows 90 characters of code beside its navigation; the rest would have to be scrolled to."""
    lines = {
        f"{block.place}, line {number}": len(line)
        for block in (block for page in PAGES for block in blocks_of(page))
        if block.page.parent.name == "docs" and block.page.name != "settings.md" and block.language not in OUTPUT
        for number, line in enumerate(block.code.splitlines(), 1)
    }
    assert len(lines) > 100 and not {place: size for place, size in lines.items() if size > 90}


def test_every_setting_says_what_it_does() -> None:
    sections = json_schema(RunConfig)["$defs"]
    assert not [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, field in section.get("properties", {}).items()
        if not field.get("description")
    ]
