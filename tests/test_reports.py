"""Comparisons and curves of made-up run folders: the same numbers everywhere, and nothing that escapes."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from rich.console import Console

from pipeline.errors import DataError
from pipeline.reports import compare, draw_curves, read_run, write_card
from pipeline.reports import text as texts
from tests.fake_run import HOSTILE, fake_run, four_ways


@pytest.fixture(autouse=True)
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have tests of their own, and take most of the time."""
    # By its full name, because the package exports a function `compare` that hides the module.
    module = sys.modules["pipeline.reports.compare"]
    monkeypatch.setattr(module, "draw", lambda path, runs, table: None)


def printed(comparison: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    comparison.print(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def table_rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_tables_carry_the_same_numbers(tmp_path: Path) -> None:
    comparison = compare(four_ways(tmp_path), tmp_path / "out", "Four ways")
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    header, _, *rows = table_rows((tmp_path / "out" / "compare.md").read_text())
    terminal = printed(comparison)
    assert [row[0] for row in rows] == ["zero", "scratch", "full", "freeze", "lora"]
    assert len(rows) == len(stored["runs"]) == 5 and stored["best"] == ["full"]
    assert stored["metrics"] == ["bits_per_byte", "perplexity", "token_accuracy", "loss"]
    for cells, run in zip(rows, stored["runs"], strict=True):
        expected = [
            run["name"],
            *(pytest.approx(run["metrics"][name], rel=1e-3) for name in stored["metrics"]),
            texts.count(run["parameters_trainable"]),
            texts.percent(run["trainable_percent"]),
            texts.duration(run["train_seconds"]),
            texts.memory(run["peak_memory_bytes"]),
            texts.memory(run["model_size_bytes"]),
        ]
        found: list[Any] = [cell.strip("*") for cell in cells]
        found[1:5] = [float(cell.replace(",", "")) for cell in found[1:5]]
        assert found == expected and len(cells) == len(header) == 10
        line = next(line for line in terminal.splitlines() if line.split()[:1] == [run["name"]])
        assert line.replace("\xa0", " ").split() == " ".join(cells).replace("*", "").split()
    assert [cells[1] for cells in rows if "**" in cells[1]] == ["**2.129**"]
    in_notebook = comparison._repr_html_()
    assert re.findall(r"<tr><th>(\w+)</th><td>", in_notebook) == [row[0] for row in rows]
    assert all(f"<td>{cell}</td>" in in_notebook for row in rows for cell in row[2:])
    assert "<td><b>2.129</b></td>" in in_notebook
    assert "Best bits_per_byte on validation (lower is better): full, 2.129." in terminal


def test_json_holds_what_the_run_folders_hold(tmp_path: Path) -> None:
    compare(four_ways(tmp_path), tmp_path)
    lora = json.loads((tmp_path / "compare.json").read_text())["runs"][4]
    results = json.loads((tmp_path / "lora" / "results.json").read_text())
    manifest = json.loads((tmp_path / "lora" / "manifest.json").read_text())
    assert lora["metrics"] == results["metrics"]["validation"]
    assert lora["parameters_trainable"] == 40_900 and lora["strategies"] == ["lora"] and lora["steps"] == 80
    for cost in ("train_seconds", "peak_memory_bytes", "model_size_bytes", "tokens_per_second"):
        assert lora[cost] == manifest["cost"][cost]
    assert str(tmp_path) not in (tmp_path / "compare.json").read_text() + (tmp_path / "compare.md").read_text()


def test_a_narrow_terminal_gets_two_tables_and_no_cut_number(tmp_path: Path) -> None:
    comparison = compare(four_ways(tmp_path), tmp_path)
    narrow = printed(comparison, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    for row in comparison.rows:
        assert all(cell.replace(" ", "\xa0") in narrow for cell in comparison.cells(row))


def test_a_long_name_wraps_and_cuts_no_number(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", seconds=4000)
    comparison = compare({"a name much longer than any table has room for, [bold]x": run, "b": run}, tmp_path)
    for width in (80, 120):
        shown = printed(comparison, width)
        assert max(map(len, shown.splitlines())) <= width and "…" not in shown
        for row in comparison.rows:
            assert all(cell.replace(" ", "\xa0") in shown for cell in comparison.cells(row)[1:])
        assert {"perplexity", "trainable", "peak", "disk"} <= set(shown.split())


def test_test_scores_are_preferred_when_every_run_has_them(tmp_path: Path) -> None:
    one, two = fake_run(tmp_path / "one", test=True), fake_run(tmp_path / "two", test=True)
    assert compare([one, two], tmp_path / "out").split == "test"
    assert compare([one, fake_run(tmp_path / "three")], tmp_path / "out").split == "validation"


@pytest.mark.parametrize(("greater", "best"), [(True, "high"), (False, "low")])
def test_the_main_metric_and_its_direction_come_from_the_results(tmp_path: Path, greater: bool, best: str) -> None:
    def run(name: str, value: float) -> Path:
        results = {"main_metric": "score", "greater_is_better": greater, "metrics": {"validation": {"score": value}}}
        return fake_run(tmp_path / name, results=results)

    comparison = compare([run("low", 0.1), run("high", 0.9)], tmp_path / "out")
    assert comparison.best() == [best] and comparison.metrics == ["score"]
    assert comparison.header()[1] == ("score ↑" if greater else "score ↓")


def test_only_metrics_common_to_all_runs_are_shown(tmp_path: Path) -> None:
    one = fake_run(tmp_path / "one", results={"metrics": {"validation": {"loss": 1.0, "token_accuracy": 0.5}}})
    assert compare([one, fake_run(tmp_path / "two")], tmp_path / "out").metrics == ["loss", "token_accuracy"]
    other = fake_run(tmp_path / "other", results={"metrics": {"validation": {"mse": 1.0}}})
    with pytest.raises(DataError, match="other has mse, and not loss"):
        compare([one, other], tmp_path / "out")


def test_a_metric_that_is_not_finite_is_a_dash_and_a_note(tmp_path: Path) -> None:
    bad = fake_run(tmp_path / "bad", results={"metrics": {"validation": {"loss": None, "perplexity": float("inf")}}})
    comparison = compare([fake_run(tmp_path / "good"), bad], tmp_path / "out")
    assert comparison.best() == ["good"] and comparison.cells(comparison.rows[1])[1:3] == ["–", "–"]
    assert "No finite loss in bad" in (tmp_path / "out" / "compare.md").read_text()
    stored = json.loads((tmp_path / "out" / "compare.json").read_text(), parse_constant=pytest.fail)
    assert stored["runs"][1]["metrics"] == {"loss": None, "perplexity": None}
    assert compare([bad], tmp_path / "out").best() == []


def test_runs_that_do_not_compare_are_named(tmp_path: Path) -> None:
    data = {"validation": {"rows": 9, "fingerprint": "other"}}
    one, two = fake_run(tmp_path / "one"), fake_run(tmp_path / "two", manifest={"data": data, "cpu": "another"})
    says = " ".join(compare([one, two], tmp_path / "out").notes)
    assert "validation rows differ, so the scores are not of the same thing: one | two" in says
    assert "Machines or numbers of processes differ" in says and "tasks" not in says
    assert compare([one, fake_run(tmp_path / "three")], tmp_path / "out").notes == []


def test_names_of_runs(tmp_path: Path) -> None:
    folders = [fake_run(tmp_path / "first" / "lora"), fake_run(tmp_path / "second" / "lora"), fake_run(tmp_path / "x")]
    names = [row["name"] for row in compare(folders, tmp_path / "out").rows]
    assert names == ["first/lora", "second/lora", "x"]
    with pytest.raises(DataError, match="x was given more than once"):
        compare([folders[2], folders[2]], tmp_path / "out")
    with pytest.raises(DataError, match="no run folder was given"):
        compare({}, tmp_path / "out")


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    samples = [{"prompt": "```\n" + HOSTILE, "reference": "ok", "outputs": {HOSTILE: HOSTILE}}]
    runs = {HOSTILE: fake_run(tmp_path / "one"), "two": fake_run(tmp_path / "two")}
    comparison = compare(runs, tmp_path / "out", HOSTILE, samples)
    written, shown = (tmp_path / "out" / "compare.md").read_text(), printed(comparison)
    assert len({len(row) for row in table_rows(written)}) == 1 and len(table_rows(written)) == 4
    outside_code, fence = written.split("## Samples")[0], re.findall(r"^`{4,}", written, re.M)
    assert "<script>" not in outside_code and "[l](" not in outside_code and len(fence) == 2
    for text in (written, shown):
        assert "\x1b" not in text and "\u202e" not in text
    assert "[31mred" in shown, "rich markup was read"


@given(some.text(max_size=60))
@example("a\u2028b\u2029c\x85d\x0be|f\\|g\\\\|")
@settings(max_examples=200, deadline=None)
def test_any_text_makes_one_table_cell(text: str) -> None:
    row = texts.markdown_table(["name", "value"], [[texts.markdown(text), "1"]]).split("\n")
    assert len(row) == 3 and len("\n".join(row).splitlines()) == 3
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row[2])) == 3
    assert "<" not in row[2] and not re.search(r"[\x00-\x1f\x7f-\x9f]", row[2])


@pytest.mark.parametrize("name", ["results.json", "manifest.json", "metrics.jsonl"])
@pytest.mark.parametrize("report", [draw_curves, write_card, lambda run: compare([run], run.parent / "out")])
def test_a_missing_file_is_named(tmp_path: Path, name: str, report: Any) -> None:
    run = fake_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        report(run)


def test_all_problems_of_all_runs_are_said_at_once(tmp_path: Path) -> None:
    one, two = fake_run(tmp_path / "one"), fake_run(tmp_path / "two", results={"steps": "many"})
    (one / "manifest.json").write_text('{"cost": {')
    with (one / "metrics.jsonl").open("a") as lines:
        lines.write('{"event": "tr')
    with pytest.raises(DataError) as caught:
        compare([one, two, tmp_path / "three"], tmp_path / "out")
    problems = caught.value.problems
    assert len(problems) == 4 and "one/manifest.json:1: not JSON" in problems[0]
    assert re.search(r"one/metrics\.jsonl:90: not JSON", problems[1])
    assert "expected int under 'steps', found str" in problems[2] and "no such run folder" in problems[3]


def test_steps_logged_again_after_a_resume_count_once(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=2)
    again = {"event": "train", "step": 1, "loss": 9.0}
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps(again) + "\n" + json.dumps({"event": "train", "step": 3, "loss": None}) + "\n")
    steps, losses = read_run(run).series("train", "loss")
    assert steps == [1, 2] and losses[0] == 9.0


@pytest.mark.parametrize(
    ("write_as", "value", "expected"),
    [
        (texts.count, 812, "812"),
        (texts.count, 40_900, "40.9k"),
        (texts.count, 999_600, "1M"),
        (texts.count, 1_100_000_000, "1.1B"),
        (texts.percent, 7.3456, "7.35 %"),
        (texts.percent, 100.0, "100 %"),
        (texts.duration, 8.44, "8.4 s"),
        (texts.duration, 59.99, "1 min 00 s"),
        (texts.duration, 3599.7, "1 h 00 min"),
        (texts.memory, 1023.9, "1.0 KiB"),
        (texts.memory, 812 * 2**20, "812 MiB"),
        (texts.number, 0.91234, "0.9123"),
        (texts.number, 23.456, "23.46"),
        (texts.number, 12345.6, "12,346"),
        (texts.number, 0.0, "0"),
        (texts.number, 0.00001234, "1.234e-05"),
    ],
)
def test_numbers_as_text(write_as: Any, value: float, expected: str) -> None:
    assert write_as(value) == expected and write_as(None) == "–"
