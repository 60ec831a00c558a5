"""Settings of Sphinx: `make docs` builds these pages, and a warning is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import json_schema
from pipeline.settings import RunConfig

HERE = Path(__file__).parent
project = "graft"
copyright = "the graft authors, Apache-2.0"
release = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"graft {release}"
exclude_patterns = ["_build"]
nitpicky = True


def write_settings(app: Any) -> None:
    """settings.md: every setting with its default and what it does, from the sections that declare them."""
    schema = json_schema(RunConfig)
    parts = ["# Every setting", "As `graft config schema` tells editors; `graft config show my.yaml` fills them in."]
    alone = []
    for name, field in schema["properties"].items():
        found = re.search(r"#/\$defs/(\w+)", str(field))
        section = schema["$defs"][found.group(1)] if found else None
        if section is None or name in ("task", "extensions"):
            alone.append(row(name, field))
        else:
            rows = [row(key, value) for key, value in section.get("properties", {}).items()]
            parts += [f"## {name}", section.get("description", ""), table(rows)]
    parts.insert(2, table(alone))
    text = "\n\n".join(part for part in parts if part) + "\n"
    path = HERE / "settings.md"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def row(name: str, field: Any) -> str:
    default = "" if "default" not in field or isinstance(field["default"], dict) else f"`{field['default']}`"
    meaning = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
    return f"| `{name}` | {default} | {meaning} |"


def table(rows: list[str]) -> str:
    return "\n".join(["| setting | default | |", "| --- | --- | --- |", *rows]) if rows else ""


def setup(app: Any) -> None:
    app.connect("builder-inited", write_settings)
