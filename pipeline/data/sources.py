"""Find the rows of every split, check them all, and give them in normal form."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.columns import LABEL_KINDS, Kind, Problems, Row, build, normal_rows
from pipeline.data.cut import cut
from pipeline.data.hub import load_hub
from pipeline.data.image_folders import is_image_folder
from pipeline.data.images import located
from pipeline.data.readers import READERS, read
from pipeline.data.settings import DataConfig
from pipeline.data.tables import read_dataset
from pipeline.errors import ConfigError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "validation", "test")
BOOKKEEPING = {"dataset_info.json", "state.json", "dataset_infos.json"}
"""What datasets writes beside the rows when it saves a folder."""
logger = logging.getLogger(__name__)


def load_splits(
    config: DataConfig,
    columns: Mapping[str, Kind],
    datasets: Mapping[str, Dataset] | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[str, Dataset]:
    """Every split that is configured (or given as `datasets`), among train, validation and test, in that order.

    A split holds only `columns`, in normal form: `text` and `label` are str (so 1 and "1" are one label, and a
    ClassLabel is its name), `labels` a list of str, `number` a float. All rows of all splits are checked, and one
    DataError lists the problems with their places (with `on_bad_row: skip` a warning does, and bad rows are left out);
    ConfigError is for settings that do not go together. `poll` is called while reading; what it raises ends it.
    `validation_split_fraction` draws from all training rows, repeated ones together; then `max_train_samples` and
    `max_eval_samples` keep the first rows of each split.
    """
    sources = _given(config, datasets) if datasets is not None else _configured(config)
    if not sources and not config.sources and not config.streaming:
        raise ConfigError(
            "data.train_file: there are no rows; set it or data.dataset_name, or pass datasets={'train': ...}"
        )
    if config.validation_split_fraction is not None and ("train" not in sources or "validation" in sources):
        raise ConfigError("data.validation_split_fraction: needs training rows, and no validation rows beside them")
    problems, splits = Problems(skip=config.on_bad_row == "skip"), {}
    for split in SPLITS:
        if split in sources:
            rows = _rows(split, sources[split], columns, config, problems)
            splits[split] = build(rows, columns, problems, poll)
    if said := problems.said_of_left_out():
        logger.warning(said)
        for split in splits if not problems.count else ():
            if not len(splits[split]):
                problems.add(f"data.{split}_file", f"no {split} row is left, such as {problems.left_out[0]}")
    problems.raise_any()
    if config.validation_split_fraction is not None:
        inputs = [name for name, kind in columns.items() if kind not in LABEL_KINDS]
        fraction, seed = config.validation_split_fraction, config.validation_split_seed
        train, validation = cut(splits["train"], fraction, seed, inputs)
        splits = {"train": train, "validation": validation, **({"test": splits["test"]} if "test" in splits else {})}
    for split, dataset in splits.items():
        limit = config.max_train_samples if split == "train" else config.max_eval_samples
        if limit is not None and limit < len(dataset):
            splits[split] = dataset.select(range(limit))
    return splits


def find_rows(
    files: Sequence[str], columns: Mapping[str, Kind], config: DataConfig
) -> tuple[Iterator[list[Any]], Problems]:
    """The rows of some files in normal form, one at a time, and what turns out to be wrong with them."""
    problems = Problems()
    return normal_rows(_rows("train", list(files), columns, config, problems), columns, problems), problems


def files_of(patterns: str | list[str], key: str) -> list[str]:
    """The files that some patterns stand for, each once. Raises DataError, naming `key`, when there are none."""
    problems = Problems()
    listed = [patterns] if isinstance(patterns, str) else patterns
    found = [str(file) for pattern in listed for file in find_files(pattern, key, problems)]
    problems.raise_any()
    return list(dict.fromkeys(found))


def places_of(config: DataConfig, split: str, column: str, rows: Iterable[int]) -> dict[int, str]:
    """Where rows of a split were written (`train.csv:7`), by their numbers from 0.

    A dataset does not keep the places of its rows, so that those who complain read the files once more.
    """
    wanted = sorted(set(rows))
    files = _files(config)[split]
    cut = config.validation_split_fraction is not None and split != "test"
    if cut or config.on_bad_row == "skip":
        return {row: f"{split} row {row + 1} of those {'drawn' if cut else 'kept'}" for row in wanted}
    if files is None:
        named = f"{config.dataset_name}[{split!r}]" if config.dataset_name else f"datasets[{split!r}]"
        return {row: f"{named}[{row}]" for row in wanted}
    read_again = _rows(split, [files] if isinstance(files, str) else files, {column: "label"}, config, Problems())
    last = wanted[-1] if wanted else -1
    found = [place for place, _ in islice(read_again, last + 1)]
    return {row: found[row] for row in wanted}


def find_files(pattern: str, key: str, problems: Problems) -> list[Path]:
    """The files that a path, a glob or a folder stands for, sorted; if there are none, a problem of `key`."""
    if not pattern.strip():
        problems.add(key, "is empty text; name a file, a folder or a pattern such as data/*.jsonl")
        return []
    if "://" in pattern:
        problems.add(key, f"{pattern} is an address; download it first, or use dataset_name for a dataset of the hub")
        return []
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = sorted(file for file in path.iterdir() if file.is_file() and file.name not in BOOKKEEPING)
        found = [file for file in inside if file.suffix.lower() in READERS and not file.name.startswith(".")]
        if not found and is_image_folder(path):
            return [path]
        if not found:
            problems.add(key, f"{pattern}: no data file in this folder; expected {', '.join(READERS)}")
        return found
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
    if found:
        return found
    if glob.has_magic(pattern):
        problems.add(key, f"{pattern}: no file matches this pattern (relative paths start at {Path.cwd()})")
    elif not path.parent.is_dir():
        problems.add(
            key, f"{pattern}: no such file; there is no folder {path.parent} (relative paths start at {Path.cwd()})"
        )
    else:
        hint = nearest(path.name, (other.name for other in path.parent.iterdir()))
        where = "" if hint.startswith("did you mean") else f" (relative paths start at {Path.cwd()})"
        problems.add(key, f"{pattern}: no such file; {hint.replace('known:', 'the folder holds')}{where}")
    return []


def _given(config: DataConfig, datasets: Any) -> dict[str, Any]:
    """The splits handed over from Python."""
    from datasets import Dataset  # here and below: over a second, which `--help` should not pay

    if not isinstance(datasets, Mapping):
        got = f"{type(datasets).__module__.partition('.')[0]}.{type(datasets).__name__}"
        raise ConfigError(f"datasets: expected the splits by name, {{'train': rows, ...}}, got a {got}")
    problems = [f"datasets: unknown split {name!r}; {nearest(name, SPLITS)}" for name in datasets if name not in SPLITS]
    for name, dataset in datasets.items():
        if not isinstance(dataset, Dataset):
            how = "; datasets.Dataset.from_pandas makes one" if type(dataset).__name__ == "DataFrame" else ""
            problems.append(f"datasets[{name!r}] is a {type(dataset).__name__}, expected a datasets.Dataset{how}")
    configured = [f"data.{split}_file" for split, files in _files(config).items() if files is not None]
    configured += [f"data.{key}" for key in ("dataset_name", "sources") if vars(config)[key] is not None]
    if configured:
        problems.append(f"datasets and {', '.join(configured)} are both given; keep one of them")
    if problems:
        raise ConfigError(problems)
    return dict(datasets)


def _configured(config: DataConfig) -> dict[str, Any]:
    """The splits of the configuration: lists of patterns, and hub datasets (loaded here) where no file is named."""
    sources: dict[str, Any] = {
        split: [files] if isinstance(files, str) else files
        for split, files in _files(config).items()
        if files is not None
    }
    hub_splits = {
        "train": config.dataset_train_split,
        "validation": config.dataset_validation_split,
        "test": config.dataset_test_split,
    }
    if config.dataset_name is not None:
        both = [split for split in SPLITS[1:] if split in sources and hub_splits[split] is not None]
        if both:
            raise ConfigError([f"data.{split}_file and data.dataset_{split}_split are both set" for split in both])
        wanted = {split: name for split, name in hub_splits.items() if name is not None and split not in sources}
        if config.streaming:
            del wanted["train"]
        sources |= load_hub(config, wanted)
    elif config.dataset_validation_split is not None or config.dataset_test_split is not None:
        raise ConfigError(
            [
                f"data.dataset_{split}_split: names a split of a hub dataset, and data.dataset_name is not set"
                for split in SPLITS[1:]
                if hub_splits[split] is not None
            ]
        )
    return sources


def _files(config: DataConfig) -> dict[str, str | list[str] | None]:
    return {"train": config.train_file, "validation": config.validation_file, "test": config.test_file}


def _rows(
    split: str, source: Any, columns: Mapping[str, Kind], config: DataConfig, problems: Problems
) -> Iterator[Row]:
    wanted = list(columns)
    images = [number for number, kind in enumerate(columns.values()) if kind == "image"]
    if not isinstance(source, list):
        name = f"{config.dataset_name}[{split!r}]" if config.dataset_name else f"datasets[{split!r}]"
        yield from read_dataset(name, source, wanted, problems)
        return
    if not source:
        problems.add(f"data.{split}_file", "the list is empty; expected at least one file")
    before = problems.count
    files = [file for pattern in source for file in find_files(pattern, f"data.{split}_file", problems)]
    if len({file.resolve() for file in files}) < len(files):
        twice = next(file for file in files if sum(other.resolve() == file.resolve() for other in files) > 1)
        problems.add(f"data.{split}_file", f"{twice} is named more than once")
    suffixes = sorted({"image-folder" if file.is_dir() else file.suffix.lower() for file in files})
    for suffix in suffixes:
        if suffix not in READERS and suffix != "image-folder":
            pickled = " (a pickle can run code when it is read)" if suffix in (".pkl", ".pickle", ".pt", ".bin") else ""
            problems.add(
                f"data.{split}_file", f"cannot read {suffix or 'suffix-less'} files{pickled}; use {', '.join(READERS)}"
            )
    if len(suffixes) > 1:
        problems.add(f"data.{split}_file", f"mixes {', '.join(suffixes)} files; expected files of one kind")
    if problems.count == before:
        for file in files:
            rows = read(file, wanted, config, problems)
            yield from located(rows, images, file.parent) if images else rows
