"""Strict, typed configuration: YAML and flags to pydantic sections, with every problem said at once."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from pipeline.checking import Places, finished, refuse_credentials, validate
from pipeline.errors import ConfigError, UserError, nearest
from pipeline.placing import EXTENSIONS, OPAQUE, Layout, Source, Tree
from pipeline.wording import section_type
from pipeline.yaml_file import read_mapping, read_yaml, write_yaml

__all__ = ["Section", "check_section", "dump", "json_schema", "load", "read_yaml", "resolve", "saying_where"]


class Section(BaseModel):
    """One section of the configuration, closed: an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=True,
        allow_inf_nan=False,
    )
    _places: Places = PrivateAttr(default_factory=Places)
    """Where its keys were written; of the configuration as a whole only."""


S = TypeVar("S", bound=Section)
T = TypeVar("T")


def resolve(registry: Mapping[str, T], name: str, *, what: str) -> T:
    """The entry `name` of a registry, or the object that `my_module:MyTask` names (the current folder counts)."""
    if ":" not in name:
        if name in registry:
            return registry[name]
        raise ConfigError(f"{what}: unknown name {name!r}; {nearest(name, registry)}")
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ConfigError(f"{what}: {name!r} is not of the form my_module:MyName")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        reason = f"importing it failed: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            reason = f"there is no module {error.name!r} in this folder or among the installed packages"
        raise ConfigError(f"{what}: {name!r}: {reason}") from error
    if attribute not in vars(module):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise ConfigError(f"{what}: the module {module_name!r} has no {attribute!r}; {nearest(attribute, public)}")
    found: T = vars(module)[attribute]
    return found


def load(
    model: type[S],
    source: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    extra_section: Callable[[str], type[Section]] | None = None,
) -> S:
    """Defaults, then `source` (a YAML file or a mapping), then `overrides` (flags or a mapping), checked as a whole.

    Sections may be nested, dotted or left out (`learning_rate`, `optim.learning_rate`). A strategy section is turned on
    by its presence (`lora:`, `lora: {}`, `lora: true`) and off by `false`; in a Python mapping None is off too.
    `extra_section` gives the section class of a top-level key such as `my_module:MyStrategy`; what was read for it is
    kept in the field `extensions`. Raises ConfigError with every problem, each with its file and line or its flag.
    """
    tree = Tree(Layout(model), extra_section)
    if isinstance(source, Mapping):
        refuse_credentials(source, Source(stage=1))
        tree.read(source, Source(stage=1))
    elif source is not None:
        document = read_mapping(source)
        place = Source(stage=1, file=str(source), document=document)
        refuse_credentials(document.values, place)
        tree.read(document.values, place)
    refuse_credentials(overrides, Source(stage=2, flag="" if isinstance(overrides, Mapping) else "command line"))
    if isinstance(overrides, Mapping):
        tree.read(overrides, Source(stage=2))
    else:
        assert not isinstance(overrides, str), "overrides are a sequence of arguments"
        tree.flags(overrides)

    values = tree.values
    extensions = {}
    for name, section in tree.layout.extensions.items():
        given = values.pop(name, None)
        if given is not None and (checked := validate(tree, section, given, (name,))) is not None:
            extensions[name] = checked.model_dump()
    if extensions:
        values[EXTENSIONS] = extensions
    config = finished(tree, validate(tree, model, values, ()))
    config._places = Places(tree)
    return config


@contextmanager
def saying_where(config: Section) -> Iterator[None]:
    """Problems raised inside that begin with a setting get the file and line, or the flag, that it was written at."""
    try:
        yield
    except UserError as error:
        raise type(error)(config._places.named(error.problems)) from error


def check_section(model: type[S], values: Mapping[str, Any], *, name: str) -> S:
    """Check one section whose class is only known from its values (a task's settings, say).

    Its ConfigError may be raised inside a pydantic validator: `load` then adds the file and line to each problem.
    """
    tree = Tree(Layout(model), root=(name,))
    tree.read(values, Source(stage=1))
    return finished(tree, validate(tree, model, tree.values, ()))


def dump(config: Section) -> str:
    """YAML of the resolved configuration, without sections that are off; `load` reads it back to an equal object."""
    fields = type(config).model_fields
    values = config.model_dump(serialize_as_any=True)
    for name, value in list(values.items()):
        if value is None and section_type(fields[name].annotation)[0] is not None:
            del values[name]
    values |= values.pop(EXTENSIONS, None) or {}
    return write_yaml(values)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of the YAML file for editors; keys may also stand alone at the top, as `load` allows."""
    layout = Layout(model)
    schema = model.model_json_schema()
    definitions: dict[str, Any] = schema.get("$defs", {})
    properties: dict[str, Any] = schema["properties"]
    properties.pop(EXTENSIONS, None)
    for name, section in layout.sections.items():
        entry = properties[name]
        off = [{"type": "null"}, {"type": "boolean"}] if name in layout.strategies else [{"type": "null"}]
        reference = {"$ref": entry.pop("$ref")} if "$ref" in entry else entry["anyOf"][0]
        entry["anyOf"] = [reference, *off]
        keys = definitions[reference["$ref"].rsplit("/", 1)[1]].get("properties", {})
        for key in section.model_fields:
            if layout.owners(key) == [name]:
                properties.setdefault(key, keys[key])
    if OPAQUE in properties:
        kept = {key: properties[OPAQUE][key] for key in ("title", "description") if key in properties[OPAQUE]}
        properties[OPAQUE] = {**kept, "anyOf": [{"type": "string"}, {"type": "object"}]}
    for definition in definitions.values():
        definition.pop("required", None)
    dotted = f"^({'|'.join(layout.sections)})\\."
    schema["patternProperties"] = {dotted: {}, ":": {"type": ["object", "boolean", "null"]}}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
