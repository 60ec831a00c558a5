"""Repeat a finished run from its folder, and say whether the same bytes came out."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import patch_environment

from pipeline.accelerator import available_device
from pipeline.api import RECIPES, read_config, say
from pipeline.data import fingerprint, load_splits
from pipeline.errors import ConfigError, DataError
from pipeline.launch import launch
from pipeline.manifest import describe_machine
from pipeline.reports.read import parse_object
from pipeline.safe_text import clean
from pipeline.settings import make_task

IDENTICAL, DIFFERENT, NOT_REPEATED = 0, 1, 2
STOPPED = (130, 138, 143)
COMPARED = "model/ and results.json"
NEEDED: dict[str, type] = {"recipe": str, "world_size": int, "cpu_threads": int, "versions": dict, "data": dict}
"""What a manifest must hold for its run to be repeated."""


def rerun(run_dir: Path, output_dir: Path | None = None, *, dry_run: bool = False) -> int:
    """Run RUN_DIR/config.yaml again in a new folder, as many processes and threads as then, and compare the results.

    Returns 0 when model/ and results.json are the same bytes, 1 when they differ and 2 when the run did not finish
    (130 or 143 when it was stopped). A dry run ends with 0 where the run would begin. Raises ConfigError or DataError
    when it cannot be repeated.
    """
    manifest = read_manifest(run_dir)
    new = output_dir or run_dir.resolve().with_name(f"{run_dir.resolve().name}.rerun")
    refuse_unrepeatable(run_dir, manifest, new)
    config = read_config(manifest["recipe"], run_dir / "config.yaml")
    refuse_other_rows(config, manifest["data"])
    for line in differences(manifest, describe_machine(available_device())):
        say(f"{line}; the bytes may differ")
    if dry_run:
        on = f"{manifest['world_size']} process(es) with {manifest['cpu_threads']} thread(s) each"
        say(f"would run {manifest['recipe']} on {on} in {new} and compare {COMPARED} with {run_dir}")
        return IDENTICAL
    code = start(run_dir, manifest, config, new)
    if code:
        say(f"graft rerun: the repeated run ended with exit code {code}, so there is nothing to compare")
        return code if code in STOPPED else NOT_REPEATED
    return compare_bytes(run_dir, new)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """The manifest of a finished run. Raises DataError with everything that is missing from the folder."""
    if not run_dir.is_dir():
        raise DataError(f"{run_dir}: there is no such run folder")
    problems = [
        f"{run_dir}: {name} is missing; only a whole run folder can be repeated"
        for name in ("manifest.json", "config.yaml", "results.json", "model")
        if not (run_dir / name).exists()
    ]
    if problems:
        raise DataError(problems)
    try:
        manifest = parse_object((run_dir / "manifest.json").read_text(encoding="utf-8"), f"{run_dir}/manifest.json")
    except (ValueError, OSError) as error:
        raise DataError(str(error)) from error
    problems = [
        f"{run_dir}/manifest.json: expected {kind.__name__} under {name!r}, found {type(manifest.get(name)).__name__}; "
        "it is damaged, or of an older graft"
        for name, kind in NEEDED.items()
        if not isinstance(manifest.get(name), kind)
    ]
    if problems:
        raise DataError(problems)
    return manifest


def refuse_unrepeatable(run_dir: Path, manifest: Mapping[str, Any], new: Path) -> None:
    """Raise ConfigError with every reason why this run cannot be repeated from its folder, or not into that one."""
    problems = []
    if manifest.get("status") != "finished":
        problems.append(f"{run_dir}: this run is not finished (its status is {manifest.get('status')!r}); finish it")
    if manifest["recipe"] not in RECIPES:
        problems.append(f"{run_dir}: unknown recipe {manifest['recipe']!r} in manifest.json")
    if manifest.get("rows_in_memory"):
        problems.append(
            f"{run_dir}: its rows were handed over from Python, and no file tells where they are; call the function "
            "again, with output_dir set to a new folder"
        )
    if manifest.get("functions") and was_ended(run_dir):
        problems.append(
            f"{run_dir}: it ended early, perhaps because your {', '.join(manifest['functions'])} asked for it, "
            "and no file tells when it would again; call the recipe again from Python"
        )
    if manifest.get("script"):
        problems.append(
            f"{run_dir}: its model was built by your own {manifest['script']}; start that again with "
            f"{run_dir / 'config.yaml'} --output_dir {new}"
        )
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        problems.append(f"{new}: is there already and not empty; give a new folder with --output_dir")
    if "LOCAL_RANK" in os.environ:
        problems.append(f"a launcher started this process; use `graft rerun {run_dir}`, which starts its own processes")
    if problems:
        raise ConfigError(problems)


def was_ended(run_dir: Path) -> bool:
    """Whether a run ended before its last step."""
    text = (run_dir / "results.json").read_text(encoding="utf-8")
    return bool(parse_object(text, f"{run_dir}/results.json").get("stopped_early"))


def refuse_other_rows(config: Any, recorded: Mapping[str, Any]) -> None:
    """Read the data and raise DataError naming every split that is not what the run saw."""
    columns = make_task(config).columns()
    found = {
        split: (len(rows), fingerprint(rows, columns)) for split, rows in load_splits(config.data, columns).items()
    }
    problems = []
    if config.data.sources or config.data.streaming:  # the run itself compares its corpus; reading it takes long
        recorded = {split: facts for split, facts in recorded.items() if split != "train"}
    for split in dict.fromkeys((*recorded, *found)):
        facts = recorded.get(split)
        before = (facts.get("rows"), facts.get("fingerprint")) if isinstance(facts, Mapping) else None
        if found.get(split) != before:
            problems.append(
                f"{split}: the data changed since the run: {_shown(before)} then, {_shown(found.get(split))} now; "
                "put the old rows back, or start a new run"
            )
    if problems:
        raise DataError(problems)


def _shown(facts: tuple[Any, Any] | None) -> str:
    return "no such rows" if facts is None else f"{facts[0]} rows with fingerprint {str(facts[1])[:16]}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was: one sentence per package, and per fact about Python and the machine."""
    then = {**before, **before["versions"]}
    here = {**now, **now["versions"]}
    names = [name for name in here if name != "versions"]
    return [f"{name}: {then.get(name)} then, {here[name]} now" for name in names if then.get(name) != here[name]]


def start(run_dir: Path, manifest: Mapping[str, Any], config: Any, new: Path) -> int:
    """Start the run again: as many processes, as many threads in each, the precision that was chosen then."""
    arguments = [str(run_dir / "config.yaml"), "--output_dir", str(new), "--hub.push_to_hub", "false"]
    if config.train.mixed_precision == "auto":  # follows the machine and the launcher; what they said is recorded
        arguments += ["--train.mixed_precision", str(manifest.get("mixed_precision", "auto"))]
    processes, threads = manifest["world_size"], manifest["cpu_threads"]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with patch_environment(OMP_NUM_THREADS=str(threads)):
            return launch(manifest["recipe"], arguments, num_processes=processes)
    except ConfigError as error:
        command = " ".join(["graft", manifest["recipe"], *arguments, "--num_processes", str(processes)])
        raise ConfigError(
            [*error.problems, f"the run had {processes} process(es); where they can start: {command}"]
        ) from error
    finally:
        torch.set_num_threads(before)


def compare_bytes(run_dir: Path, new: Path) -> int:
    """Print in one line whether the two runs left the same bytes, naming each file that differs."""
    names = {path.relative_to(folder).as_posix() for folder in (run_dir, new) for path in files(folder)}
    other = sorted(name for name in names if not same(run_dir / name, new / name))
    if other:
        listed = f"{', '.join(other)} ({len(other)} of {len(names)} files)"
        print(clean(f"different: {listed} of {COMPARED} of {run_dir} and {new}"))
        return DIFFERENT
    print(clean(f"identical: {COMPARED} ({len(names)} files) of {run_dir} and {new}"))
    return IDENTICAL


def files(folder: Path) -> list[Path]:
    """What is compared: every file of model/, and results.json."""
    return [folder / "results.json", *(path for path in (folder / "model").rglob("*") if path.is_file())]


def same(one: Path, other: Path) -> bool:
    """Whether both files are there with the same bytes."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)
