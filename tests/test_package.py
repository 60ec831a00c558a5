"""What a user installs: everything that runs, nothing else, from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#")

MADE = {Path("docs/settings.md")}
"""Written by the documentation's build."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def built(target: str, source: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("pipeline/**/*") if path.suffix in (".py", ".jinja")
    }
    code |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/**/*") if path.suffix in (".py", ".yaml")}
    code |= {f"pipeline/accelerate_configs/{path.name}" for path in ROOT.glob("accelerate_configs/*.yaml")}
    assert len(code) > 40 and code <= names
    others = {name for name in names - code if ".dist-info/" not in name}
    assert others == {"pipeline/py.typed"}
    assert any(name.endswith("LICENSE") for name in names)


def test_the_source_archive_makes_the_same_wheel_and_holds_what_the_tests_read(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("graft_pipeline-*")
    patterns = ["tests/**/*.*", "docs/*.md", "benchmarks/reliability/*.py", "accelerate_configs/*", "*.*", "Makefile"]
    ours = {path.relative_to(ROOT) for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    ours = {path for path in ours if path.suffix != ".pyc" and not path.name.startswith(".")} - MADE
    assert len(ours) > 150 and not [path for path in ours if not (source / path).is_file()]
    again = built("wheel", source, tmp_path / "again")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_an_installed_wheel_finds_its_files_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    program = "from pipeline.launch import config_path, recipe_path; print(config_path('cpu'), recipe_path('lora'))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "elsewhere",
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    config, recipe = map(Path, done.stdout.split())
    assert config == tmp_path / "site" / "pipeline" / "accelerate_configs" / "cpu.yaml" and config.is_file()
    assert recipe == tmp_path / "site" / "recipes" / "lora.py" and recipe.is_file()


def test_every_dependency_is_pinned() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["dev"], *extras["tensorboard"]]
    names = {plain(re.split(r"[\[<>=~! ]", line)[0]) for line in wanted} - {"graft-pipeline"}
    pins = {plain(name) for name in PINS}
    assert len(names) > 20 and names <= pins


def test_pins_hold_the_lower_bounds() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.partition("+")[0])]

    pins = {plain(name): pin for name, pin in PINS.items()}
    bounds = [line.split(">=") for line in PROJECT["dependencies"] if ">=" in line]
    assert len(bounds) > 15
    for name, least in bounds:
        assert numbers(pins[plain(name)]) >= numbers(least), name


def test_pins_carry_no_build_of_one_machine() -> None:
    assert not [pin for pin in PINS.values() if "+" in pin or "@" in pin]


def test_this_environment_is_the_pinned_one() -> None:
    differ = {name: (version(name), pin) for name, pin in PINS.items() if version(name).partition("+")[0] != pin}
    if differ and "CI" not in os.environ:
        pytest.skip(f"not installed with constraints.txt: {', '.join(sorted(differ)[:5])}")
    assert not differ


def test_the_wheel_has_the_version_of_the_package(wheel: Path) -> None:
    import pipeline

    assert wheel.name.split("-")[:2] == ["graft_pipeline", pipeline.__version__]
