"""The licence of a start model, as its own card states it."""

from __future__ import annotations

from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.repocard import metadata_load

from pipeline.hub_names import LOST, is_hub_id
from pipeline.reach import PROBE_SECONDS

KEYS = ("license", "license_name", "license_link")
"""What the hub calls it; the other two say which one it is when `license` is `other`."""
CARD = "README.md"


def license_of(name: str, revision: str | None = None) -> dict[str, str]:
    """The keys of KEYS that the card of a local folder or a hub model states; empty when there is none to be read.

    A model that a run left says it in the card of the run folder, one above. From the hub it takes one small file,
    or the copy in the cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        places = [folder / CARD, *([folder.parent / CARD] if (folder.parent / "results.json").is_file() else [])]
        return next((found for place in places if (found := stated(place))), {})
    if not is_hub_id(name):
        return {}
    try:
        return stated(Path(hf_hub_download(name, CARD, revision=revision, etag_timeout=PROBE_SECONDS)))
    except (OSError, EntryNotFoundError, LOST):  # no card, or nobody to ask: then it is not known
        return {}


def stated(card: Path) -> dict[str, str]:
    """What one card says; a card that cannot be read says nothing."""
    try:
        metadata = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    found = {key: metadata[key] for key in KEYS if isinstance(metadata.get(key), str)}
    return found if "license" in found else {}
