"""Copies of a run's files that say nothing of the machine: folders are left out of names, the rest is untouched."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.hub_names import is_hub_id
from pipeline.safe_text import without_paths
from pipeline.yaml_file import read_mapping, write_yaml

Change = Callable[[str, str], str]
"""(key, text) -> text."""
LOCAL = re.compile(r"(?:file://)?(?:~[^/\s]*/.+|/[^/]+/.+)|[A-Za-z]:[\\/].+|\\\\.+")
NAMES_A_PLACE = re.compile(r"(?:name_or_path|_file|_path|_dir|_folder)$")


def without_folders(text: str) -> str:
    """The last name of a text that is an absolute path or one in a home folder; any other text as it is."""
    return without_paths(text.rstrip("/\\")) if LOCAL.fullmatch(text) else text


def without_places(text: str, places: list[Path]) -> str:
    """The text with every path below one of these folders cut to its last name."""
    for place in sorted({str(place) for place in places}, key=len, reverse=True):
        if len(place) > 1:
            text = re.sub(
                rf"(?<![\w.~-]){re.escape(place)}((?:/[^\s'\"`,;:)]+)?)(?![\w.-])",
                lambda found: PurePosixPath(found[0]).name,
                text,
            )
    return text


def of_command(words: str | list[str]) -> str | list[str]:
    """A command line whose paths are cut to their last names, also in `--key=value`."""
    if isinstance(words, list):
        return [without_paths(str(word)) for word in words]
    try:
        return shlex.join(map(without_paths, shlex.split(words)))
    except ValueError:  # a quote that is not closed
        return without_paths(words)


def walk(value: Any, change: Change, key: str = "") -> Any:
    """JSON or YAML with every text changed; `change` gets the key it stands under too."""
    if isinstance(value, Mapping):
        return {name: walk(inner, change, str(name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [walk(inner, change, key) for inner in value]
    return change(key, value) if isinstance(value, str) else value


def clean_run(run_dir: Path, folder: Path, names: tuple[str, ...], base_model_id: str | None) -> None:
    """Write cleaned copies of a run's text files into `folder`."""
    places = [Path.home(), Path.cwd(), run_dir.absolute(), run_dir.resolve()]
    for name in names:
        if not (run_dir / name).is_file():
            continue
        if name.endswith(".yaml"):
            text = write_yaml(walk(read_mapping(run_dir / name).values, lambda _, text: without_folders(text)))
        else:
            text = (run_dir / name).read_text(encoding="utf-8")
        if name == "manifest.json":
            text = _as_json(_manifest(json.loads(text), base_model_id))
        elif name == "data.json":
            text = _as_json(walk(json.loads(text), lambda _, text: without_folders(text)))
        (folder / name).write_text(without_places(text, places), encoding="utf-8")


def _manifest(manifest: dict[str, Any], base_model_id: str | None) -> dict[str, Any]:
    cleaned: dict[str, Any] = {
        key: of_command(value) if key == "command" and value else walk(value, lambda _, text: without_folders(text))
        for key, value in manifest.items()
    }
    if base_model_id is not None:
        cleaned["model"] = {**dict(manifest.get("model") or {}), "name": base_model_id, "local": False}
    return cleaned


def clean_json(path: Path, base_model_id: str | None) -> str | None:
    """A model's JSON file without local paths; None when it holds none. In an adapter's, the base gets its hub name."""
    before = json.loads(path.read_text(encoding="utf-8"))

    def change(key: str, text: str) -> str:
        if key == "base_model_name_or_path" and not on_hub(text):
            return base_model_id or os.path.basename(text.rstrip("/\\")) or text
        return without_folders(text) if NAMES_A_PLACE.search(key) else text

    after = walk(before, change)
    return None if after == before else _as_json(after)


def on_hub(name: str) -> bool:
    """Whether a model's name is a hub id and not that of a folder here."""
    return is_hub_id(name) and not Path(name).exists()


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
