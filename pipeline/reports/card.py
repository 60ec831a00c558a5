"""The model card of a run: `README.md` with hub metadata, results, curve, command, versions and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reports.read import Run, read_run
from pipeline.reports.text import (
    code,
    count,
    duration,
    fenced,
    markdown,
    markdown_table,
    memory,
    number,
    percent,
)
from pipeline.safe_text import clean

# task -> (pipeline tag of the hub, ending of the transformers auto class)
ON_THE_HUB = {
    "causal_lm": ("text-generation", "ForCausalLM"),
    "masked_lm": ("fill-mask", "ForMaskedLM"),
    "text_classification": ("text-classification", "ForSequenceClassification"),
    "token_classification": ("token-classification", "ForTokenClassification"),
    "question_answering": ("question-answering", "ForQuestionAnswering"),
    "seq2seq": ("text2text-generation", "ForSeq2SeqLM"),
    "image_classification": ("image-classification", "ForImageClassification"),
    "multiple_choice": ("multiple-choice", "ForMultipleChoice"),
    "embedding": ("feature-extraction", ""),
    "preference": ("text-generation", "ForCausalLM"),
}

ON_IMAGES = {"image-classification"}
IN_A_PIPELINE = {
    *("text-generation", "fill-mask", "text-classification", "token-classification", "feature-extraction"),
    "image-classification",
}
"""What `transformers.pipeline` runs with nothing but the saved folder."""
ADAPTER_CLASSES = {
    "ForCausalLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForSeq2SeqLM",
}
"""Endings for which PEFT has an `AutoPeftModel...`."""


def write_card(run_dir: str | Path, hub_model_id: str | None = None) -> Path:
    """Write `README.md` into the run folder and return its path; `hub_model_id` is where it will be pushed.

    Raises DataError when the folder is incomplete. No path of this machine gets into the card unless the command or a
    name in the manifest holds one.
    """
    run = read_run(run_dir)
    path = run.folder / "README.md"
    sections = [
        f"---\n{front_matter(run, hub_model_id)}\n---",
        f"# {markdown(name_of(run, hub_model_id))}",
        introduction(run),
        *(["![Learning curves](curves.png)"] if (run.folder / "curves.png").is_file() else []),
        "## Results",
        results_table(run),
        "## How to load it",
        fenced(how_to_load(run, hub_model_id), "python"),
        "## How it was trained",
        training_table(run),
        *command_block(run),
        "## Data",
        data_table(run),
        "## Software and hardware",
        software(run),
    ]
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8", errors="replace")
    return path


def name_of(run: Run, hub_model_id: str | None) -> str:
    return hub_model_id.split("/")[-1] if hub_model_id else run.folder.resolve().name


def is_adapter(run: Run) -> bool:
    return (run.folder / "model" / "adapter_config.json").is_file()


def base_model(run: Run) -> str | None:
    """The hub id of the model this one started from; None for a local folder and for random weights.

    `model.local` of the manifest decides. Where it is absent, a bare name may be that of a folder, so it takes a
    revision to be believed.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    model = run.manifest.get("model") or {}
    name = model.get("name")
    if run.results.get("start") == "random" or not isinstance(name, str) or not name:
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    local = model.get("local", not model.get("revision") and ("/" not in name or Path(name).exists()))
    return None if local else name


def front_matter(run: Run, hub_model_id: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = run.results["task"]
    tag, _ = ON_THE_HUB.get(task, (None, ""))
    base = base_model(run)
    scores = [(split, name, value) for split in splits(run) for name, value in run.scores(split).items()]
    results = [
        EvalResult(
            task_type=tag or task.replace("_", "-"),
            dataset_type="custom",
            dataset_name=f"{split} rows of the run",
            dataset_split=split,
            dataset_args={"fingerprint": fingerprint}
            if (fingerprint := data_of(run, split).get("fingerprint"))
            else None,
            metric_type=clean(name),
            metric_value=value,
        )
        for split, name, value in scores
        if value is not None
    ]
    metadata = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if is_adapter(run) else "finetune") if base else None,
        library_name="peft" if is_adapter(run) else "transformers",
        pipeline_tag=tag,
        tags=["graft", *(clean(name) for name in run.results.get("strategies") or [])],
        metrics=sorted({clean(name) for _, name, _ in scores if name != "loss"}) or None,
        model_name=clean(name_of(run, hub_model_id)),
        eval_results=results or None,
    )
    return metadata.to_yaml().strip()


def splits(run: Run) -> list[str]:
    return [split for split in ("validation", "test") if run.scores(split)]


def data_of(run: Run, split: str) -> Mapping[str, Any]:
    return (run.manifest.get("data") or {}).get(split) or {}


def introduction(run: Run) -> str:
    results, parameters = run.results, run.results["parameters"]
    base, how = base_model(run), " + ".join(results.get("strategies") or []) or "all weights trained"
    if results.get("start") == "random":
        start = "random weights"
    else:
        name = str((run.manifest.get("model") or {}).get("name") or "").rstrip("/").split("/")[-1]
        start = f"[{markdown(base)}](https://huggingface.co/{base})" if base else f"the checkpoint {code(name)}"
    return (
        f"A {code(results['task'])} model made from {start} ({markdown(how)}): "
        f"{count(parameters.get('trainable'))} of {count(parameters.get('total'))} parameters "
        f"({percent(parameters.get('trainable_percent'))}) were trained for {results['steps']:,} steps."
    )


def results_table(run: Run) -> str:
    found = splits(run)
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
    return "\n\n".join([markdown_table(["metric", *found], rows), *filter(None, notes)])


def score(run: Run, split: str, name: str) -> str:
    """A value, and the ends of its interval in brackets."""
    value, ends = run.scores(split).get(name), run.interval(split, name)
    if ends is None:
        return number(value)
    return f"{number(value, ends)} ({' to '.join(number(end, [value, *ends]) for end in ends)})"


def how_scored(run: Run, found: list[str]) -> list[str]:
    """Over how many examples, what is in brackets, and what the task says of its numbers."""
    counts = {split: (run.results.get("num_samples") or {}).get(split) for split in found}
    known = [f"{many:,} {split}" for split, many in counts.items() if isinstance(many, int)]
    said = [markdown(str(note)) + "." for note in run.results.get("notes") or []]
    drawn = any(run.interval(split, name) for split in found for name in run.scores(split))
    brackets = (
        "In brackets: 95 % intervals by drawing the examples anew (bootstrap). What training with another seed would "
        "change is not in them."
    )
    return [f"Over {' and '.join(known)} examples." if known else "", brackets if drawn else "", *said]


def how_to_load(run: Run, hub_model_id: str | None) -> str:
    """Python that loads the saved model; names are written with `repr`, so they cannot end the string."""
    where = repr(hub_model_id or f"{run.folder.resolve().name}/model")
    tag, ending = ON_THE_HUB.get(run.results["task"], (None, ""))
    kind, word = ("AutoImageProcessor", "processor") if tag in ON_IMAGES else ("AutoTokenizer", "tokenizer")
    if is_adapter(run) and ending not in ADAPTER_CLASSES:
        lines = [
            "from peft import PeftConfig, PeftModel",
            f"from transformers import AutoModel{ending}, {kind}",
            "",
            f"base = PeftConfig.from_pretrained({where}).base_model_name_or_path",
            f"model = PeftModel.from_pretrained(AutoModel{ending}.from_pretrained(base{labels(run)}), {where})",
        ]
    elif is_adapter(run):
        name = f"AutoPeftModel{ending}"
        lines = [f"from peft import {name}", f"from transformers import {kind}", ""]
        lines.append(f"model = {name}.from_pretrained({where}{labels(run)})")
    elif tag in IN_A_PIPELINE:
        return f"from transformers import pipeline\n\nrun = pipeline({tag!r}, model={where})"
    else:
        lines = [f"from transformers import AutoModel{ending}, {kind}", ""]
        lines.append(f"model = AutoModel{ending}.from_pretrained({where})")
    return "\n".join([*lines, f"{word} = {kind}.from_pretrained({where})"])


def labels(run: Run) -> str:
    """The number of classes, which an adapter's base model does not know of; a regression has one output."""
    names = run.results.get("label_names")
    many = len(names) if isinstance(names, list) else 0
    many = 1 if "label_scaling" in run.results else many
    return f", num_labels={many}" if many else ""


def training_table(run: Run) -> str:
    cost, results = run.cost, run.results
    speed = cost("samples_per_second")
    rows = [
        ["strategies", markdown(", ".join(results.get("strategies") or []) or "none: all weights")],
        ["steps", f"{results['steps']:,}"],
        ["epochs", number(results.get("epochs"))],
        ["training time", duration(cost("train_seconds"))],
        ["speed", f"{number(speed)} samples/s" if speed else ""],
        ["peak memory", memory(cost("peak_memory_bytes"))],
        ["size on disk", memory(cost("model_size_bytes"))],
    ]
    return markdown_table(["what", "value"], [row for row in rows if row[1]], left=2)


def command_block(run: Run) -> list[str]:
    command = run.manifest.get("command")
    text = " ".join(command) if isinstance(command, list) else command
    repeat = "The resolved settings are in `config.yaml`; `graft train config.yaml` repeats the run."
    return [fenced(text, "bash"), repeat] if text else [repeat]


def data_table(run: Run) -> str:
    rows = []
    for split, facts in (run.manifest.get("data") or {}).items():
        if isinstance(facts, Mapping):
            rows.append([markdown(split), f"{facts.get('rows', 0):,}", code(str(facts.get("fingerprint", ""))[:16])])
    return markdown_table(["split", "rows", "fingerprint (SHA-256, start)"], rows) if rows else "Not recorded."


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
