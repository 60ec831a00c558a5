"""Run quality experiments and write their results beside this file.

    python -m benchmarks.quality.run --data ../shared/data --encoder PATH_OF_ALL_MINILM_L6_V2 [NAME ...]

Results land in results/NAME.json (numbers, settings, versions, machine, seconds) and in the tables of README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.quality.experiments import EXPERIMENTS
from benchmarks.quality.prepare import prepare_texts
from benchmarks.quality.tables import HERE, write_tables
from pipeline.api import run_recipe


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
        places = {"data": options.data, "encoder": options.encoder, "work": options.work, "here": HERE}
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
        write_tables()


def filled(value: Any, places: dict[str, Any]) -> Any:
    """Settings with the placeholders replaced."""
    if isinstance(value, dict):
        return {key: filled(part, places) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, places) for part in value]
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", str(place))
    return value


def write_result(name: str, recipe: str, settings: dict[str, Any], reference: str, output: Path, seed: int) -> None:
    """One JSON file per experiment and seed."""
    results = json.loads((output / "results.json").read_text())
    manifest = json.loads((output / "manifest.json").read_text())
    kept = ("versions", "python", "cpu", "cpu_threads", "device", "world_size", "mixed_precision", "cost")
    command = f"python -m benchmarks.quality.run --data DATA --encoder ENCODER --seed {seed} {name}"
    content = {
        "name": name, "recipe": recipe, "seed": seed, "command": command, "reference": reference,
        "metrics": results["metrics"], "steps": results["steps"], "best_step": results["best_step"],
        "parameters": results["parameters"], "num_samples": results["num_samples"],
        "metric_settings": results["metric_settings"], "settings": settings,
        **{key: manifest[key] for key in kept},
    }  # fmt: skip
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{name}-{seed}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
