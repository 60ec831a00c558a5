"""Files that the quality runs read: splits, rows in plain form, and tokenizers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.data.stdlib import train_tokenizer


def prepare_texts(data: Path, work: Path) -> None:
    """Training and validation parts of the two texts and of GSM8K, and tokenizers for the texts; made once."""
    if (work / "multi30k_bpe").is_dir():  # the last that is made
        return
    for name, source in (
        ("shakespeare", "tinyshakespeare/input.txt"),
        ("stories", "tinystories_sample/tinystories.txt"),
    ):
        text = (data / source).read_text(encoding="utf-8")
        cut = int(0.9 * len(text))  # nanoGPT's split: the last tenth validates
        parts = {"train": text[:cut], "validation": text[cut:]}
        for split, part in parts.items():
            (work / f"{name}_{split}.txt").write_text(part, encoding="utf-8")
        characters(text, work / f"{name}_characters")
        train_tokenizer([parts["train"]], 1024, work / f"{name}_bpe")
        for split, part in parts.items():
            rows = [{"text": piece} for piece in pieces(part.replace("\n\n", "\n"))]
            write_rows(work / f"{name}_{split}.jsonl", rows)
    prepare_gsm8k(data, work)
    prepare_goemotions(data, work)
    rows = read_rows(data / "multi30k_en_de/train.jsonl")
    train_tokenizer([row[language] for row in rows for language in ("en", "de")], 6000, work / "multi30k_bpe")


def prepare_gsm8k(data: Path, work: Path) -> None:
    """Rows whose questions fit, and the short ones among them, whose answers fit too."""
    rows = read_rows(data / "gsm8k/train.jsonl")
    rows = [row for row in rows if len(row["question"]) < 450]  # 512 tokens of a 512-word vocabulary end there
    random.Random(0).shuffle(rows)
    for split, part in (("train", rows[200:]), ("validation", rows[:200])):
        write_rows(work / f"gsm8k_{split}.jsonl", part)
    short = [len(row["question"]) < 250 and len(row["question"]) + len(row["answer"]) < 480 for row in rows]
    for split, some in (("train", range(200, len(rows))), ("validation", range(200))):
        write_rows(work / f"gsm8k_short_{split}.jsonl", [rows[number] for number in some if short[number]])


def prepare_goemotions(data: Path, work: Path) -> None:
    """Rows with the names of their labels."""
    names = (data / "goemotions/labels.txt").read_text().split()
    for split, file in (("train", "train.tsv"), ("validation", "dev.tsv"), ("test", "test.tsv")):
        lines = [line.split("\t") for line in (data / "goemotions" / file).read_text(encoding="utf-8").splitlines()]
        rows = [
            {"text": text, "labels": [names[int(label)] for label in labels.split(",")]} for text, labels, _ in lines
        ]
        write_rows(work / f"goemotions_{split}.jsonl", rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pieces(text: str, size: int = 1000) -> list[str]:
    """Whole lines joined to about `size` characters, which is about 500 tokens of stories260K."""
    found, current = [], ""
    for line in text.splitlines(keepends=True):
        if current and len(current) + len(line) > size:
            found.append(current)
            current = ""
        current += line
    return [piece for piece in [*found, current] if piece.strip()]


def characters(text: str, folder: Path) -> None:
    """A tokenizer with one token per character of a text."""
    vocabulary = {character: number for number, character in enumerate(sorted(set(text)))}
    vocabulary |= {"<unk>": len(vocabulary), "<eos>": len(vocabulary) + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>", pad_token="<eos>"
    ).save_pretrained(folder)
