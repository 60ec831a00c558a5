"""How many bytes an evaluation keeps until its end."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import evaluation


def count_kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the bytes kept by each evaluation from here on; shared memory counts once, and whole."""
    kept: list[int] = []
    gather = evaluation._gather

    def counted(parts: Any, accelerator: Any) -> Any:
        storages = {value.untyped_storage().data_ptr(): value for part in parts for value in part.values()}
        kept.append(sum(value.untyped_storage().nbytes() for value in storages.values()))
        return gather(parts, accelerator)

    monkeypatch.setattr(evaluation, "_gather", counted)
    return kept
