"""Run quality experiments and write their results beside this file.

    python -m benchmarks.quality.run --data ../shared/data --encoder PATH_OF_ALL_MINILM_L6_V2 [NAME ...]

Results land in results/NAME.json (numbers, settings, versions, machine, seconds) and in the table of README.md.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.quality.experiments import EXPERIMENTS
from pipeline.api import run_recipe
from pipeline.data.stdlib import train_tokenizer

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all when none is given")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare_texts(options.data, options.work)
    for name in options.names or EXPERIMENTS:
        recipe, settings, reference = EXPERIMENTS[name]
        places = {"{data}": str(options.data), "{encoder}": str(options.encoder), "{work}": str(options.work)}
        output = options.work / f"{name}-{options.seed}"
        flat = {
            "output_dir": str(output),
            "resume": "never",
            "logging_steps": 50,
            "save_steps": 10**6,
            "seed": options.seed,
        }
        run_recipe(recipe, filled(settings, places), flat)
        write_result(name, recipe, settings, reference, output, options.seed)
        write_table()


def filled(value: Any, places: dict[str, str]) -> Any:
    """Settings with the placeholders replaced."""
    if isinstance(value, dict):
        return {key: filled(part, places) for key, part in value.items()}
    if isinstance(value, str):
        for mark, place in places.items():
            value = value.replace(mark, place)
    return value


def prepare_texts(data: Path, work: Path) -> None:
    """Training and validation parts of the two texts and of GSM8K, and tokenizers for the texts."""
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
            (work / f"{name}_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in (data / "gsm8k/train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if len(row["question"]) < 450]  # 512 tokens of a 512-word vocabulary end there
    random.Random(0).shuffle(rows)
    for split, part in (("train", rows[200:]), ("validation", rows[:200])):
        (work / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


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


def write_result(name: str, recipe: str, settings: dict[str, Any], reference: str, output: Path, seed: int) -> None:
    """One JSON file per experiment and seed."""
    results = json.loads((output / "results.json").read_text())
    manifest = json.loads((output / "manifest.json").read_text())
    kept = ("versions", "python", "cpu", "cpu_threads", "device", "world_size", "mixed_precision", "cost")
    command = f"python -m benchmarks.quality.run --data DATA --encoder ENCODER --seed {seed} {name}"
    content = {
        "name": name, "recipe": recipe, "seed": seed, "command": command, "reference": reference,
        "metrics": results["metrics"], "steps": results["steps"], "best_step": results["best_step"],
        "parameters": results["parameters"], "num_samples": results["num_samples"], "settings": settings,
        **{key: manifest[key] for key in kept},
    }  # fmt: skip
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}-{seed}.json").write_text(json.dumps(content, indent=1) + "\n")


def shown(metrics: dict[str, float]) -> str:
    """The numbers of a split; those of single types of entities are in the JSON."""
    whole = {key: value for key, value in metrics.items() if not key.startswith("support_")}
    types = {f"f1_{key.removeprefix('support_')}" for key in metrics if key.startswith("support_")}
    return ", ".join(f"{key} {value:.4g}" for key, value in whole.items() if key not in types)


def write_table() -> None:
    """README.md from the result files."""
    rows = []
    for path in sorted(
        (HERE / "results").glob("*.json"), key=lambda path: list(EXPERIMENTS).index(path.stem.rsplit("-", 1)[0])
    ):
        result = json.loads(path.read_text())
        numbers = shown(result["metrics"]["validation"])
        if "test" in result["metrics"]:
            numbers += f"; test: {shown(result['metrics']['test'])}"
        share = f"{result['parameters']['trainable_percent']:.1f} %"
        seconds = f"{result['cost']['train_seconds']:.0f} s"
        cells = [result["name"], result["seed"], share, result["steps"], seconds, numbers, result["reference"]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    text = (HERE / "README.md").read_text()
    head = text[: text.index("| run |")] if "| run |" in text else text
    table = [
        "| run | seed | trained | steps | time | validation (and test) | reference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]
    (HERE / "README.md").write_text(head + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
