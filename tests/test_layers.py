"""The shape of the code: who may import whom, how long things may be, and what is never used."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = [
    "__main__",
    "using completion environment",
    "pipeline",
    "quickstart rerun sweeping",
    "functions commands grid",
    "api",
    "publishing",
    "reports",
    "predicting scoring merging",
    "saved",
    "adapters",
    "last_words",
    "run",
    "session",
    "results prediction_file",
    "dry_run keeper failure",
    "data_report",
    "prepare resume",
    "given",
    "reading",
    "corpora pinning",
    "tokenizing",
    "encoding",
    "settings",
    "loop",
    "step",
    "across_rows",
    "training reference",
    "export sharding feed samples",
    "evaluation",
    "bootstrap checkpoint",
    "tracking",
    "manifest shards output hub",
    "tasks strategies",
    "data models optim metrics",
    "callbacks",
    "processes",
    "launch",
    "accelerator",
    "untouched guard lock stopping progress journal heartbeat out_of_memory",
    "reach",
    "hub_names",
    "parent",
    "config",
    "checking",
    "placing",
    "wording yaml_file aliases",
    "command_line",
    "files",
    "errors",
    "safe_text",
]
"""Imports go down only; what stands on one line does not import each other. `pipeline` is the package's __init__."""
RANK = {part: rank for rank, line in enumerate(LAYERS) for part in line.split()}
FILE_LINES, FUNCTION_LINES, LOOP_FUNCTION_LINES = 300, 60, 100
BANNED_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "multiprocess"}
"""What else is never used: tests/test_uses.py."""
GUESSES = {
    # getattr with a default and hasattr hide what a thing is; here it truly may be either.
    "pipeline/wording.py": (1, "annotations are classes or typing's objects; only classes have a name"),
    "pipeline/yaml_file.py": (1, "an OSError has strerror, a decoding error has not"),
}
"""File -> (how many guesses it may hold, why)."""


def part_of(module: str) -> str:
    """`pipeline.data.cache` -> `data`; the package's own __init__ -> `pipeline`."""
    return module.split(".")[1] if "." in module else module


def imported(tree: ast.AST, module: str, modules: set[str]) -> list[tuple[int, str]]:
    """(line, module) of every import in a file, inside functions too."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, name.name) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            base = node.module or ""
            found += [
                (node.lineno, f"{base}.{name.name}" if f"{base}.{name.name}" in modules else base)
                for name in node.names
            ]
    return found


def import_problems(path: str, source: str, modules: set[str]) -> list[str]:
    """What is wrong with the imports of one file, such as `pipeline/data/cache.py`."""
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    part = part_of(module)
    found = []
    if path.startswith("pipeline/") and part not in RANK:
        return [f"{path}: {part} has no layer; give it one in LAYERS"]
    for line, target in imported(ast.parse(source), module, modules):
        top, other = target.partition(".")[0], part_of(target)
        if top == "recipes" or top == "tests":
            found.append(f"{path}:{line}: nothing imports {top}")
        elif top in BANNED_MODULES:
            found.append(f"{path}:{line}: {top} runs code from data")
        elif top == "pipeline" and path.startswith("pipeline/") and other != part:
            if other not in RANK:
                found.append(f"{path}:{line}: {other} has no layer")
            elif RANK[other] <= RANK[part]:
                found.append(f"{path}:{line}: {part} may not import {other}, which is not below it")
    return found


def size_problems(path: str, source: str) -> list[str]:
    found = []
    lines = source.count("\n")
    if lines > FILE_LINES:
        found.append(f"{path}: {lines} lines, at most {FILE_LINES}")
    if path.startswith("tests/"):
        return found
    limit = LOOP_FUNCTION_LINES if path == "pipeline/loop.py" else FUNCTION_LINES
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            if length > limit:
                found.append(f"{path}:{node.lineno}: {node.name} has {length} lines, at most {limit}")
    return found


def style_problems(path: str, source: str) -> list[str]:
    """A docstring on top that begins with one full line, and annotations from the future."""
    tree = ast.parse(source)
    docstring = ast.get_docstring(tree)
    found = [] if docstring and docstring.splitlines()[0].endswith(".") else [f"{path}: no one-line docstring on top"]
    if len(tree.body) > 1 and path.startswith("pipeline/") and not path.endswith("/__init__.py"):
        second = tree.body[1]
        if not (isinstance(second, ast.ImportFrom) and second.module == "__future__"):
            found.append(f"{path}: `from __future__ import annotations` is not first")
    return found


def guess_problems(path: str, source: str) -> list[str]:
    """Questions to an object about what it has; a file of GUESSES must hold exactly as many as it says there."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(node, ast.unparse(node.func)) for node in calls]
    guesses = [(n, name) for n, name in names if name == "hasattr" or (name == "getattr" and len(n.args) == 3)]
    found = [f"{path}:{node.lineno}: {name} guesses" for node, name in guesses]
    expected = GUESSES.get(path, (0, ""))[0]
    return [] if len(found) == expected else found or [f"{path}: holds no guess any more; take it out of GUESSES"]


def sources(*folders: str) -> dict[str, str]:
    return {
        file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8")
        for folder in folders
        for file in sorted((ROOT / folder).rglob("*.py"))
    }


CODE = sources("pipeline", "recipes", "benchmarks")
TESTS = sources("tests")
MODULES = {path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in CODE}


def none(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_imports_go_down() -> None:
    assert len(CODE) > 30
    none([problem for path, source in CODE.items() for problem in import_problems(path, source, MODULES)])


def test_every_layer_is_there() -> None:
    parts = {part_of(module) for module in MODULES if module.startswith("pipeline")}
    later = {"hub"}
    assert set(RANK) - parts <= later


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {}
    for path, source in CODE.items():
        module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        top_level = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        targets = {target for _, target in imported(ast.Module(body=[*top_level], type_ignores=[]), module, MODULES)}
        # Whoever imports a module of its own package finds the package half made, which is fine.
        graph[module] = (targets & MODULES) - {module.rpartition(".")[0]}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_sizes() -> None:
    none([problem for path, source in {**CODE, **TESTS}.items() for problem in size_problems(path, source)])


def test_folders_are_flat() -> None:
    assert not [path for path in CODE if path.startswith("pipeline/") and path.count("/") > 2]
    assert not [
        path for path in {**CODE, **TESTS} if not path.startswith(("pipeline/", "benchmarks/")) and path.count("/") > 1
    ]


def test_style() -> None:
    none([problem for path, source in {**CODE, **TESTS}.items() for problem in style_problems(path, source)])


def test_nothing_guesses() -> None:
    none([problem for path, source in CODE.items() for problem in guess_problems(path, source)])
    assert set(GUESSES) <= set(CODE)


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        ("pipeline/loop.py", "from pipeline.run import train", "loop may not import run"),
        ("pipeline/tasks/new.py", "import pipeline.strategies.lora", "tasks may not import strategies"),
        ("pipeline/data/new.py", "def f():\n    from pipeline.models import INITS", "data may not import models"),
        ("pipeline/errors.py", "from pipeline import config", "errors may not import config"),
        ("pipeline/loop.py", "from pipeline import train", "loop may not import pipeline"),
        ("pipeline/newer.py", "import os", "newer has no layer"),
        ("pipeline/loop.py", "from pipeline.newer import x", "newer has no layer"),
        ("pipeline/api.py", "import recipes.lora", "nothing imports recipes"),
        ("recipes/lora.py", "from recipes.freeze import build_model", "nothing imports recipes"),
        ("pipeline/run.py", "import pickle", "pickle runs code from data"),
    ],
)
def test_bad_imports_are_seen(path: str, source: str, problem: str) -> None:
    found = import_problems(path, source, MODULES)
    assert len(found) == 1 and problem in found[0]


@pytest.mark.parametrize("source", ["hasattr(model, 'x')", "getattr(model, 'x', None)"])
def test_guesses_are_seen(source: str) -> None:
    assert "guesses" in guess_problems("pipeline/run.py", source)[0]
    for path, (count, _) in GUESSES.items():
        assert not guess_problems(path, f"{source}\n" * count)
        assert len(guess_problems(path, f"{source}\n" * (count + 1))) == count + 1
        assert "no guess any more" in guess_problems(path, "getattr(model, name)")[0]


def test_long_and_shapeless_code_is_seen() -> None:
    body = "    pass\n" * FUNCTION_LINES
    assert len(size_problems("pipeline/run.py", f"def f():\n{body}")) == 1
    assert not size_problems("pipeline/loop.py", f"def f():\n{body}")
    assert len(size_problems("pipeline/run.py", "x = 1\n" * (FILE_LINES + 1))) == 1
    assert len(style_problems("pipeline/run.py", "import os\nimport sys\n")) == 2
    assert not style_problems("pipeline/run.py", '"""One."""\nfrom __future__ import annotations\n')
