"""Texts from data, names and paths are inert: in a card, in a comparison, in the plan, in messages, on a terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console
from transformers import AutoTokenizer

from pipeline.accelerator import make_accelerator
from pipeline.api import main, read_config
from pipeline.data import DataConfig, load_splits
from pipeline.dry_run import print_plan
from pipeline.errors import DataError
from pipeline.prepare import prepare
from pipeline.reports import write_card
from pipeline.reports.compare import compare
from pipeline.tasks.labels import check_labels, choose_labels
from pipeline.tracking import RunLog
from tests.fake_run import fake_run
from tests.synthetic import checkpoint_for, settings

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "{{7*7}} {% raw %}",
    "a\n---\nb: c\n---\n# head",
    "a|b|c \\| d",
    "[x](javascript:alert(1)) ![i](http://evil.example/x.png)",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "over\rwrite \x9b31m \x08\x7f",
    "`code` ``` fence ~~~",
    "[bold]x[/bold] [/] [link=http://evil.example]",
    "http://evil.example www.evil.example <https://evil.example>",
    "\u202ertl \u2066x \u2028line",
    "<!-- comment",
    "**b** _i_ $x$ ~~s~~ &lt;b&gt; &#60;b&#62;",
    "- item",
    "> quote",
    "1. one",
    ":smile: :warning:",
]
OUR_TAGS = {
    *("h1", "h2", "p", "strong", "code", "pre", "ul", "li", "a", "img", "blockquote"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
OUR_LINKS = ("curves.png", "compare.png", "https://huggingface.co/acme/tiny-llama")


class Page(HTMLParser):
    """Tags, links and the number of cells of every row of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.other: list[str] = []
        self.tables: list[list[int]] = []
        markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
        self.feed(markdown.render(text))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("href", "src"):
                self.links.append(value or "")
            elif name not in ("alt", "class", "style"):
                self.other.append(name)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_comment(self, data: str) -> None:
        self.other.append(data)


def driving(text: str) -> list[str]:
    """Characters that move a cursor, colour, rename a window or reorder a line."""
    found = {character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")}
    return sorted(found - {"\n"})


def assert_inert(text: str) -> None:
    page = Page(text)
    assert driving(text) == []
    assert page.tags <= OUR_TAGS and not page.other, (page.tags - OUR_TAGS, page.other)
    assert set(page.links) <= set(OUR_LINKS)
    prose = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", text)
    assert "://evil" not in prose and "www.evil" not in prose  # no bare address that a page turns into a link
    assert page.tables and all(len(set(cells)) == 1 for cells in page.tables), page.tables


def file_name(text: str) -> str:
    return text.replace("/", "∕")


@pytest.mark.promise(13, "hostile texts that are inert in the card")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_card_holds_only_our_own_tags(hostile: str, tmp_path: Path) -> None:
    run = fake_run(
        tmp_path / file_name(hostile),
        results={
            "metrics": {"validation": {"loss": 1.0, hostile: 0.5}},
            "strategies": [hostile],
            "label_names": [hostile],
            "task": hostile,
            **dict.fromkeys(("purpose", "model_class", "pipeline_tag"), hostile),
            "notes": [hostile],
            "forgetting": {hostile: 0.5},
            "bias": {hostile: 0.5},
            "intervals": {"validation": {hostile: [0.4, 0.6]}},
        },
        manifest={
            **dict.fromkeys(("recipe", "mixed_precision", "started"), hostile),
            "command": ["graft", "lora", hostile],
            "dataset": {"name": hostile, "config": hostile, "revision": hostile, "splits": {"validation": hostile}},
            "versions": {"torch": hostile, hostile: "1"},
            **dict.fromkeys(("cpu", "device", "platform", "python", "git_commit", "graft_version"), hostile),
            "model": {
                "name": hostile,
                **dict.fromkeys(("revision", "license", "license_name", "license_link"), hostile),
            },
            "data": {hostile: {"rows": 3, "fingerprint": hostile}},
        },
    )
    (run / "config.yaml").write_text(yaml.safe_dump({hostile: {hostile: hostile}, "optim": {"name": hostile}}))
    rows = {"labels": {hostile: 3}, "truncated": 1, "truncated_share": 0.5, "max_length": 4}
    (run / "data.json").write_text(json.dumps({"train": rows, hostile: {"in_train": {"normalized": 1, "share": 0.5}}}))
    assert_card(write_card(run))
    assert_card(write_card(run, "me/it", hub_base_model_id=hostile, merged=True))


def assert_card(card: Path) -> None:
    text = card.read_text()
    found = re.match(r"---\n(.*?)\n---\n\n(.*)", text, re.S)  # as the hub cuts it
    assert found is not None
    metadata = yaml.safe_load(found[1])
    assert set(metadata) <= {
        *("base_model", "base_model_relation", "library_name", "pipeline_tag", "tags", "metrics", "model-index"),
        *("license", "license_name", "license_link", "datasets"),
    }
    assert driving(str(metadata)) == [] and not {"base_model", "datasets", "license_link"} & set(metadata)
    assert_inert(found[2])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_comparison_holds_only_our_own_tags_and_no_control_characters(hostile: str, tmp_path: Path) -> None:
    metrics = {"validation": {"loss": 1.0, hostile: 0.5}}
    runs = {
        hostile: fake_run(tmp_path / "one", results={"metrics": metrics, "task": hostile}),
        "two": fake_run(tmp_path / "two", results={"metrics": metrics}, manifest={"cpu": hostile}),
    }
    samples = [{"prompt": hostile, "reference": hostile, "outputs": {hostile: hostile}}]
    comparison = compare(runs, tmp_path / "out", hostile, samples)
    text = (tmp_path / "out" / "compare.md").read_text()
    blocks = text.split("## Samples")
    assert_inert(blocks[0])
    assert driving(text) == [] and Page(text).tags <= OUR_TAGS and set(Page(text).links) <= set(OUR_LINKS)
    console = Console(file=io.StringIO(), width=100, record=True)
    comparison.print(console)
    said = console.export_text()
    assert driving(said) == []
    assert "[bold]" not in hostile or "[bold]" in said  # shown, not obeyed
    in_notebook = comparison._repr_html_()
    page = Page("")
    page.feed(in_notebook)
    assert driving(in_notebook) == [] and not page.other and not page.links
    assert page.tags <= {"b", "br", "table", "tr", "th", "td"} and len(set(page.tables[0])) == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkpoint_for("text_classification", tmp_path_factory.mktemp("start"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(["\x1b[31m"]) == 1  # one that is shown as it is, not in the letters for bytes
    tokenizer.save_pretrained(folder)
    return folder


def test_the_plan_shows_rows_and_names_as_they_are(checkpoint: Path, tmp_path: Path) -> None:
    """Every hostile text as a label and in a text, and a folder named in rich markup."""
    said = ""
    for number, hostile in enumerate(HOSTILE):
        file = tmp_path / f"{number}.csv"
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerows([("text", "label"), (hostile, hostile), ("the cat", "other"), (hostile, hostile)])
        given = settings("text_classification", "freeze", checkpoint, tmp_path / "[bold]run[/] \x1b[31m")
        given["data"] |= {"train_file": str(file), "text_column": "text", "label_column": "label"}
        console = Console(file=io.StringIO(), width=4000, record=True)
        print_plan(prepare(read_config("freeze", given)), console)
        shown = console.export_text()
        assert driving(shown) == [], hostile
        assert "[bold]run[/]" in shown
        said += shown
    for part in ("[bold]x[/bold]Ġ[/]Ġ[link=http://evil.example]", ":smile:Ġ:warning:", "{{7*7}}Ġ{%"):
        assert part in said


@pytest.mark.promise(13, "hostile texts that are inert in messages")
@pytest.mark.parametrize("hostile", HOSTILE)
def test_messages_that_name_labels_columns_and_files(
    hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    messages = []
    file, config = tmp_path / f"{file_name(hostile)}.csv", DataConfig
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([(hostile, "label"), (hostile, "")])
    columns: Any = {"text": "text", "label": "label"}
    attempts = [
        lambda: choose_labels([hostile], None, None),
        lambda: choose_labels([hostile], [hostile, hostile], None),
        lambda: check_labels({"train": {"label": [hostile]}}, "label", {f"{hostile}x": 0}, config()),
        lambda: load_splits(config(train_file=str(file)), columns),
        lambda: load_splits(config(train_file=str(file)), {hostile: "text", "label": "label"}),
        lambda: load_splits(config(train_file=str(tmp_path / "absent.csv")), columns),
        lambda: load_splits(config(train_file=hostile), columns),
    ]
    for attempt in attempts:
        with pytest.raises(DataError) as caught:
            attempt()
        messages += caught.value.problems
    assert len(messages) >= len(attempts)
    for message in messages:
        assert driving(message) == [] and "\n" not in message
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"task": hostile, hostile: 1, "run_name": [hostile]}))
    with pytest.raises(SystemExit):
        main("train", arguments=[str(tmp_path / "my.yaml"), f"--{hostile}", hostile])
    assert driving(capsys.readouterr().err) == []


def test_a_logged_name_is_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path, make_accelerator(), plain=True, total_steps=1)
    log.begin(0, evaluated=True, done=lambda: (0, "rows"), metric="loss")
    for hostile in HOSTILE:
        log.event({"event": "evaluate", "split": hostile, "step": 1, hostile: 0.5})
    said = capsys.readouterr().err
    assert driving(said) == [] and said.count("\n") == len(HOSTILE)
    assert "[bold]x[/bold] [/]" in said and ":smile:" in said
