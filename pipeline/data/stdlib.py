"""A small corpus that is on every machine: the sources of the running Python's standard library."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pair = tuple[str, str]
"""A signature, with the newline that ends it, and the first paragraph of its docstring on one line."""

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "turtledemo", "lib2to3", "ensurepip"}
    | {"encodings", "pydoc_data", "__phello__"}
)
"""Folders of third-party code, tests, parts that some systems package apart, tables, and copies of the docstrings."""
DOCSTRING_CHARACTERS = range(20, 201)
SIGNATURE_CHARACTERS = range(1, 161)
SHARES = (
    ("pretrain_train", 0.40),
    ("pretrain_validation", 0.45),
    ("docstrings_train", 0.80),
    ("docstrings_validation", 1.0),
)
"""Upper end of the part of the hash range whose files go to each use."""


@dataclass(frozen=True)
class StdlibCorpus:
    """Documents to pretrain on and pairs to adapt to; no file gives to two of the four."""

    python_version: str
    fingerprint: str
    """sha256 over everything below, which moves with the Python version."""
    pretrain_train: list[str]
    pretrain_validation: list[str]
    docstrings_train: list[Pair]
    docstrings_validation: list[Pair]

    def write(self, folder: Path) -> dict[str, Path]:
        """One jsonl file per list: `text` for documents; `signature` and `docstring` for pairs."""
        folder.mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[dict[str, str]]] = {
            "pretrain_train": [{"text": document} for document in self.pretrain_train],
            "pretrain_validation": [{"text": document} for document in self.pretrain_validation],
            "docstrings_train": [{"signature": s, "docstring": d} for s, d in self.docstrings_train],
            "docstrings_validation": [{"signature": s, "docstring": d} for s, d in self.docstrings_validation],
        }
        paths = {name: folder / f"{name}.jsonl" for name in rows}
        for name, path in paths.items():
            path.write_text("".join(json.dumps(row) + "\n" for row in rows[name]), encoding="utf-8")
        return paths


def collect(root: Path | None = None) -> StdlibCorpus:
    """Read the standard library (or the sources below `root`): some seconds, the same result every time.

    A file's use follows from the hash of its path, so it is the same on systems that lack other files. A signature
    and a docstring occur once in all pairs, and no docstring of a pair is the docstring of a pretraining file.
    """
    documents: dict[str, list[str]] = {name: [] for name, _ in SHARES}
    pairs: dict[str, list[Pair]] = {name: [] for name, _ in SHARES}
    seen_documents: set[str] = set()
    for name, source, tree in _files(root or Path(sysconfig.get_paths()["stdlib"])):
        use = _use(name)
        if source not in seen_documents:
            seen_documents.add(source)
            documents[use].append(source)
            pairs[use].extend(_pairs(tree))
    pretraining = pairs["pretrain_train"] + pairs["pretrain_validation"]
    signatures: set[str] = set()
    docstrings = {docstring for _, docstring in pretraining}
    kept: dict[str, list[Pair]] = {}
    # Held-out pairs choose first: they are the fewer.
    for use in ("docstrings_validation", "docstrings_train"):
        kept[use] = []
        for signature, docstring in pairs[use]:
            if signature not in signatures and docstring not in docstrings:
                kept[use].append((signature, docstring))
                signatures.add(signature)
                docstrings.add(docstring)
    lists = (documents["pretrain_train"], documents["pretrain_validation"], kept["docstrings_train"])
    everything = [*lists, kept["docstrings_validation"]]
    return StdlibCorpus(
        platform.python_version(),
        hashlib.sha256(json.dumps(everything).encode()).hexdigest(),
        *lists,
        kept["docstrings_validation"],
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> Any:
    """A byte-level BPE tokenizer with `<pad>`, `<s>` and `</s>` as ids 0, 1, 2, saved in `folder` and returned.

    It adds no special token by itself, and decodes to exactly the text it encoded. The same texts give the same files.
    """
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
        trainers,
    )  # with transformers, seconds of start-up
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    assert vocab_size >= len(special) + len(alphabet), "every byte needs a token"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(str(folder))
    return fast


def _files(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """Relative path, text and syntax tree of each file, in the order of their paths."""
    found: dict[str, Path] = {}
    for folder, subfolders, names in os.walk(root):
        # _sysconfigdata and config-* hold paths and flags of the machine that built this Python.
        subfolders[:] = [name for name in subfolders if name not in LEFT_OUT and not name.startswith("config-")]
        paths = [Path(folder, name) for name in names if name.endswith(".py") and not name.startswith("_sysconfigdata")]
        found |= {path.relative_to(root).as_posix(): path for path in paths}
    for name in sorted(found):
        try:
            source = found[name].read_bytes().decode("utf-8").replace("\r\n", "\n")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old escapes in somebody else's source
                tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        if source.strip():
            yield name, source, tree


def _use(name: str) -> str:
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
    return next(use for use, end in SHARES if place < end)


def _pairs(tree: ast.Module) -> Iterator[Pair]:
    for node in _definitions(tree):
        docstring = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
        signature = _signature(node)
        if len(docstring) not in DOCSTRING_CHARACTERS or len(signature) not in SIGNATURE_CHARACTERS:
            continue
        if all(text.isascii() and text.isprintable() for text in (docstring, signature)):
            yield f"{signature}\n", docstring


def _definitions(node: ast.AST) -> Iterator[Definition]:
    """Functions and classes in source order; expressions, nine nodes in ten, hold none and are not looked into."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield child
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _definitions(child)


def _signature(node: Definition) -> str:
    """The first line of the definition as `ast.unparse` writes it, without decorators and on one line."""
    if isinstance(node, ast.ClassDef):
        inside = ", ".join(ast.unparse(part) for part in [*node.bases, *node.keywords])
        return f"class {node.name}({inside}):" if inside else f"class {node.name}:"
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {node.name}({ast.unparse(node.args)}){returns}:"
