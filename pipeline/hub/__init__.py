"""Hubs: what of a run may be pushed, whether it will work, and the push itself."""

from __future__ import annotations

from pipeline.hub.preflight import check_push
from pipeline.hub.settings import HubConfig

__all__ = ["HubConfig", "check_push"]
