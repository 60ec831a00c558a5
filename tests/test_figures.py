"""Figures of made-up run folders: drawn for every shape of run, and holding what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.reports import compare, draw_curves
from pipeline.reports.curves import middle, smooth
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


def test_a_step_without_a_finite_loss_is_a_gap_with_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, *a, **k: drawn.append(self))
    run = fake_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    events = [event for line in lines if (event := json.loads(line))["event"] != "train" or event["step"] != 20]
    events += [{"event": "skipped", "step": 20, "loss": None}, {"event": "train", "step": 21, "loss": float("nan")}]
    events.remove(next(event for event in events if event["event"] == "train" and event["step"] == 21))
    write(run / "metrics.jsonl", "".join(json.dumps(event) + "\n" for event in events))
    draw_curves(run)
    (axes,) = drawn[0].axes
    raw, smoothed, marks, validation = axes.lines[:4]
    for line in (raw, smoothed):
        steps, values = line.get_xdata(), line.get_ydata()
        assert [step for step, value in zip(steps, values, strict=True) if math.isnan(value)] == [20, 21]
    assert list(marks.get_xdata()) == [20, 21] and marks.get_label() == "loss not finite, skipped"
    assert len(validation.get_xdata()) == 9 and axes.get_xlabel() == "optimizer steps"
    assert "lower is better" in axes.get_title(loc="left") and drawn[0].texts[0].get_text() == "run: causal_lm"


def test_a_smoothed_curve_does_not_lag() -> None:
    falling = [5 - 0.01 * step for step in range(200)]
    assert smooth(falling) == pytest.approx(falling)
    assert smooth([1.0, 2.0, 4.0]) == [1.0, 2.0, 4.0] and smooth([1.0]) == [1.0]
    noisy = [1 + (-1) ** step for step in range(200)]
    assert all(0.8 < value < 1.2 for value in smooth(noisy))
    assert middle([9.0, *[float(step) for step in range(100)], 1e6, 1e6]) == (11.0, 99.0)


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
