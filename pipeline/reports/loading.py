"""The lines of Python that load a saved model, chosen by what lies in its folder and what its results say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.reports.read import Run
from pipeline.safe_text import clean

IN_A_PIPELINE = {
    *("text-generation", "fill-mask", "text-classification", "token-classification", "image-classification"),
}
"""Tags of the hub that `transformers.pipeline` runs with nothing but the saved folder."""
AUTO_CLASS = re.compile(r"AutoModel\w*")


@dataclass(frozen=True)
class Base:
    """The model that an adapter is put on again: the name to write, and what is to be said of it."""

    name: str
    """A hub id, or the last name of a folder."""
    revision: str | None = None
    is_hub_id: bool = True


def model_folder(run: Run) -> Path:
    return run.folder / "model"


def is_adapter(run: Run) -> bool:
    return (model_folder(run) / "adapter_config.json").is_file()


def is_for_sentences(run: Run) -> bool:
    """Whether sentence-transformers reads the folder: then pooling and normalization are done as in training."""
    return (model_folder(run) / "modules.json").is_file()


def how_to_load(run: Run, base: Base | None, hub_model_id: str | None, hub_revision: str | None = None) -> str:
    """Python that loads the saved model, from the run folder's parent or from the hub; empty when nothing says how.

    `base` is what an adapter is put on; `hub_revision` is the branch where the model is, when that is not main. Names
    are written with `repr`, so they cannot end the string they are in.
    """
    where = arguments(hub_model_id, hub_revision) if hub_model_id else repr(clean(f"{run.folder.resolve().name}/model"))
    pushed_without_base = hub_model_id is not None and base is not None and not base.is_hub_id
    if is_for_sentences(run) and not (is_adapter(run) and pushed_without_base):
        return sentences(where)
    if is_adapter(run):
        return adapter(run, base, where, pushed_without_base)
    return whole(run, where)


def arguments(hub_model_id: str, hub_revision: str | None) -> str:
    """What stands between the brackets of all that load from a hub."""
    branch = f", revision={clean(hub_revision)!r}" if hub_revision else ""
    return f"{clean(hub_model_id)!r}{branch}"


def how_to_load_merged(run: Run, hub_model_id: str, hub_revision: str | None = None) -> str:
    """Python that loads `merged/`, the whole model beside the adapter in a pushed repository.

    The folder is fetched first: in a repository that is an adapter, `from_pretrained(..., subfolder="merged")` of
    transformers 5.23 looks for the adapter's weights in it.
    """
    fetch = f"where = snapshot_download({arguments(hub_model_id, hub_revision)}, allow_patterns='merged/*') + '/merged'"
    lines = sentences("where") if is_for_sentences(run) else whole(run, "where")
    imports, _, rest = lines.partition("\n\n")
    return f"from huggingface_hub import snapshot_download\n{imports}\n\n{fetch}\n{rest}" if lines else ""


def sentences(where: str) -> str:
    return (
        "from sentence_transformers import SentenceTransformer\n\n"
        f"model = SentenceTransformer({where})\n"
        "vectors = model.encode(['one text', 'another text'])"
    )


def whole(run: Run, where: str) -> str:
    """A model with all its weights, as a pipeline where transformers has one."""
    auto, tag = auto_class(run), run.results.get("pipeline_tag")
    if auto is None:
        return ""
    if tag in IN_A_PIPELINE:
        return f"from transformers import pipeline\n\npipe = pipeline({tag!r}, model={where})"
    kind, word = processing(run)
    return (
        f"from transformers import {', '.join(sorted((auto, kind)))}\n\n"
        f"model = {auto}.from_pretrained({where})\n"
        f"{word} = {kind}.from_pretrained({where})"
    )


def adapter(run: Run, base: Base | None, where: str, pushed_without_base: bool) -> str:
    """An adapter on its base. The saved config is the base's with the labels and settings of the run."""
    auto = auto_class(run)
    if auto is None:
        return ""
    kind, word = processing(run)
    names = {auto, kind}
    from_peft, options, remark = ["PeftModel"], [], ""
    if base is None or not (base.is_hub_id or pushed_without_base):
        from_peft.append("PeftConfig")
        start = f"PeftConfig.from_pretrained({where}).base_model_name_or_path"
    else:
        start = repr(clean(base.name))
        remark = "  # the folder of your copy of the base model" if pushed_without_base else ""
        options += [f"revision={clean(base.revision)!r}"] if base.revision and base.is_hub_id else []
    if (model_folder(run) / "config.json").is_file():
        names.add("AutoConfig")
        options.append(f"config=AutoConfig.from_pretrained({where})")
    more = "".join(f"    {one},\n" for one in options)
    return (
        f"from peft import {', '.join(sorted(from_peft))}\n"
        f"from transformers import {', '.join(sorted(names))}\n\n"
        f"base = {auto}.from_pretrained(\n    {start},{remark}\n{more})\n"
        f"model = PeftModel.from_pretrained(base, {where})\n"
        f"{word} = {kind}.from_pretrained({where})"
    )


def auto_class(run: Run) -> str | None:
    """The auto class of the run's task; None in a folder of an older graft, which did not record it."""
    name = run.results.get("model_class")
    return name if isinstance(name, str) and AUTO_CLASS.fullmatch(name) else None


def processing(run: Run) -> tuple[str, str]:
    """The class that makes inputs of rows, and what to call it."""
    images = (model_folder(run) / "preprocessor_config.json").is_file()
    return ("AutoImageProcessor", "processor") if images else ("AutoTokenizer", "tokenizer")
