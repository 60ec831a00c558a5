"""Kill saves and whole runs at random moments, and count what was lost.

    python -m benchmarks.reliability.kills --kills 1000 --out benchmarks/reliability/kills.json --write_table

Three parts: children that save without pause and are killed (85 of 100 kills), whole small runs that are killed and
started again until they end (15 of 100), and one death after every call that a save makes to the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
"""A process with threads, or with a GPU in use, cannot be forked."""


def get_ready(work: Path) -> None:
    """Set the environment, then import all that children need, once and for all of them."""
    os.environ.update({**OFFLINE, **QUIET, "HF_HOME": str(work / "home"), "MPLCONFIGDIR": str(work / "matplotlib")})
    import datasets  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import matplotlib.font_manager  # noqa: F401  it looks for fonts once per machine, for seconds
    import peft  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2  # noqa: F401
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import pipeline.metrics  # noqa: F401
    import pipeline.reports.card  # noqa: F401
    import pipeline.reports.curves  # noqa: F401

    get_checkpoint_conversion_mapping("gpt2")  # kept in memory, and a second's work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="of saves and runs together")
    parser.add_argument("--runs", type=int, help="how many of the kills are of whole runs; 15 of 100 unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=14, help="size of the largest checkpoint")
    parser.add_argument("--work", type=Path, help="an empty or new folder on the file system to be tried")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write_table", action="store_true", help="put the table into README.md beside this file")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="graft-kills-", dir=options.work))
    try:
        get_ready(work)
        found = report(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    if options.write_table:
        text = (HERE / "README.md").read_text()
        (HERE / "README.md").write_text(text[: text.index("| what |")] + table(found) + "\n")


def report(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All three parts, and where they ran."""
    from benchmarks.reliability.points import die_everywhere
    from benchmarks.reliability.runs import kill_runs
    from benchmarks.reliability.saves import kill_saves

    of_runs = round(0.15 * options.kills) if options.runs is None else options.runs
    began = time.monotonic()
    saves = kill_saves(options.kills - of_runs, options.seed, work, largest=options.megabytes)
    runs = kill_runs(of_runs, options.seed, work)
    points = die_everywhere(work)
    return {
        "command": " ".join(["python -m benchmarks.reliability.kills", *sys.argv[1:]]),
        "seed": options.seed,
        "kills": options.kills,
        "saves": saves,
        "runs": runs,
        "every call of a save": points,
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine(work),
    }


def machine(work: Path) -> dict[str, Any]:
    """Versions, processor, kernel and file system."""
    import torch

    from pipeline.manifest import describe_machine

    said = subprocess.run(["stat", "-f", "-c", "%T", str(work)], capture_output=True, text=True, check=False)
    described = describe_machine(torch.device("cpu"))
    return {**described, "kernel": platform.release(), "file system": said.stdout.strip(), "cores": os.cpu_count()}


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    saves, runs, points = found["saves"], found["runs"], found["every call of a save"]
    different = sum(runs["different at the end"].values())
    rows = [
        ("kills within saving without pause", saves["kills"]),
        ("... newest published checkpoint unusable", saves["unusable"]),
        ("... acknowledged saves lost", saves["acknowledged saves lost"]),
        ("... half-written folders, all gone after the next save", saves["half-written folders left by kills"]),
        ("... mean save", f"{saves['mean save ms']:.0f} ms"),
        ("kills of whole runs, at any moment", runs["kills"]),
        ("... runs that were killed and ended", runs["runs"]),
        ("... newest published checkpoint unusable", runs["unusable"]),
        (f"... most steps done again (save_steps {', '.join(map(str, runs['save_steps']))})", runs["most steps lost"]),
        ("... model, results, metrics or last checkpoint not those of an undisturbed run", different),
        ("deaths after each call of one save to the disk, and in the middle of each file", points["deaths"]),
        ("... unusable", points["unusable"]),
    ]
    return "\n".join(["| what | count |", "| --- | --- |", *(f"| {name} | {count} |" for name, count in rows)])


if __name__ == "__main__":
    main()
