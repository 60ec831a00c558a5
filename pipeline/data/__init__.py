"""Rows: from a file, a folder, the hub or memory to checked, encoded, cached columns."""

from __future__ import annotations

from pipeline.data.cache import beside, default_cache_dir, encode_cached, locked
from pipeline.data.columns import LABEL_KINDS, Kind
from pipeline.data.corpus import Blocks, Corpus, join, token_type
from pipeline.data.fingerprint import fingerprint
from pipeline.data.hub import commit_in_cache, datasets_are_offline
from pipeline.data.images import identity, open_image
from pipeline.data.mixture import Mixture
from pipeline.data.overlap import Overlap, Seen, digests_of, only, overlap, see
from pipeline.data.settings import COLUMN_KEYS, DataConfig, listed
from pipeline.data.sources import files_of, find_rows, load_splits, places_of
from pipeline.data.stream import Stream, open_stream, stream_fingerprint

__all__ = [
    "COLUMN_KEYS",
    "LABEL_KINDS",
    "Blocks",
    "Corpus",
    "DataConfig",
    "Kind",
    "Mixture",
    "Overlap",
    "Seen",
    "Stream",
    "beside",
    "commit_in_cache",
    "datasets_are_offline",
    "default_cache_dir",
    "digests_of",
    "encode_cached",
    "files_of",
    "find_rows",
    "fingerprint",
    "identity",
    "join",
    "listed",
    "load_splits",
    "locked",
    "open_stream",
    "only",
    "open_image",
    "overlap",
    "places_of",
    "see",
    "stream_fingerprint",
    "token_type",
]
