"""Rows: from a file, a folder, the hub or memory to checked, encoded, cached columns."""

from __future__ import annotations

from pipeline.data.cache import beside, default_cache_dir, encode_cached
from pipeline.data.columns import Kind
from pipeline.data.fingerprint import fingerprint
from pipeline.data.images import open_image
from pipeline.data.settings import COLUMN_KEYS, DataConfig
from pipeline.data.sources import load_splits, places_of

__all__ = [
    "COLUMN_KEYS",
    "DataConfig",
    "Kind",
    "beside",
    "default_cache_dir",
    "encode_cached",
    "fingerprint",
    "load_splits",
    "open_image",
    "places_of",
]
