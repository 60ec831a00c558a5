"""Check placed settings against their sections, and say every problem in plain words with its place."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.errors import ConfigError, nearest
from pipeline.placing import OPAQUE, Source, Tree, split
from pipeline.safe_text import has_credential
from pipeline.wording import accepts, complaint, contains, expected, section_type, shown
from pipeline.yaml_file import Keys

M = TypeVar("M", bound=BaseModel)
SECRET = "holds what looks like an access token, or an address with a password in it"
NO_SECRETS = (
    "a run saves its configuration and may publish it; take it out, and set HF_TOKEN in the environment or use "
    "`hf auth login`"
)


def finished(tree: Tree, config: M | None) -> M:
    """The configuration, or a ConfigError with every problem noted in `tree`, in the order of file and flags."""
    if tree.problems:
        raise ConfigError(
            list(dict.fromkeys(text for _, text in sorted(tree.problems, key=lambda problem: problem[0])))
        )
    assert config is not None, "a section without problems is valid"
    return config


def refuse_credentials(values: Any, source: Source) -> None:
    """Raise ConfigError, without the values, when a token stands anywhere: a run writes its configuration down."""
    problems = [
        ": ".join(part for part in (source.prefix(at, at), f"{SECRET}; {NO_SECRETS}") if part)
        for at in _credentials(values)
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _credentials(values: Any, at: Keys = ()) -> Iterator[Keys]:
    """The places of values that hold a credential; of a key that does, the place around it."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if has_credential(str(key)):
                yield at
            else:
                yield from _credentials(value, (*at, str(key)))
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _credentials(value, (*at, str(index)))
    elif has_credential(str(values)):
        yield at


def validate(tree: Tree, model: type[M], values: dict[str, Any], root: Keys) -> M | None:
    """The validated section, or None with its problems noted in `tree`."""
    _fit(tree, model, values, root)
    try:
        return model.model_validate(copy.deepcopy(values))
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            _explain(tree, model, values, dict(entry), root)
        return None


def _fit(tree: Tree, model: type[BaseModel], values: dict[str, Any], root: Keys) -> None:
    """Numbers given for text become the text that was written; true and false never become numbers."""
    for key, value in list(values.items()):
        path, field = (*root, key), model.model_fields[key]
        section, _ = section_type(field.annotation)
        if not root and key == OPAQUE:
            continue
        if not root and section is not None and isinstance(value, dict):
            _fit(tree, section, value, path)
        elif contains(value, bool) and not accepts(field, value, strict=True):
            note(tree, path, complaint(field, value))
            tree.incomplete.add(root)
            del values[key]
        elif contains(value, (int, float)) and not accepts(field, value):
            as_text = _as_text(tree, value, path)
            values[key] = as_text if accepts(field, as_text) else value


def _as_text(tree: Tree, value: Any, path: Keys) -> Any:
    if isinstance(value, list):
        return [_as_text(tree, element, (*path, str(index))) for index, element in enumerate(value)]
    text = tree.text(path) if isinstance(value, (int, float)) else None
    return value if text is None else text


def _explain(tree: Tree, model: type[BaseModel], values: dict[str, Any], error: dict[str, Any], root: Keys) -> None:
    """Note one of pydantic's errors in our words."""
    place = tuple(str(part) for part in error["loc"])
    field, owner, depth = _field_at(model, place)
    path = (*root, *place[:depth])
    kind, cause = error["type"], error.get("ctx", {}).get("error")
    missing = kind == "missing" and depth == len(place)
    of_section = field is None or (path != (OPAQUE,) and section_type(field.annotation)[0] is not None)
    if (missing or (cause is not None and of_section)) and tree.incomplete & {(), path[:1]}:
        return  # a key that was refused may be the very one that is missing here
    if isinstance(cause, ConfigError):
        for problem in cause.problems:
            _relocate(tree, problem, path)
    elif missing and field is not None:
        wanted = "what is to be learned, such as `task: causal_lm`" if path == (OPAQUE,) else expected(field)
        note(tree, path, f"missing; expected {wanted}")
    elif cause is not None:
        note(tree, path, str(cause))
    elif kind == "extra_forbidden":
        known = owner.model_fields if owner is not None else []
        note(tree, path, f"unknown key; {nearest(place[-1], known)}" if known else "unknown key")
    elif field is None:
        said = str(error["msg"]).replace("Input should be", "expected")
        note(tree, path, f"{said}, got {shown(error['input'])}")
    else:
        note(tree, path, complaint(field, _value_at(values, place[:depth])))


def _field_at(model: type[BaseModel], place: Keys) -> tuple[FieldInfo | None, type[BaseModel] | None, int]:
    """The field an error is about, the model it is in, and how much of `place` leads to it (the rest is inside)."""
    if place[:1] == (OPAQUE,) and len(place) > 1:
        return None, None, len(place)
    owner = model
    for depth, key in enumerate(place, start=1):
        field = owner.model_fields.get(key)
        inner = None if field is None else section_type(field.annotation)[0]
        if depth == len(place) or inner is None:
            return field, owner, depth
        owner = inner
    return None, owner, 0


def _value_at(values: Any, place: Keys) -> Any:
    for key in place:
        values = values.get(key) if isinstance(values, Mapping) else values
    return values


def _relocate(tree: Tree, problem: str, path: Keys) -> None:
    """Note a sentence raised by a validator; when it begins with a setting, that setting's place is named."""
    keys, sentence = _setting(tree, problem)
    note(tree, keys or path, sentence)


def _setting(tree: Tree, problem: str) -> tuple[Keys, str]:
    """The setting a sentence begins with and the rest of it; no keys when it begins with something else."""
    found = re.match(r"((?:[\w.]+:)?\w+(?:\.\w+)*): (.*)", problem, re.DOTALL)
    if not found:
        return (), problem
    keys = split(found[1])
    section = tree.layout.sections.get(keys[0])
    known = keys[0] in tree.layout.plain if section is None else len(keys) == 1 or keys[1] in section.model_fields
    return (keys, found[2]) if known else ((), problem)


@dataclass
class Places:
    """Where the settings of a loaded configuration were written, for problems that show only later.

    Two configurations are equal when their settings are, wherever those were written.
    """

    tree: Tree | None = field(default=None, compare=False, repr=False)

    def named(self, problems: list[str]) -> list[str]:
        """The sentences; those that begin with a setting come first, in the file's order, each with its place."""
        if self.tree is None:
            return problems
        placed, others = [], []
        for problem in problems:
            keys, sentence = _setting(self.tree, problem)
            if keys:
                source, at = self.tree.origin(keys)
                order = (source.stage, source.order or source.line(at))
                placed.append((order, f"{source.prefix(at, keys)}: {sentence}"))
            else:
                others.append(problem)
        return [text for _, text in sorted(placed, key=lambda problem: problem[0])] + others

    def overridden(self) -> list[Keys]:
        """The settings that were given beside the file: flags, or a Python mapping."""
        origins = {} if self.tree is None else self.tree.origins
        late = [path for path, (source, _) in origins.items() if source.stage == 2 and path]
        return [path for path in late if not any(path == other[:-1] for other in late)]


def note(tree: Tree, path: Keys, sentence: str) -> None:
    source, at = tree.origin(path)
    prefix = source.prefix(at, tree.root + path)
    tree.complain(source, at, f"{prefix}: {sentence}" if prefix else sentence)
