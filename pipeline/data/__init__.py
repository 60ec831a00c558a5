"""Rows: from a file, a folder, the hub or memory to checked, encoded, cached columns."""

from __future__ import annotations

from pipeline.data.cache import default_cache_dir, encode_cached
from pipeline.data.fingerprint import fingerprint
from pipeline.data.settings import DataConfig
from pipeline.data.sources import load_splits, places_of

__all__ = ["DataConfig", "default_cache_dir", "encode_cached", "fingerprint", "load_splits", "places_of"]
