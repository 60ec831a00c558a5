"""Settings of Sphinx: `make docs` builds these pages, and a warning is an error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import json_schema
from pipeline.settings import RunConfig
from pipeline.tasks import TASKS

HERE = Path(__file__).parent
project = "graft"
copyright = "the graft authors, Apache-2.0"
release = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"graft {release}"
html_static_path = ["_static"]
html_css_files = ["page.css"]
highlight_language = "bash"  # of what is indented: commands
exclude_patterns = ["_build"]
nitpicky = True


def write_settings(app: Any) -> None:
    """settings.md: every setting with its default and what it does, from the sections that declare them."""
    schema, alone, parts = json_schema(RunConfig), [], []
    for name in (name for name in schema["properties"] if name in RunConfig.model_fields):
        field = schema["properties"][name]
        found = re.search(r"#/\$defs/(\w+)", str(field))
        section = schema["$defs"][found.group(1)] if found and name != "task" else None
        if section is None:
            alone.append(row(name, field))
        else:
            parts += [f"## {name}", section.get("description", ""), rows(section)]
    for name, kind in TASKS.items():
        section = kind.Config.model_json_schema()
        section["properties"].pop("name")
        if section["properties"]:
            parts += [f"## task: {{name: {name}}}", rows(section)]
    intro = "As `graft config schema` tells editors; `graft config show my.yaml` fills them in."
    text = "\n\n".join(part for part in ("# Every setting", intro, table(alone), *parts) if part) + "\n"
    path = HERE / "settings.md"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def rows(section: Any) -> str:
    return table([row(name, field) for name, field in section.get("properties", {}).items()])


def row(name: str, field: Any) -> str:
    unset = "default" not in field or field["default"] is None or isinstance(field["default"], dict)
    meaning = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
    return f"| `{name}` | {'' if unset else '`' + json.dumps(field['default']) + '`'} | {meaning} |"


def table(rows: list[str]) -> str:
    return "\n".join(["| setting | default | what it does |", "| --- | --- | --- |", *rows]) if rows else ""


def setup(app: Any) -> None:
    app.connect("builder-inited", write_settings)
