"""Put every setting into its section, whatever way it was written, and remember where it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel

from pipeline.aliases import SCALAR_SECTIONS, foreign_name
from pipeline.errors import ConfigError, nearest
from pipeline.wording import accepts, expected, section_type, shown
from pipeline.yaml_file import Document, Keys, read_value

OPAQUE = "task"
"""The top-level key whose keys depend on its value; whoever knows the task checks them."""
EXTENSIONS = "extensions"
"""The field that keeps the sections of users' own strategies (`my_module:MyStrategy`)."""
BARE = object()
"""The value of a flag given alone, such as `--lora`."""

SectionOf = Callable[[str], type[BaseModel]]


class Layout:
    """The sections and plain keys of a configuration model."""

    def __init__(self, model: type[BaseModel]):
        self.model = model
        self.core: dict[str, type[BaseModel]] = {}
        self.strategies: dict[str, type[BaseModel]] = {}
        self.extensions: dict[str, type[BaseModel]] = {}
        for name, info in model.model_fields.items():
            section, optional = section_type(info.annotation)
            if section is not None and name != OPAQUE:
                (self.strategies if optional else self.core)[name] = section
        self.plain = [name for name in model.model_fields if name not in self.core and name not in self.strategies]

    @property
    def sections(self) -> dict[str, type[BaseModel]]:
        return self.core | self.strategies | self.extensions

    def owners(self, leaf: str) -> list[str]:
        """The sections a key given alone may belong to; core sections win over strategies."""
        for sections in (self.core, self.strategies):
            if found := [name for name, section in sections.items() if leaf in section.model_fields]:
                return found
        return []

    def unknown(self, key: str, section: str | None = None) -> str:
        """Why `key` is not known, and what was probably meant."""
        if foreign := foreign_name(key, section):
            return f"unknown key; {foreign}"
        if section is not None and (elsewhere := self.owners(key)):
            return f"unknown key; {key!r} belongs to the section {elsewhere[0]!r}"
        leaves = {leaf: name for name, part in reversed(self.sections.items()) for leaf in part.model_fields}
        if section is None:
            names = [name for name in self.plain if name != EXTENSIONS]
            return f"unknown key; {nearest(key, [*leaves, *self.sections, *names])}"
        own = self.sections[section].model_fields
        if not get_close_matches(key, own) and (close := get_close_matches(key, leaves, n=1, cutoff=0.75)):
            return f"unknown key; did you mean '{leaves[close[0]]}.{close[0]}'?"
        return f"unknown key; {nearest(key, own) if own else f'the section {section!r} has no keys'}"


@dataclass(frozen=True)
class Source:
    """Where settings were written: a YAML file, one flag, or (both empty) a Python mapping."""

    stage: int
    """Later stages override earlier ones; within one stage a key may be given once."""
    file: str = ""
    flag: str = ""
    order: int = 0
    document: Document = field(default_factory=Document)

    def line(self, at: Keys) -> int:
        """The line of the value at `at`, or of the nearest thing around it; 0 when unknown."""
        lines = self.document.lines
        return next((lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in lines), 0)

    def prefix(self, at: Keys, path: Keys) -> str:
        """How a message about the setting `path`, written at `at`, begins."""
        if self.flag:
            return self.flag
        line = self.line(at)
        place = f"{self.file}:{line}" if line else self.file
        return ": ".join(part for part in (place, ".".join(path)) if part)


class Tree:
    """The settings of one configuration: values by section, the origin of each, and all problems so far."""

    def __init__(self, layout: Layout, section_of: SectionOf | None = None, root: Keys = ()):
        self.layout = layout
        self.extensible = EXTENSIONS in layout.model.model_fields
        self.section_of = section_of if self.extensible else None
        self.root = root
        self.values: dict[str, Any] = {}
        self.origins: dict[Keys, tuple[Source, Keys]] = {}
        self.problems: list[tuple[tuple[int, int], str]] = []
        self.incomplete: set[Keys] = set()
        """Sections (or the top level) that lack a value because its key was refused."""

    def read(self, values: Mapping[Any, Any], source: Source) -> None:
        """Take in a YAML mapping or a Python mapping: sections, flat keys and dotted keys."""
        self.origins.setdefault((), (source, ()))
        for key, value in values.items():
            keys = split(str(key))
            if keys == (EXTENSIONS,) and self.extensible and isinstance(value, Mapping):
                for name, section in value.items():
                    self.place((str(name),), section, source, (EXTENSIONS, str(name)))
            else:
                self.place(keys, value, source, (str(key),))

    def flags(self, arguments: Sequence[str]) -> None:
        """Take in `--key value`, `--key=value` and bare `--key`."""
        rest = list(enumerate(arguments))
        while rest:
            order, argument = rest.pop(0)
            name, equals, text = argument.partition("=")
            source = Source(stage=2, flag=name, order=order)
            if not name.startswith("--") or not name.strip("-"):
                hint = "settings are written `--section.key value`, lists `'[a, b]'`"
                self.complain(source, (), f"{argument}: unexpected argument; {hint}")
                continue
            if not equals and (not rest or rest[0][1].startswith("--")):
                self.place(split(name[2:], flag=True), BARE, source, ())
                continue
            try:
                document = read_value(text if equals else rest.pop(0)[1])
            except ConfigError as error:
                self.complain(source, (), f"{name}: {error}")
                continue
            source = Source(stage=2, flag=name, order=order, document=document)
            self.place(split(name[2:], flag=True), document.values, source, ())

    def place(self, keys: Keys, value: Any, source: Source, at: Keys) -> None:
        """Find out what `keys` name, and put the value there."""
        layout, first = self.layout, keys[0]
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        if ":" in first and not self.extend(first, source, at):
            return
        if first in layout.sections:
            if len(keys) == 1:
                self.section(first, value, source, at)
            else:
                self.put(keys, value, source, at)
        elif first in layout.plain and first != EXTENSIONS:
            self.put(keys, value, source, at)
        elif len(owners := layout.owners(first)) == 1:
            self.put((owners[0], *keys), value, source, at)
        elif owners:
            which = " or ".join(f"{owner}.{first}" for owner in owners)
            self.refuse(source, at, keys, f"is in several sections; write {which}")
        else:
            whole = len(keys) > 1 and foreign_name(".".join(keys))
            self.refuse(source, at, keys, f"unknown key; {whole}" if whole else layout.unknown(first))

    def extend(self, name: str, source: Source, at: Keys) -> bool:
        """Ask for the section of a user's own strategy; False when there is none."""
        if name in self.layout.extensions:
            return True
        if self.section_of is None:
            self.refuse(source, at, (name,), "unknown key; a strategy of your own cannot be given here")
            return False
        try:
            self.layout.extensions[name] = self.section_of(name)
        except ConfigError as error:
            for problem in error.problems:
                self.refuse(source, at, (name,), problem)
            return False
        return True

    def section(self, name: str, value: Any, source: Source, at: Keys) -> None:
        """A whole section: its keys, or on (nothing, `{}`, true) or off (false) for a strategy."""
        if isinstance(value, Mapping):
            self.switch(name, True, source, at)
            for key, entry in value.items():
                self.put((name, str(key)), entry, source, (*at, str(key)))
            return
        strategy = name not in self.layout.core
        written = source.document.texts.get(at)
        if strategy and (value is BARE or isinstance(value, bool)):
            self.switch(name, value is not False, source, at)
        elif strategy and value is None and written in (None, ""):
            self.switch(name, written is not None, source, at)
        elif strategy and value is None:
            self.refuse(source, at, (name,), "null may mean on or off; write {} to turn it on, false to turn it off")
        elif value is not None:
            got = "nothing" if value is BARE else shown(value)
            key = SCALAR_SECTIONS.get(name)
            known = key is not None and key in self.layout.sections[name].model_fields
            plain = isinstance(value, (str, int, float)) and not isinstance(value, bool)
            hint = f"; write `{name}: {{{key}: {value}}}`" if known and plain else ""
            if isinstance(value, str) and ":" in value:
                hint = "; is a blank missing after a colon?"
            self.refuse(source, at, (name,), f"expected a section (keys and values), got {got}{hint}")

    def switch(self, name: str, on: bool, source: Source, at: Keys) -> bool:
        """Turn a section on or off, unless the same file or command line already says the opposite."""
        was_off = name in self.values and self.values[name] is None
        if on and was_off and self.origins[(name,)][0].stage == source.stage:
            self.refuse(source, at, (name,), "turned on and off at once; give one of the two")
            return False
        if not on and was_off:
            return True
        if not on and any(
            keys[:1] == (name,) and set_by.stage == source.stage for keys, (set_by, _) in self.origins.items()
        ):
            self.refuse(
                source, at, (name,), "turned off, yet it is also turned on or has keys set; give one of the two"
            )
            return False
        if not on:
            self.forget((name,))
            self.values[name] = None
            self.origins[(name,)] = (source, at)
        elif self.values.get(name) is None:
            self.values[name] = {}
            self.origins[(name,)] = (source, at)
        return True

    def put(self, path: Keys, value: Any, source: Source, at: Keys) -> None:
        """Set one key. A path into a mapping (`model.config.hidden_size`) changes only that entry of it."""
        section = self.layout.sections.get(path[0])
        fields = self.layout.model.model_fields if section is None else section.model_fields
        depth = 1 if section is None else 2
        leaf, key = path[:depth], path[depth - 1]
        if key not in fields:
            self.refuse(source, at, path, self.layout.unknown(key, path[0]))
            return
        if value is BARE and (path == (OPAQUE,) or not accepts(fields[key], True, strict=True)):
            self.refuse(source, at, path, f"a value is missing; expected {expected(fields[key])}")
            return
        before = self.origins.get(path)
        if before is not None and before[0].stage == source.stage:
            self.refuse(source, at, path, f"given twice (also as {before[0].prefix(before[1], path)})")
            return
        if section is not None and not self.switch(path[0], True, source, at[:1]):
            return
        self.forget(path)
        self.origins.setdefault(leaf, (source, at))
        self.origins[path] = (source, at)
        holder = self.values if section is None else self.values[path[0]]
        self.nest(holder, key, path[depth:], True if value is BARE else value, source, at, path)

    def nest(
        self, holder: dict[str, Any], key: str, rest: Keys, value: Any, source: Source, at: Keys, path: Keys
    ) -> None:
        """Set `holder[key]`, or the entry `rest` inside it; the mappings on the way are copied, not changed."""
        for inner in rest:
            old = holder.get(key)
            if path[0] == OPAQUE and isinstance(old, str):
                old = {"name": old}
            if old is not None and not isinstance(old, Mapping):
                self.refuse(source, at, path, f"{key!r} is {shown(old)}, not a mapping, so it has no key {inner!r}")
                return
            holder[key] = dict(old or {})
            holder, key = holder[key], inner
        holder[key] = value

    def forget(self, path: Keys) -> None:
        """Drop what is known about the values at and inside `path`: it is overridden."""
        self.origins = {keys: origin for keys, origin in self.origins.items() if keys[: len(path)] != path}

    def refuse(self, source: Source, at: Keys, path: Keys, sentence: str) -> None:
        """Note a problem with a key that is then left out."""
        self.incomplete.add(path[:1] if len(path) > 1 and path[0] in self.layout.sections else ())
        self.complain(source, at, f"{source.prefix(at, self.root + path)}: {sentence}")

    def complain(self, source: Source, at: Keys, text: str) -> None:
        self.problems.append(((source.stage, source.order or source.line(at)), text))

    def origin(self, path: Keys) -> tuple[Source, Keys]:
        """The source of the setting `path` (or of what is around it), and its place there."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.origins:
                source, at = self.origins[path[:end]]
                return source, (*at, *path[end:])
        return Source(stage=0), path

    def text(self, path: Keys) -> str | None:
        """A number as it was written, or None when it was not written as text."""
        source, at = self.origin(path)
        return source.document.texts.get(at)


def split(name: str, *, flag: bool = False) -> Keys:
    """`data.text_column` to its parts; the dots of `my.module:MyStrategy` stay together."""
    if ":" in name:
        module, _, rest = name.partition(":")
        attribute, *keys = rest.split(".")
        return (f"{module}:{attribute}", *keys)
    return tuple((name.replace("-", "_") if flag else name).split("."))
