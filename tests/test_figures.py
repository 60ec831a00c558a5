"""Figures of made-up run folders: drawn for every shape of run, and holding what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.reports import compare, draw_curves
from pipeline.reports.style import COLOURS, look, spread
from tests.fake_run import HOSTILE, fake_run, four_ways, write

PNG = b"\x89PNG\r\n\x1a\n"


def drawn(run: Path) -> bytes:
    path = draw_curves(run)
    assert path == run / "curves.png"
    return path.read_bytes()


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    runs = {HOSTILE: fake_run(tmp_path / "one"), "$\\frac{$": fake_run(tmp_path / "two")}
    compare(runs, tmp_path / "out", HOSTILE)
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(PNG)


def test_figures_are_drawn_for_every_shape_of_run(tmp_path: Path) -> None:
    both = {"main_metric": "token_accuracy", "greater_is_better": True}
    shapes = [
        fake_run(tmp_path / "loss"),
        fake_run(tmp_path / "both", results=both),
        fake_run(tmp_path / "zero", steps=0),
        fake_run(tmp_path / "one step", steps=1),
    ]
    without = fake_run(tmp_path / "train only", results={"best_step": None})
    rows = [line for line in (without / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    write(without / "metrics.jsonl", "\n".join(rows))
    sizes = []
    for run in [*shapes, without]:
        image = drawn(run)
        assert image.startswith(PNG) and image == drawn(run), "the same run gives the same file"
        sizes.append(int.from_bytes(image[16:20], "big"))
        compare([run], tmp_path / "out")
    assert len(sizes) == 5 and sizes[1] == 2 * sizes[0], "two panels where the main metric is not the loss"
    write(without / "metrics.jsonl", "")
    (without / "curves.png").unlink()
    assert draw_curves(without) is None and not (without / "curves.png").exists()
    assert compare([without, *shapes], tmp_path / "out").rows[0]["name"] == "train only"


def test_the_figure_shows_every_run_and_the_line_of_the_untouched_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *a, **k: drawn.append(self))
    compare(four_ways(tmp_path), tmp_path / "out", "How to adapt?")
    left, right = drawn[0].axes
    assert [text.get_text() for text in drawn[0].texts] == [
        "How to adapt?",
        "bits per byte on validation, lower is better",
    ]
    assert {text.get_text() for text in left.texts} == {"zero", "scratch", "full", "freeze", "lora"}
    assert "zero, not trained: 2.590" in {text.get_text() for text in right.texts}
    points = [line for line in right.lines if len(line.get_xdata()) == 1]
    assert [line.get_xdata()[0] for line in points] == [558_000, 558_000, 213_000, 40_900]
    assert right.get_xscale() == "log" and len(left.lines) == 5
    assert [line.get_color() for line in left.lines[:4]] == [line.get_color() for line in points] == COLOURS[:4]
    same = [fake_run(tmp_path / name, seconds=seconds) for name, seconds in (("a", 600.0), ("b", 1200.0))]
    compare(same, tmp_path / "out")
    axes = drawn[1].axes[1]
    assert axes.get_xlabel() == "training time (minutes)" and axes.lines[1].get_xdata()[0] == 20


def test_looks_differ_and_labels_keep_apart() -> None:
    assert len({str(look(index)) for index in range(28)}) == 28
    placed = spread([0.5, 0.5, 0.5, 0.99, 0.1], 0.05, 0.0, 1.0)
    order = sorted(placed)
    assert all(above - below >= 0.05 - 1e-6 for below, above in zip(order, order[1:], strict=False))
    assert placed[4] == pytest.approx(0.1) and order[0] >= 0 and order[-1] <= 1
