"""Which files of a run may leave the machine: an allow-list, and a search for secrets in all that is text."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.safe_text import lines_with_secrets

OF_THE_RUN = (
    *("README.md", "config.yaml", "manifest.json", "results.json", "data.json", "*.png", "*.svg"),
    ".eval_results/*.yaml",
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
OF_THE_MODEL = (
    *WEIGHTS,
    *("config.json", "generation_config.json", "adapter_config.json"),
    # tokenizers, of every family
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model"),
    *("source.spm", "target.spm", "bpe.codes", "entity_vocab.json", "target_vocab.json", "prophetnet.tokenizer"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    # sentence-transformers
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "*_*/config.json"),
)
MERGED = "merged"
"""Folder of the whole model, where the root of the repository has the adapter."""
TEXT = (".json", ".yaml", ".md", ".txt", ".jinja", ".svg")
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "entity_vocab.json")
"""Every word may stand in one: only what begins as a secret does is one there."""


def of_a_model(name: str) -> bool:
    """Whether a file of a repository is one of a model, which a push without it takes away."""
    return _fits(name.removeprefix(f"{MERGED}/"), OF_THE_MODEL)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    # each part by itself: a star does not reach across a slash
    parts = PurePosixPath(name).parts
    return any(
        len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
        for wanted in (PurePosixPath(pattern).parts for pattern in patterns)
    )


def model_files(folder: Path) -> dict[str, Path]:
    """Name -> file of a saved model, as far as it is on the list."""
    return {name: folder / name for name in _names(folder) if _fits(name, OF_THE_MODEL)}


def left_out(folder: Path) -> list[str]:
    """The files of a saved model that are on no list and stay here."""
    return [name for name in _names(folder) if not _fits(name, OF_THE_MODEL)]


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run_files(folder: Path) -> dict[str, Path]:
    """Name -> file of what belongs to a run beside its model."""
    return {name: folder / name for name in _names(folder) if _fits(name, OF_THE_RUN)}


def refuse_secrets(files: dict[str, Path]) -> None:
    """Raise DataError with file and line of everything that looks like a secret; none of it is shown."""
    problems = []
    for name, path in files.items():
        if path.suffix in TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            found = lines_with_secrets(text, by_name=PurePosixPath(name).name not in VOCABULARIES)
            problems += [
                f"{name}:{line}: holds what looks like {what}; nothing was sent. Take it out where it comes from "
                "(config.yaml, a label, a template), make the secret invalid at its service, and push again"
                for line, what in found
            ]
    if problems:
        raise DataError(problems)
