"""What the hub reads of a run: the front matter of its card, and its scores on benchmarks of the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.reports.loading import is_adapter, is_for_sentences
from pipeline.reports.read import Run
from pipeline.safe_text import clean

SPLITS = ("validation", "test")
COMMIT = re.compile(r"[0-9a-f]{40}")
LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research lppl-1.3c ms-pl mpl-2.0 "
    "odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr llama2 llama3 llama3.1 "
    "llama3.2 llama3.3 llama4 gemma unknown"
)
"""Names the hub takes under `license` (huggingface.co/docs/hub/repositories-licenses); any other one is `other`."""


def repo_id(name: Any) -> str | None:
    """The name, when a repository of the hub can have it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not isinstance(name, str) or not name:
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def base_model(run: Run, hub_base_model_id: str | None = None) -> str | None:
    """The hub id of the model this one started from; None for a local folder and for random weights.

    `hub_base_model_id` is the user's word for where the same model is on the hub. Else `model.local` of the manifest
    decides. Where it is absent, a bare name may be that of a folder, so it takes a revision to be believed.
    """
    model = run.manifest.get("model") or {}
    if run.results.get("start") == "random":
        return None
    if hub_base_model_id:
        return repo_id(hub_base_model_id)
    name = repo_id(model.get("name"))
    if name is None:
        return None
    local = model.get("local", not model.get("revision") and ("/" not in name or Path(name).exists()))
    return None if local else name


def license_of(run: Run) -> dict[str, str | None]:
    """The licence of the start model in the hub's keys, or nothing; a name the hub would refuse stands as `other`."""
    model = run.manifest.get("model") or {}
    name, other, link = (model.get(key) for key in ("license", "license_name", "license_link"))
    if not isinstance(name, str) or run.results.get("start") == "random":
        return {}
    if name in LICENSES.split():
        return {"license": name}
    words = re.sub(r"[^a-z0-9.-]+", "-", str(other if name == "other" and other else name).lower()).strip("-")
    if not words:  # the hub refuses `other` without a name
        return {}
    known = isinstance(link, str) and re.fullmatch(r"https://[\w./-]+", link)
    return {"license": "other", "license_name": words, "license_link": link if known else None}


def license_words(run: Run) -> str:
    found = license_of(run)
    return found.get("license_name") or found.get("license") or "not stated"


def dataset_of(run: Run) -> Mapping[str, Any] | None:
    """The hub dataset of the run's rows, when they are of one."""
    found = run.manifest.get("dataset")
    return found if isinstance(found, Mapping) and repo_id(found.get("name")) else None


def evaluated(run: Run) -> list[str]:
    return [split for split in SPLITS if run.scores(split)]


def num_samples(run: Run, split: str) -> int | None:
    many = (run.results.get("num_samples") or {}).get(split)
    return many if isinstance(many, int) else None


def data_of(run: Run, split: str) -> Mapping[str, Any]:
    found = (run.manifest.get("data") or {}).get(split)
    return found if isinstance(found, Mapping) else {}


def front_matter(run: Run, name: str, hub_base_model_id: str | None = None) -> str:
    """The YAML on top of the card, without its fences."""
    from huggingface_hub import ModelCardData

    base, data = base_model(run, hub_base_model_id), dataset_of(run)
    found: dict[str, Any] = {**license_of(run)}
    strategies = [clean(strategy) for strategy in run.results.get("strategies") or []]
    named = {clean(metric) for split in evaluated(run) for metric in run.scores(split) if metric != "loss"}
    library = "sentence-transformers" if is_for_sentences(run) else "peft" if is_adapter(run) else "transformers"
    metadata = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if is_adapter(run) else "finetune") if base else None,
        datasets=[data["name"]] if data else None,
        library_name=library,
        pipeline_tag=pipeline_tag(run),
        tags=["graft", *strategies],
        metrics=sorted(named) or None,
        model_name=clean(name),
        eval_results=model_index(run) or None,
        **found,
    )
    return metadata.to_yaml().strip()


def pipeline_tag(run: Run) -> str | None:
    tag = run.results.get("pipeline_tag")
    return tag if isinstance(tag, str) and re.fullmatch(r"[a-z0-9-]+", tag) else None


def model_index(run: Run) -> list[Any]:
    """Every score as the card's metadata holds it, with the number of samples and the ends of its interval."""
    from huggingface_hub import EvalResult

    data = dataset_of(run)
    found = []
    for split in evaluated(run):
        rows = {"num_samples": num_samples(run, split), "fingerprint": data_of(run, split).get("fingerprint")}
        place: dict[str, Any] = {
            "dataset_type": data["name"] if data else "custom",
            "dataset_name": data["name"] if data else f"{split} rows of the run",
            "dataset_config": data.get("config") if data else None,
            "dataset_revision": data.get("revision") if data else None,
            "dataset_split": hub_split(run, split) or split,
            "dataset_args": {key: value for key, value in rows.items() if value is not None} or None,
        }
        for name, value in run.scores(split).items():
            ends = run.interval(split, name)
            found += [
                EvalResult(
                    task_type=pipeline_tag(run) or clean(run.results["task"]).replace("_", "-"),
                    metric_type=clean(name),
                    metric_value=value,
                    metric_args={"confidence_level": 0.95, "confidence_interval": list(ends)} if ends else None,
                    **place,
                )
            ] * (value is not None)
    return found


def hub_split(run: Run, split: str) -> str | None:
    """The name that a split of ours has in the hub dataset; None for rows that were drawn from another one."""
    data = dataset_of(run)
    name = (data.get("splits") or {}).get(split) if data else None
    return name if isinstance(name, str) else None


def eval_results(run: Run) -> dict[str, str]:
    """The files of `.eval_results/` (path in the repository -> YAML): the main metric on a benchmark of the hub.

    The hub shows these beside the model and on the leaderboard of the benchmark, which is a dataset of the hub that
    names its tasks. So there is one only for the rows of a whole split of a hub dataset, and none for a loss, which
    depends on the tokenizer and compares with nobody's. The task is the dataset's configuration, else `default`.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    data, metric = dataset_of(run), run.results["main_metric"]
    splits = [split for split in reversed(evaluated(run)) if hub_split(run, split)]
    value = run.scores(splits[0]).get(metric) if splits else None
    if data is None or value is None or data.get("max_eval_samples") is not None or is_a_loss(run):
        return {}
    split, many, revision = splits[0], num_samples(run, splits[0]), str(data.get("revision"))
    ends = run.interval(split, metric)
    notes = [f"{metric} between 0 and 1" if 0 <= value <= 1 else metric, f"split {hub_split(run, split)}"]
    notes += [f"{many} samples"] * (many is not None)
    notes += [f"95 % interval {ends[0]:.4f} to {ends[1]:.4f}"] if ends else []
    entry = EvalResultEntry(
        dataset_id=data["name"],
        task_id=clean(str(data.get("config") or "default")),
        value=value,
        dataset_revision=revision if COMMIT.fullmatch(revision) else None,
        date=run.manifest.get("started"),
        notes=clean(", ".join(notes)),
    )
    name = data["name"].replace("/", "--")
    return {f".eval_results/{name}.yaml": yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)}


def is_a_loss(run: Run) -> bool:
    return run.results["main_metric"] in ("loss", "perplexity", "bits_per_byte")
