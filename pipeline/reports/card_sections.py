"""The sections of a model card that are tables and lists, as Markdown made of escaped values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.reports import card_metadata as metadata
from pipeline.reports.read import Run, finite
from pipeline.reports.text import code, duration, markdown, markdown_table, memory, number, percent
from pipeline.safe_text import without_paths

SHOWN_LABELS = 8
SETTINGS = {
    "optim": ("name", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
    "train": ("train_batch_size", "seed"),
}
"""Settings of config.yaml that people ask for first; those of the strategies come before them."""
NAMES = {"name": "optimizer"}


def label_words(run: Run) -> str:
    names = run.results.get("label_names")
    if not isinstance(names, list) or not names:
        return ""
    more = len(names) - SHOWN_LABELS
    return ", ".join(code(str(name)) for name in names[:SHOWN_LABELS]) + (f" and {more} more" if more > 0 else "") + "."


def results_table(run: Run) -> str:
    found = metadata.evaluated(run)
    if not found:
        return "The run was not evaluated."
    names = list(dict.fromkeys(name for split in found for name in run.scores(split)))
    main = run.results["main_metric"]
    rows = []
    for name in names:
        values = [score(run, split, name) for split in found]
        way = f" ({'higher' if run.greater_is_better else 'lower'} is better)" if name == main else ""
        shown = [f"**{value}**" for value in values] if name == main else values
        rows.append([markdown(name) + way, *shown])
    best = run.results.get("best_step")
    notes = [f"Weights of step {best:,}." if isinstance(best, int) else "", *how_scored(run, found)]
    return "\n\n".join([markdown_table(["metric", *found], rows), " ".join(filter(None, notes))])


def score(run: Run, split: str, name: str) -> str:
    """A value, and the ends of its interval in brackets."""
    value, ends = run.scores(split).get(name), run.interval(split, name)
    if ends is None:
        return number(value)
    return f"{number(value, ends)} ({' to '.join(number(end, [value, *ends]) for end in ends)})"


def how_scored(run: Run, found: list[str]) -> list[str]:
    """Over how many examples, what is in brackets, and what the task says of its numbers."""
    counts = {split: metadata.num_samples(run, split) for split in found}
    known = [f"{many:,} {split}" for split, many in counts.items() if many is not None]
    said = [markdown(str(note)) + "." for note in run.results.get("notes") or []]
    drawn = any(run.interval(split, name) for split in found for name in run.scores(split))
    brackets = (
        "In brackets: 95 % intervals by drawing the examples anew (bootstrap). What training with another seed would "
        "change is not in them."
    )
    return [f"Over {' and '.join(known)} examples." if known else "", brackets if drawn else "", *said]


def measured(found: Any) -> str:
    """Numbers by name on one line; empty when there are none."""
    if not isinstance(found, Mapping):
        return ""
    values = {name: finite(value) for name, value in found.items()}
    return "; ".join(f"{markdown(str(name))} {number(value)}" for name, value in values.items() if value is not None)


def training_table(run: Run, settings: Mapping[str, Any]) -> str:
    cost, results = run.cost, run.results
    speed, epochs = cost("samples_per_second"), finite(results.get("epochs"))
    precision = run.manifest.get("mixed_precision")
    rows = [["task", code(without_paths(results["task"]))]]
    for strategy in results.get("strategies") or ["all weights"]:
        rows.append(["strategy", markdown(without_paths(strategy)) + said(settings.get(strategy))])
    for section, keys in SETTINGS.items():
        found = settings.get(section)
        values = [(key, found.get(key)) for key in keys] if isinstance(found, Mapping) else []
        rows += [[NAMES.get(key, key), plain(value)] for key, value in values if value]
    rows += [
        ["steps", f"{results['steps']:,}" + (f" ({epochs:g} epochs)" if epochs is not None else "")],
        ["precision", "fp32" if precision == "no" else plain(precision or "")],
        ["training time", duration(cost("train_seconds"))],
        ["speed", f"{number(speed)} samples/s" if speed else ""],
        ["peak memory", memory(cost("peak_memory_bytes"))],
        ["size on disk", memory(cost("model_size_bytes"))],
    ]
    return markdown_table(["what", "value"], [row for row in rows if row[1]], left=2)


def said(section: Any) -> str:
    """The settings of a strategy that were given or differ from nothing, in brackets."""
    found = section.items() if isinstance(section, Mapping) else ()
    known = [f"{markdown(str(key))} {plain(value)}" for key, value in found if value not in (None, False, [], "")]
    return f" ({', '.join(known)})" if known else ""


def plain(value: Any) -> str:
    return markdown(f"{value:g}" if isinstance(value, float) else without_paths(str(value)))


def data_section(run: Run) -> str:
    rows = []
    for split in run.manifest.get("data") or {}:
        facts = metadata.data_of(run, split)
        if facts:
            rows.append([markdown(split), f"{facts.get('rows', 0):,}", code(str(facts.get("fingerprint", ""))[:16])])
    table = markdown_table(["split", "rows", "fingerprint (SHA-256, start)"], rows) if rows else "Not recorded."
    found, where = metadata.dataset_of(run), ""
    if found:
        names = [str(found[key]) for key in ("config", "revision") if found.get(key)]
        more = f" ({', '.join(code(name) for name in names)})" if names else ""
        where = f"From [{markdown(found['name'])}](https://huggingface.co/datasets/{found['name']}){more}."
    return "\n\n".join(filter(None, (where, table, *data_lines(run))))


def data_lines(run: Run) -> list[str]:
    """What data.json adds: rows that training and evaluation share, truncation, and the balance of the labels."""
    try:
        report = json.loads((run.folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = []
    for split, facts in report.items() if isinstance(report, dict) else ():
        if isinstance(shared := facts.get("in_train"), Mapping):
            many = f"{shared['normalized']:,} ({percent(100 * shared['share'])})" if shared["normalized"] else "None"
            found.append(f"{many} of the {markdown(split)} rows are also training rows.")
        if facts.get("truncated"):
            share = percent(100 * facts["truncated_share"])
            found.append(f"{share} of the {markdown(split)} rows were cut at {facts['max_length']:,} tokens.")
    labels = (report.get("train") or {}).get("labels") or {}
    total = sum(labels.values())
    if total:
        known = [f"{code(name)} {percent(100 * many / total)}" for name, many in list(labels.items())[:SHOWN_LABELS]]
        more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
        found.append(f"Labels of the training rows: {', '.join(known)}{more}.")
    return ["\n".join(f"- {line}" for line in found)] if found else []


def software(run: Run) -> str:
    manifest = run.manifest
    versions = {
        "graft": manifest.get("graft_version"),
        "python": manifest.get("python"),
        **(manifest.get("versions") or {}),
    }
    parts = [", ".join(f"{markdown(str(name))} {markdown(str(value))}" for name, value in versions.items() if value)]
    machine = [manifest.get("device"), manifest.get("cpu"), manifest.get("platform")]
    named = ", ".join(dict.fromkeys(markdown(str(one)) for one in machine if one))
    processes = manifest.get("world_size") or 1
    parts.append(f"{named}, {processes} process{'' if processes == 1 else 'es'}")
    commit = manifest.get("git_commit")
    if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{7,40}", commit):
        parts.append(f"commit `{commit[:12]}`{' with uncommitted changes' if manifest.get('git_dirty') else ''}")
    return "\n".join(f"- {part}" for part in parts)
