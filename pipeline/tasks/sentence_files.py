"""The files around a model from which sentence-transformers knows how its vectors become an embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig
from transformers.utils.hub import cached_file

from pipeline.errors import ConfigError

Pooling = Literal["mean", "cls"]
MODES: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of `1_Pooling/config.json` before sentence-transformers 6, which reads them still."""
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


def pooling_of(place: str, revision: str | None) -> Pooling | None:
    """How a sentence-transformers checkpoint (folder or hub id) pools; None for any other checkpoint.

    Raises ConfigError for one with modules (Dense, say) that are not trained here and would be lost.
    """
    modules = _read(place, revision, "modules.json")
    if modules is None:
        return None
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    if others := [kind for kind in kinds if kind not in KNOWN_MODULES]:
        raise ConfigError(
            f"model: {place} is a sentence-transformers model with {', '.join(others)}, which this task neither trains "
            f"nor saves; it knows {', '.join(KNOWN_MODULES)}: choose another checkpoint, or take the model alone out "
            "of it with AutoModel.from_pretrained(...).save_pretrained(...)"
        )
    settings = _read(place, revision, f"{kinds['Pooling']}/config.json") if "Pooling" in kinds else None
    if settings is None:
        return None
    found = settings.get("pooling_mode") or [mode for key, mode in MODES.items() if settings.get(key)]
    found = [found] if isinstance(found, str) else found or ["mean"]
    if found == ["mean"]:
        return "mean"
    if found == ["cls"]:
        return "cls"
    shown = " and ".join(found)
    raise ConfigError(f"task.pooling: {place} pools by {shown}; expected mean or cls: say which one to train with")


def _read(place: str, revision: str | None, name: str) -> Any:
    """A JSON file of a checkpoint; None where it has none."""
    file = cached_file(
        place,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def write_sentence_files(folder: Path, *, pooling: Pooling, normalize: bool, max_length: int) -> None:
    """Make the folder of a saved model one that `SentenceTransformer(folder)` loads, of any version since 2."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", **({"Normalize": "2_Normalize"} if normalize else {})}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(kinds.items())
    ]
    for path in kinds.values():
        (folder / path).mkdir(exist_ok=True)
    width = AutoConfig.from_pretrained(folder).get_text_config().hidden_size
    if (folder / "adapter_config.json").exists():  # transformers takes an adapter with a config.json for a whole model
        (folder / "config.json").unlink()
    modes = {key: mode == pooling for key, mode in MODES.items()}
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": width, **modes, "include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine", "prompts": {}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
