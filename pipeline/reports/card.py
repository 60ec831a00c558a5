"""The model card of a run: `README.md` with hub metadata, results, curve, command, versions and how to load it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml

from pipeline.reports import card_metadata as metadata
from pipeline.reports.card_sections import (
    data_section,
    label_words,
    measured,
    results_table,
    software,
    training_table,
)
from pipeline.reports.loading import Base, how_to_load, how_to_load_merged, is_adapter
from pipeline.reports.read import Run, read_run
from pipeline.reports.text import code, count, fenced, markdown, percent
from pipeline.safe_text import clean, masked, without_paths

TEMPLATE = "card.md.jinja"


class Written(str):
    """Markdown that goes into the card as it stands; every other value of a run is escaped."""


def escaped(value: Any) -> str:
    return value if isinstance(value, Written) else markdown(str(value))


def write_card(
    run_dir: str | Path,
    hub_model_id: str | None = None,
    *,
    hub_revision: str | None = None,
    hub_base_model_id: str | None = None,
    merged: bool = False,
) -> Path:
    """Write `README.md` (and `.eval_results/` for a benchmark of the hub) into the run folder; returns the card's path.

    `hub_model_id` is where the model will be pushed, to the branch `hub_revision`, `hub_base_model_id` where its start
    model is on the hub when the run started from a local copy, and `merged` says that the repository also holds the
    merged model, in `merged/`.
    Raises DataError when the folder is incomplete. No path of this machine gets into the card.
    """
    run = read_run(run_dir)
    text = masked(card_of(run, hub_model_id, hub_revision, hub_base_model_id, merged=merged))
    for name, content in metadata.eval_results(run).items():
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text(content, encoding="utf-8")
    path = run.folder / "README.md"
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def card_of(
    run: Run, hub_model_id: str | None, hub_revision: str | None, hub_base_model_id: str | None, *, merged: bool
) -> str:
    """The text of the card, from the files of the run folder alone."""
    environment = jinja2.Environment(
        finalize=escaped, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters["code"] = lambda value: Written(code(str(value)))
    template = environment.from_string(files("pipeline.reports").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    results, parameters = run.results, run.results["parameters"]
    name = hub_model_id.split("/")[-1] if hub_model_id else run.folder.resolve().name
    base, settings = base_of(run, hub_base_model_id), settings_of(run)
    loading = how_to_load(run, base, hub_model_id, hub_revision)
    merged_lines = how_to_load_merged(run, hub_model_id, hub_revision) if merged and hub_model_id else ""
    command = command_of(run)
    needs_base = is_adapter(run) and hub_model_id and base and not base.is_hub_id
    text = template.render(
        front_matter=Written(metadata.front_matter(run, name, hub_base_model_id)),
        name=name,
        purpose=results.get("purpose") or f"does the task {results['task']}",
        start=Written(start_words(run, base)),
        how=strategy_words(run),
        trainable=count(parameters.get("trainable")),
        total=count(parameters.get("total")),
        share=percent(parameters.get("trainable_percent")),
        steps=f"{results['steps']:,}",
        labels=Written(label_words(run)),
        results=Written(results_table(run)),
        has_curves=(run.folder / "curves.png").is_file(),
        forgetting=Written(measured(results.get("forgetting"))),
        bias=Written(measured(results.get("bias"))),
        loading=Written(fenced(loading, "python") if loading else ""),
        from_parent=bool(loading) and hub_model_id is None,
        needs_base=Written(code(base.name) if needs_base and base else ""),
        loading_merged=Written(fenced(merged_lines, "python") if merged_lines else ""),
        training=Written(training_table(run, settings)),
        command=Written(fenced(command, "bash") if command else ""),
        data=Written(data_section(run)),
        software=Written(software(run)),
    )
    return text.rstrip("\n") + "\n"


def base_of(run: Run, hub_base_model_id: str | None) -> Base | None:
    """The start model by its hub id, or by the last name of its folder; None for random weights."""
    model = run.manifest.get("model") or {}
    name = str(model.get("name") or "")
    if run.results.get("start") == "random" or not name:
        return None
    hub_id = metadata.base_model(run, hub_base_model_id)
    if hub_id is None:
        return Base(without_paths(name).rstrip("/").split("/")[-1], is_hub_id=False)
    revision = model.get("revision") if hub_id == name else None
    return Base(hub_id, revision if isinstance(revision, str) else None)


def settings_of(run: Run) -> Mapping[str, Any]:
    """config.yaml, or nothing when it is not there: all that the card needs is elsewhere."""
    try:
        found = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def start_words(run: Run, base: Base | None) -> str:
    if base is None:
        return "random weights"
    licence = f"licence: {markdown(metadata.license_words(run))}"
    if base.is_hub_id:
        return f"[{markdown(base.name)}](https://huggingface.co/{base.name}) ({licence})"
    return f"the local checkpoint {code(base.name)} ({licence})"


def strategy_words(run: Run) -> str:
    known = " + ".join(without_paths(name) for name in run.results.get("strategies") or [])
    if known:
        return f"with {known}"
    return "by training all weights" if run.results.get("start") == "random" else "by tuning all weights"


def command_of(run: Run) -> str:
    """What was typed; for a run that Python started, the recipe it called."""
    command, recipe = run.manifest.get("command"), run.manifest.get("recipe")
    if isinstance(command, list):
        return shlex.join(without_paths(str(word)) for word in command)
    if isinstance(command, str):
        return " ".join(without_paths(word) for word in command.split(" "))
    return f"# from Python: pipeline.{clean(recipe)}(...)" if isinstance(recipe, str) else ""
