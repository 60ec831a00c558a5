"""Golden loss curves: a refactor may not move a loss.

WRITE_GOLDEN=1 pytest tests/test_golden.py    writes them anew, for a change that is meant to move them
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.api import read_config, run_recipe
from tests.synthetic import MATRIX, RECIPE_OF, checkpoint_for, data_of, settings

FILE = Path(__file__).parent / "golden.json"


def curve(variant: str, strategy: str | None, folder: Path) -> list[float]:
    """Training losses of eight steps, then the validation loss."""
    given = settings(variant, strategy, checkpoint_for(variant, folder / "start"), folder / "run", max_steps=8)
    name = RECIPE_OF[strategy]
    run = run_recipe(name, given, datasets=data_of(read_config(name, given)))
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "train"] + [run.metrics["loss"]]


@pytest.mark.parametrize(("variant", "strategy"), MATRIX)
def test_losses_are_where_they_were(variant: str, strategy: str | None, tmp_path: Path) -> None:
    key = f"{variant}, {strategy or 'full'}"
    golden = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = curve(variant, strategy, tmp_path)
    if os.environ.get("WRITE_GOLDEN"):
        FILE.write_text(json.dumps({**golden, key: [round(value, 6) for value in found]}, indent=1) + "\n")
        return
    # other processors and library versions round otherwise; a changed loss moves far more than this
    assert found == pytest.approx(golden[key], rel=2e-4)


def test_there_is_a_curve_for_every_case() -> None:
    assert set(json.loads(FILE.read_text())) == {f"{variant}, {strategy or 'full'}" for variant, strategy in MATRIX}
