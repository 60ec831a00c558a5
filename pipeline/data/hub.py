"""Rows of a dataset of the hub: by commit, from the cache when the hub cannot be reached."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import reach
from pipeline.data.settings import DataConfig
from pipeline.errors import DataError
from pipeline.hub_names import COMMIT, LOST, cached_commit, check_dataset_name

if TYPE_CHECKING:
    from datasets import Dataset


def load_hub(config: DataConfig, splits: Mapping[str, str]) -> dict[str, Dataset]:
    """Splits (name here -> name there) of `dataset_name`, at `dataset_revision`.

    Raises ConfigError for a path, and DataError for what is not there or not in the cache.
    """
    from datasets import Dataset, load_dataset  # here and below: over a second, which `--help` should not pay

    name, revision = config.dataset_name, config.dataset_revision
    assert name is not None
    check_dataset_name(name, what="data.dataset_name")
    reason = ready()
    loaded = {}
    for split, hub_split in splits.items():
        try:
            settings = {"split": hub_split, "revision": revision}
            if config.streaming:  # else all splits would be fetched, and train does not fit on the disk
                rows = load_dataset(name, config.dataset_config, streaming=True, **settings)
                loaded[split] = Dataset.from_list(list(islice(rows, config.max_eval_samples)))
            elif reason and COMMIT.fullmatch(revision or ""):
                loaded[split] = _from_cache(config, hub_split)
            else:
                loaded[split] = load_dataset(name, config.dataset_config, **settings)
        except (OSError, ValueError, RuntimeError, LOST) as error:
            place = f"data.dataset_name: {name} (split {hub_split!r})"
            if reason:
                raise DataError(
                    f"{place}: the hub cannot be reached ({reason}) and the dataset is not in the cache; "
                    "go online once, or download its files and use train_file"
                ) from error
            raise DataError(f"{place}: {str(error).splitlines()[0]}") from error
    return loaded


def ready() -> str:
    """Why datasets of the hub cannot be reached, or nothing; call it before `load_dataset`."""
    from datasets import config

    # Or it tells a counter at s3.amazonaws.com the name of the dataset, of a private one on a hub of your own too.
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    if datasets_are_offline():
        config.HF_HUB_OFFLINE = True
        return "offline mode"
    reason = reach.why_offline()
    config.HF_HUB_OFFLINE = bool(reason)
    return reason


def datasets_are_offline() -> bool:
    """Whether offline mode is on, for everything (`HF_HUB_OFFLINE`) or for datasets (`HF_DATASETS_OFFLINE`).

    datasets copies the hub client's flag when it is imported, which may be too early.
    """
    from datasets import config
    from huggingface_hub import constants

    return bool(config.HF_HUB_OFFLINE or constants.HF_HUB_OFFLINE)


def commit_in_cache(config: DataConfig) -> str | None:
    """The commit of `dataset_name` that a run without network reads: what its branch was last seen at, else the newest
    one that is there."""
    name, revision = config.dataset_name, config.dataset_revision
    assert name is not None
    if COMMIT.fullmatch(revision or ""):
        return revision
    there = {folder.name: folder.stat().st_mtime for folder in _prepared(config, "*")}
    known = cached_commit(name, revision, kind="dataset")
    if known in there or revision is not None:
        return known
    return max(there, key=lambda commit: there[commit], default=None)


def _from_cache(config: DataConfig, split: str) -> Dataset:
    """A split at exactly `dataset_revision`; `load_dataset` would take the newest commit that is there."""
    from datasets.packaged_modules.cache.cache import Cache

    name, commit = config.dataset_name, config.dataset_revision
    assert name is not None and commit is not None
    for folder in _prepared(config, commit):
        subset, version = folder.parts[-3:-1]
        dataset_name = name.rpartition("/")[2]
        builder = Cache(repo_id=name, dataset_name=dataset_name, config_name=subset, version=version, hash=commit)
        return builder.as_dataset(split=split)
    raise FileNotFoundError(f"{name} at {commit} is not in {_root(name)}")


def _prepared(config: DataConfig, commit: str) -> list[Path]:
    """The folders with prepared rows of a commit (`*`: of any), as datasets lays them out: subset/version/commit."""
    assert config.dataset_name is not None
    found = _root(config.dataset_name).glob(f"{config.dataset_config or '*'}/*/{commit}")
    return sorted(folder for folder in found if (folder / "dataset_info.json").is_file())


def _root(name: str) -> Any:
    from datasets import config
    from datasets.naming import camelcase_to_snakecase

    *owner, last = name.split("/")
    return Path(config.HF_DATASETS_CACHE) / "___".join([*owner, camelcase_to_snakecase(last)])
