"""Say in plain words what a setting expects, from the type and the limits its field declares."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pipeline.safe_text import masked

NAMES: dict[Any, tuple[str, str]] = {
    str: ("text", "texts"),
    bool: ("true or false", "true/false values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    Path: ("a path", "paths"),
    Any: ("a value", "values"),
}
LIMITS = {
    "gt": "greater than {}",
    "ge": "of at least {}",
    "lt": "below {}",
    "le": "of at most {}",
    "multiple_of": "a multiple of {}",
    "min_length": "of at least {}{unit}",
    "max_length": "of at most {}{unit}",
    "pattern": "that matches {!r}",
}
"""Name of a pydantic limit -> how it is said."""


def section_type(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The section a field holds, if it holds one, and whether it may be absent."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    optional = get_origin(annotation) in (Union, types.UnionType)
    parts = [part for part in get_args(annotation) if part is not type(None)] if optional else [annotation]
    if len(parts) == 1 and isinstance(parts[0], type) and issubclass(parts[0], BaseModel):
        return parts[0], optional
    return None, optional


def accepts(field: FieldInfo, value: Any, *, strict: bool = False) -> bool:
    """Whether the field's type and limits take the value (validators of its section are not asked)."""
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(annotation).validate_python(value, strict=strict)
    except ValidationError:
        return False
    return True


def contains(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether the value, or an element of the list it is, is of one of the kinds."""
    if isinstance(value, list):
        return any(contains(element, kinds) for element in value)
    return isinstance(value, kinds)


def complaint(field: FieldInfo, value: Any) -> str:
    """`expected ..., got ...` for a value that the field does not take, with the nearest choice or how to fix it."""
    text = f"expected {expected(field)}, got {shown(value)}"
    if isinstance(value, str) and accepts(field, [value]):
        return f"{text}; write [{value}]"
    known = choices(field.annotation)
    wrong = [part for part in (value if isinstance(value, list) else [value]) if part not in known]
    if wrong and isinstance(wrong[0], str) and (close := get_close_matches(wrong[0], known, n=1)):
        return f"{text}; did you mean {close[0]!r}?"
    if value is None:
        return f"{text}; leave the key out for the default"
    if contains(value, (bool, int, float)) and "text" in expected(field):
        return f"{text}; put it in quotes if it is text"
    return text


def shown(value: Any) -> str:
    """A value as it would stand in YAML, on one line, shortened."""
    words = {None: "nothing (null)", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = masked(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def expected(field: FieldInfo) -> str:
    """What a field takes, such as `a number greater than 0` or `one of 'no', 'bf16'`."""
    return _describe(field.annotation, tuple(field.metadata))


def choices(annotation: Any) -> list[str]:
    """The texts among the fixed choices of a type; empty when it has none."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation if isinstance(member.value, str)]
    if get_origin(annotation) in (Union, types.UnionType, Annotated, list):
        return [choice for part in get_args(annotation) for choice in choices(part)]
    return []


def _describe(annotation: Any, limits: tuple[Any, ...] = ()) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(parts[0], (*_flat(parts[1:]), *limits))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_describe(part, limits) for part in parts if part is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(shown(choice) for choice in parts)}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return f"one of {', '.join(shown(member.value) for member in annotation)}"
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)} {_plural(parts[0])}"
    if (origin or annotation) in (list, tuple, set, frozenset):
        return f"a list of {_plural(parts[0])}{_limits(limits, ' elements')}" if parts else "a list"
    if (origin or annotation) is dict:
        return "a mapping (keys and values)"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section (keys and values)"
    if annotation is str and (length := _exact_length(limits)):
        return f"a text of {length} character{'s' if length > 1 else ''}"
    name = NAMES[annotation][0] if annotation in NAMES else getattr(annotation, "__name__", str(annotation))
    return name + _limits(limits, " characters" if annotation is str else "")


def _plural(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        inner, *limits = get_args(annotation)
        return NAMES[inner][1] + _limits(_flat(limits), "") if inner in NAMES else "values"
    return NAMES[annotation][1] if annotation in NAMES else f"({_describe(annotation)})"


def _flat(metadata: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(limit for entry in metadata for limit in (entry.metadata if isinstance(entry, FieldInfo) else [entry]))


def _facts(limits: Iterable[Any]) -> dict[str, Any]:
    """The limits by name. pydantic keeps each as a small dataclass, and a pattern as a plain object."""
    facts: dict[str, Any] = {}
    for limit in limits:
        if dataclasses.is_dataclass(limit):
            facts |= {entry.name: getattr(limit, entry.name) for entry in dataclasses.fields(limit)}
        else:
            facts |= vars(limit)
    return facts


def _exact_length(limits: tuple[Any, ...]) -> int | None:
    facts = _facts(limits)
    same = facts.get("min_length") == facts.get("max_length")
    return facts.get("min_length") if same else None


def _limits(limits: tuple[Any, ...], unit: str) -> str:
    facts = _facts(limits).items()
    words = [LIMITS[name].format(bound, unit=unit) for name, bound in facts if name in LIMITS and bound is not None]
    return " " + " and ".join(words) if words else ""
