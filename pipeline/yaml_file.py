"""Read and write YAML 1.2: every value with its line, no code from tags, no duplicate keys, bounded size."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, ClassVar

import yaml

from pipeline.errors import ConfigError, nearest

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Counted after aliases are followed, so a few lines that stand for billions of values are refused at once."""
MAX_DEPTH = 40

Keys = tuple[str, ...]
"""Place of a value: the keys (and list positions) that lead to it."""


@dataclass
class Document:
    """What a YAML text says."""

    values: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    """Line of every value, counted from 1."""
    texts: dict[Keys, str] = field(default_factory=dict)
    """Numbers and nulls as they were written: `1e-4` for 0.0001, nothing for a key without a value."""


class Loader(yaml.SafeLoader):
    """Composes nodes only. YAML 1.2 core scalars: `NO`, `on` and dates are text, `1e-4` is a number."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=self.peek_event().start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would read as something other than text, so that any reader gets the same values."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


HINTS = {
    "'\\t'": "; indent with spaces, not tabs",
    "mapping values are not allowed": "; is it indented too far, is a blank missing after the colon of the line before,"
    " or is there a ': ' inside a text without quotes?",
    "<block mapping start>": "; lines of one section begin in the same column, and this one does not",
    "could not find expected ':'": "; this line is no `key: value`: is a blank missing after its colon?",
}
"""Words of PyYAML's messages -> what was probably done."""
TAG = "tag:yaml.org,2002:"
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")
SCALARS = {
    "null": (re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    "int": (re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")),
    "float": (FLOAT, list("-+.0123456789")),
}
for _name, (_pattern, _first) in SCALARS.items():
    Loader.add_implicit_resolver(TAG + _name, _pattern, _first)
    Dumper.add_implicit_resolver(TAG + _name, _pattern, _first)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these line breaks as they are, and readers fold them into a space; between double quotes it escapes.
    style = '"' if any(mark in text for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(TAG + "str", text, style=style)


Dumper.add_representer(str, _represent_text)
Dumper.add_representer(tuple, lambda dumper, data: dumper.represent_list(data))
Dumper.add_multi_representer(PurePath, lambda dumper, data: dumper.represent_str(str(data)))
Dumper.add_multi_representer(Enum, lambda dumper, data: dumper.represent_data(data.value))


def read_document(path: str | Path) -> Document:
    """Read the YAML file `path`. Everything that is wrong with the file itself is a ConfigError that names its line."""
    name = str(path)
    text = _read_text(Path(path), name)
    try:
        return _Walk(name).document(yaml.compose(text, Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.context_mark and "expected ':'" in str(error.problem):
            mark = error.context_mark  # the other one is where the next line begins
        line = f":{mark.line + 1}" if mark else ""
        hint = next((hint for words, hint in HINTS.items() if words in str(error.problem)), "")
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{name}{line}: not valid YAML: {said}{hint}") from error
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}:{line_number}: not valid YAML: it holds the control character U+{error.character:04X}; take it out"
        ) from error


def read_mapping(path: str | Path) -> Document:
    """`read_document` for a file whose top level must be keys and values; an empty file is an empty mapping."""
    document = read_document(path)
    if document.values is None:
        document.values = {}
    if not isinstance(document.values, dict):
        got = "a list" if isinstance(document.values, list) else f"{document.values!r:.60}"
        raise ConfigError(f"{path}: expected keys and values such as `task: causal_lm`, got {got}")
    return document


def read_yaml(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in the YAML file `path`, and the line of every dotted path in it."""
    document = read_mapping(path)
    return document.values, {".".join(keys): line for keys, line in document.lines.items() if keys}


def read_value(text: str) -> Document:
    """A value given on the command line: `[a, b]`, `{a: 1}` and quoted text as in YAML, else one plain scalar.

    Text that only looks like a list (`[`, say, as a delimiter) stays text.
    """
    if text[:1] in ("[", "{", "'", '"'):
        try:
            return _Walk("").document(yaml.compose(text, Loader))
        except yaml.YAMLError:
            return Document(text)
    if not text:
        return Document("")
    tag = Loader("").resolve(yaml.ScalarNode, text, (True, False))
    return _Walk("").document(yaml.ScalarNode(tag, text))


def write_yaml(values: dict[str, Any]) -> str:
    """YAML that `read_yaml` reads back to the same values."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


def _read_text(path: Path, name: str) -> str:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{name}: {error}") from error
    if path.is_dir():
        inside = sorted(child.name for child in path.iterdir() if child.suffix in (".yaml", ".yml"))
        hint = f"; it holds {', '.join(inside[:8])}" if inside else ""
        raise ConfigError(f"{name}: is a folder, expected a YAML file{hint}")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file{_neighbour(path)}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"{name}: larger than {MAX_BYTES // 1_000_000} MB, which no configuration is; is it the data file?"
        )
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _neighbour(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"; the folder '{folder}' does not exist either"
    siblings = [child.name for child in folder.iterdir() if child.is_file()]
    configs = [name for name in siblings if name.endswith((".yaml", ".yml"))]
    return f"; {nearest(path.name, configs or siblings)}" if siblings else f"; the folder '{folder}' holds no file"


class _Walk:
    """Turns nodes into plain values, keeping lines and texts. Constructs nothing but text, numbers, lists and dicts."""

    def __init__(self, name: str):
        self.name = name
        self.count = 0
        self.out = Document()

    def document(self, node: yaml.Node | None) -> Document:
        self.out.values = None if node is None else self.value(node, ())
        return self.out

    def value(self, node: yaml.Node, at: Keys) -> Any:
        self.count += 1
        if self.count > MAX_VALUES or len(at) > MAX_DEPTH:
            raise self.problem(node, "its aliases (*name) stand for too many values; write them out")
        self.out.lines[at] = node.start_mark.line + 1 if node.start_mark else 1
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(child, (*at, str(index))) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", *SCALARS):
            if kind in ("null", "int", "float"):
                self.out.texts[at] = node.value
            return self.scalar(node, kind)
        raise self.problem(node, f"the tag {node.tag.replace(TAG, '!!')!r} is not allowed; write the plain value")

    def mapping(self, node: yaml.MappingNode, at: Keys) -> dict[Any, Any]:
        out: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.problem(key_node, "a key must be text, not a list or a mapping")
            key: Hashable = self.scalar(key_node, key_node.tag.removeprefix(TAG))
            if key is None or isinstance(key, bool):
                raise self.problem(key_node, f"a key must be text, got {key_node.value!r}; put it in quotes")
            if key == "<<":
                raise self.problem(key_node, "merge keys (<<) are not supported; write the keys out")
            if key in out:
                raise self.problem(key_node, f"the key {key_node.value!r} is here twice (first in line {first[key]})")
            place = (*at, str(key))
            out[key] = self.value(value_node, place)
            first[key] = self.out.lines[place] = key_node.start_mark.line + 1 if key_node.start_mark else 1
        return out

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text: str = node.value
        if kind == "str":
            return text
        if kind not in SCALARS or not SCALARS[kind][0].match(text):
            raise self.problem(node, f"{text!r} does not go with its tag {node.tag.replace(TAG, '!!')!r}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int" and len(text) > 400:
            raise self.problem(node, f"a number of {len(text)} digits; put it in quotes if it is text")
        if kind == "int":
            return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))

    def problem(self, node: yaml.Node, sentence: str) -> ConfigError:
        if not self.name:
            return ConfigError(sentence)
        return ConfigError(f"{self.name}:{node.start_mark.line + 1 if node.start_mark else 1}: {sentence}")
