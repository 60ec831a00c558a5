"""The run folder before the run: whether it can be written, and whether what it holds may be moved aside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from pipeline.errors import ConfigError

OF_A_RUN = {"manifest.json", "checkpoints", "config.yaml"}
"""A folder that holds one of these was written by a run."""
OURS = {".lock", ".processes"}
"""What a start leaves in a folder before there is a run."""
GIVEN = re.compile(r"(\.tmp-)?start-[0-9a-f]{12}")
"""A start that was handed over from Python (pipeline/given.py), which stays for the next run that takes it."""
EXAMPLE = Path("checkpoints", "step-000100")


def is_ours(path: Path) -> bool:
    """Whether a start has left this before there was a run."""
    return path.name in OURS or bool(GIVEN.fullmatch(path.name))


def is_foreign(inside: Iterable[Path]) -> bool:
    """Whether a folder holds files, and none that says they are a run's."""
    names = {path.name for path in inside if not is_ours(path)}
    return bool(names) and not OF_A_RUN & names


def check_output(output_dir: str, resume: str) -> None:
    """Raise ConfigError when a run could not start in `output_dir`; nothing is made or moved here."""
    folder, problems = Path(output_dir), []
    if not output_dir.strip():
        raise ConfigError("output_dir: is empty; name the folder of the run, such as runs/mine")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        where = "is a file" if there == folder else f"is inside {there.name}, which is a file"
        problems.append(f"output_dir: {output_dir} {where}; expected a folder, or a name that is still free")
    elif not os.access(there, os.W_OK | os.X_OK):
        problems.append(
            f"output_dir: no permission to write in {there}; choose another folder, or let its owner give you the right"
        )
    elif there == folder and is_foreign(folder.iterdir()):
        inside = sorted(path.name for path in folder.iterdir() if not is_ours(path))
        problems.append(
            f"output_dir: {output_dir} holds files that are no run of graft ({', '.join(inside[:3])}"
            f"{', ...' if len(inside) > 3 else ''}); choose another folder"
        )
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        near = get_close_matches(resume, ("auto", "never"), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected auto, never, or a folder such as {folder / EXAMPLE}"
        problems.append(f"checkpoint.resume: {resume!r} is no folder; {hint}")
    if problems:
        raise ConfigError(problems)
