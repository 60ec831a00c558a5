"""The runs of a sweep: every combination of the values given, each checked before the first one starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.api import RECIPES, read_config
from pipeline.config import load, saying_where
from pipeline.errors import ConfigError, UserError, nearest
from pipeline.hub_names import COMMIT, HUB_METRIC
from pipeline.prepare import check_settings
from pipeline.reading import read
from pipeline.reports.read import parse_object
from pipeline.resume import identity
from pipeline.settings import RunConfig, start_of, user_strategy
from pipeline.stopping import StopRequest

SEED = ("seed", "train.seed")
RESUME = ("resume", "checkpoint.resume")
LONGEST_VALUE = 32
"""Characters of a value that a folder's name holds."""
REVISIONS = (("model", "revision"), ("model", "tokenizer_revision"), ("data", "dataset_revision"))
PAIRS = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    """Also that of its folder."""
    settings: dict[str, str]
    """What varies, as it was written."""
    recipe: str
    arguments: list[str]
    folder: Path
    config: Any = field(repr=False)
    state: str = "new"
    """`new`, `half-finished` or `finished`, before the sweep."""

    def varied(self) -> dict[str, str]:
        """What varies besides the seed."""
        return {name: value for name, value in self.settings.items() if name not in SEED}


def values_of(text: str) -> list[str]:
    """`1e-5,3e-5` to its parts. Commas within brackets or quotes belong to one value, as in `[q,v],[q,k,v]`."""
    parts, waiting = [""], ""
    for letter in text:
        if letter == "," and not waiting:
            parts.append("")
            continue
        parts[-1] += letter
        if waiting[-1:] in ("'", '"'):
            waiting = waiting[:-1] if letter == waiting[-1] else waiting
        elif letter in PAIRS:
            waiting += PAIRS[letter]
        elif letter in "'\"" and parts[-1] == letter or letter in "'\"" and waiting:
            waiting += letter
        elif letter == waiting[-1:]:
            waiting = waiting[:-1]
    return [part.strip() for part in parts]


def axes_of(arguments: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The arguments with one value, and those with several by name. Raises ConfigError when nothing varies."""
    fixed: list[str] = []
    axes: dict[str, list[str]] = {}
    problems, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or (not equals and (not rest or rest[0].startswith("--"))):
            fixed.append(word)
            continue
        text = text if equals else rest.pop(0)
        values = values_of(text)
        if name in RESUME:
            problems.append(f"{flag}: a sweep goes on by itself: what is finished is skipped, the rest is continued")
        elif len(values) == 1:
            fixed += [flag, text]
        elif name in axes:
            problems.append(f"{flag}: given twice; write all values in one list")
        elif twice := sorted({value for value in values if values.count(value) > 1}):
            problems.append(f"{flag}: {', '.join(twice)} given more than once")
        elif "" in values:
            problems.append(f"{flag}: {text!r} has an empty value; a value with a comma is written in quotes within")
        else:
            axes[name] = values
    if not axes and not problems:
        problems.append("sweep: nothing varies; give a setting several values, such as --learning_rate 1e-5,3e-5")
    if problems:
        raise ConfigError(problems)
    return fixed, axes


def plan(source: str | Path, arguments: Sequence[str], *, recipe: str | None, output_dir: str | Path) -> list[Point]:
    """Every run of a grid, the last axis varying first. Raises ConfigError with the problems of all of them."""
    if recipe is not None and recipe not in RECIPES:
        raise ConfigError(f"recipe: unknown name {recipe!r}; {nearest(recipe, RECIPES)}")
    fixed, axes = axes_of(arguments)
    names = _short_names(axes)
    parts = {axis: _parts(values) for axis, values in axes.items()}
    points, problems = [], Problems()
    for chosen in itertools.product(*axes.values()):
        settings = dict(zip(axes, chosen, strict=True))
        name = "_".join(f"{names[axis]}-{parts[axis][value]}" for axis, value in settings.items())
        folder = Path(output_dir) / name
        given = [*fixed, *(word for axis, value in settings.items() for word in (f"--{axis}", value))]
        own = [*given, "--output_dir", str(folder), "--checkpoint.resume", "auto"]
        problems.count += 1
        try:
            how = recipe or recipe_of(load(RunConfig, source, own, extra_section=user_strategy))
            config = read_config(how, source, own)
            with saying_where(config):
                check_settings(config)
                _refuse_alone(config)
            shown = {names[axis]: value for axis, value in settings.items()}
            points.append(Point(name, shown, how, own, folder, config))
        except UserError as error:
            problems.add(name, error)
    problems.end()
    _refuse_same(points)
    return points


def checked(points: Sequence[Point], stop: StopRequest) -> list[Point]:
    """The points with the state of their folders, after their rows were read once for all that read the same.

    Raises ConfigError when rows cannot be used, or when a folder holds a run with other settings or rows.
    """
    problems, found, prints = Problems(), [], dict[str, dict[str, str]]()
    for point in points:
        problems.count += 1
        shared = repr([point.config.model_dump()[key] for key in ("task", "data", "model")])
        try:
            with saying_where(point.config):
                if shared not in prints:
                    prints[shared] = read(point.config.model_copy(deep=True), None, stop).fingerprints
            found.append(_with_state(point, prints[shared]))
        except UserError as error:
            problems.add(point.name, error)
    problems.end()
    return found


class Problems:
    """Messages of many runs: one that all have is said once, another with the runs that have it."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self.count = 0

    def add(self, name: str, error: UserError) -> None:
        for problem in error.problems:
            self.found.setdefault(problem, []).append(name)

    def end(self) -> None:
        """Raise ConfigError when there are any."""
        if self.found:
            raise ConfigError([self._said(problem, names) for problem, names in self.found.items()])

    def _said(self, problem: str, names: list[str]) -> str:
        if len(names) == self.count:
            return problem
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return f"{problem} (in {', '.join(names[:2])}{more})"


def recipe_of(config: Any) -> str:
    """The recipe that a configuration's sections mean."""
    if start_of(config) == "random":
        return "pretrain"
    sections = config.model_dump()
    return next((name for name in ("lora", "freeze") if sections[name] is not None), "finetune")


def _refuse_alone(config: Any) -> None:
    data = config.data
    if config.hub.push_to_hub:
        raise ConfigError(
            "hub.push_to_hub: every run of a sweep would be pushed to one place; turn it off, and push the best one "
            "with graft push"
        )
    if not any((data.validation_file, data.dataset_validation_split, data.validation_split_fraction)):
        raise ConfigError(
            "data.validation_file: a sweep chooses by validation rows and there are none; give some, or "
            "data.validation_split_fraction"
        )


def _refuse_same(points: Sequence[Point]) -> None:
    """Two runs that are one, such as 1e-5 beside 0.00001."""
    seen: dict[str, str] = {}
    problems = []
    for point in points:
        what = repr((point.recipe, _comparable(point.config)))
        if what in seen:
            problems.append(f"sweep: {seen[what]} and {point.name} are the same run; leave one out")
        seen.setdefault(what, point.name)
    if problems:
        raise ConfigError(problems)


def _with_state(point: Point, fingerprints: Mapping[str, str]) -> Point:
    """The point with the state of its folder. Raises ConfigError when another run is in it."""
    folder = point.folder
    if not (folder / "config.yaml").is_file():
        return point
    there = load(RunConfig, folder / "config.yaml", extra_section=user_strategy)
    for section, key in REVISIONS:
        if vars(vars(point.config)[section])[key] is None:
            setattr(vars(there)[section], key, None)  # the commit that the run began with, and goes on with
    there.eval.metrics = [as_asked(metric, point.config.eval.metrics) for metric in there.eval.metrics]
    before, now = (_identity(config) for config in (there, point.config))
    differ = [f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in now if before.get(key) != now[key]]
    manifest = _manifest(folder)
    for split, facts in (manifest.get("data") or {}).items():
        if split in fingerprints and facts.get("fingerprint") != fingerprints[split]:
            differ.append(f"the {split} rows are others")
    if differ:
        raise ConfigError(
            f"{folder}: holds a run with other settings ({'; '.join(differ)}); choose another --output_dir"
        )
    done = manifest.get("status") == "finished" and (folder / "results.json").is_file()
    same = done and _comparable(there) == _comparable(point.config) and manifest.get("recipe") == point.recipe
    return Point(**{**vars(point), "state": "finished" if same else "half-finished"})


def as_asked(metric: str, asked: Sequence[str]) -> str:
    """A metric of the hub at the commit that a run took, by the words it was asked for with: by its branch, or none."""
    name = metric.partition("@")[0]
    others = [one for one in asked if one.partition("@")[0] == name and metric.startswith(HUB_METRIC)]
    return next((one for one in others if not COMMIT.fullmatch(one.partition("@")[2])), metric)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return parse_object((folder / "manifest.json").read_text(encoding="utf-8"), f"{folder}/manifest.json")
    except (OSError, ValueError):  # none yet, or cut off: the run says what can be continued
        return {}


def _identity(config: Any) -> dict[str, Any]:
    return identity(config, {"train": ""}, config.train.mixed_precision, None)


def _comparable(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = config.model_dump(mode="json", serialize_as_any=True)
    del values["output_dir"], values["checkpoint"]["resume"]
    return values


def _short_names(axes: Iterable[str]) -> dict[str, str]:
    """The last part of each name, or all of it where two end alike."""
    lasts = [axis.rpartition(".")[2] for axis in axes]
    return {axis: last if lasts.count(last) == 1 else axis for axis, last in zip(axes, lasts, strict=True)}


def _parts(values: Sequence[str]) -> dict[str, str]:
    """What a folder's name says of each value: only letters that need no quotes, told apart by a hash where needed."""
    plain = {value: re.sub(r"[^A-Za-z0-9.+-]+", "-", value).strip("-.") for value in values}
    short = {value: text[-LONGEST_VALUE:].strip("-.") for value, text in plain.items()}
    shown = list(short.values())
    return {
        value: text if text and shown.count(text) == 1 else f"{text}-{sha256(value.encode()).hexdigest()[:6]}"
        for value, text in short.items()
    }
