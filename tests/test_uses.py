"""What is never used: whatever runs code from data, in any of the ways to write it."""

from __future__ import annotations

import ast

import pytest

from tests.test_layers import BANNED_MODULES, CODE, MODULES, import_problems, none

BANNED_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.spawnl", "os.execv"),
    *("subprocess.getoutput", "subprocess.getstatusoutput", "torch.load", "torch.save", "torch.hub.load"),
    *("torch.jit.load", "torch.distributed.checkpoint.load", "accelerate.utils.save", "accelerate.utils.load"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all"),
}
BANNED_METHODS = {
    # these pickle: to other processes, or to files
    *("all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list", "send_object_list"),
    *("recv_object_list", "save_state", "load_state", "register_for_checkpointing", "read_pickle", "to_pickle"),
}
BANNED_OPTIONS = {"shell", "allow_pickle", "trust_remote_code", "use_gather_object"}
ANOTHER_SHELL = "pipeline/completion.py"
"""The file in which `shell=` is cyclopts' word for bash or zsh: the one that is completed in, and starts nothing."""


def full_names(tree: ast.AST) -> dict[str, str]:
    """What the names that a file imports stand for: `load` -> `torch.load` after `from torch import load`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.asname: name.name for name in node.names if name.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {name.asname or name.name: f"{node.module}.{name.name}" for name in node.names}
    return found


def use_problems(path: str, source: str) -> list[str]:
    """Uses of what runs code from data: calls, names handed on uncalled, options, and options in a mapping."""
    tree, found = ast.parse(source), []
    names = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found += [
                f"{path}:{node.lineno}: {node.module}.{name.name}"
                for name in node.names
                if f"{node.module}.{name.name}" in BANNED_CALLS or name.name in BANNED_METHODS
            ]
        elif isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            name = f"{names.get(first, first)}.{rest}"
            if name in BANNED_CALLS or node.attr in BANNED_METHODS:
                found.append(f"{path}:{node.lineno}: {name}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in BANNED_CALLS:
            found.append(f"{path}:{node.lineno}: {node.id}")
        options = [(keyword.arg, keyword.value) for keyword in node.keywords] if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            options = [(ast.literal_eval(key), value) for key, value in pairs if isinstance(key, ast.Constant)]
            options = [(key, value) for key, value in options if not is_text(value)]
        for option, value in options:
            if option == "shell" and path == ANOTHER_SHELL:
                continue
            if option in BANNED_OPTIONS and not (isinstance(value, ast.Constant) and value.value in (False, None)):
                found.append(f"{path}:{value.lineno}: {option}={ast.unparse(value)}")
    return found


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_nothing_runs_code_from_data() -> None:
    none([problem for path, source in CODE.items() for problem in use_problems(path, source)])


@pytest.mark.parametrize("module", sorted(BANNED_MODULES))
def test_modules_that_pickle_are_seen(module: str) -> None:
    for source in (f"import {module}", f"from {module} import loads", f"def f():\n    import {module} as safe"):
        assert len(import_problems("pipeline/run.py", source, MODULES)) == 1


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("torch.load(path)", "torch.load"),
        ("from torch import save", "torch.save"),
        ("eval('1')", "eval"),
        ("exec(code)", "exec"),
        ("subprocess.run(command, shell=True)", "shell=True"),
        ("np.load(path, allow_pickle=flag)", "allow_pickle=flag"),
        ("f(trust_remote_code=True)", "trust_remote_code=True"),
        ("f(**{'trust_remote_code': True})", "trust_remote_code=True"),
        ("import torch as t\nt.load(path)", "torch.load"),
        ("from yaml import load as read", "yaml.load"),
        ("yaml.load(text, Loader=yaml.Loader)", "yaml.load"),
        ("yaml.full_load(text)", "yaml.full_load"),
        ("map(eval, texts)", "eval"),
        ("from os import system", "os.system"),
        ("dist.all_gather_object(found, mine)", "all_gather_object"),
        ("from accelerate.utils import broadcast_object_list", "broadcast_object_list"),
        ("accelerator.save_state(folder)", "save_state"),
        ("frame = pd.read_pickle(path)", "read_pickle"),
    ],
)
def test_bad_uses_are_seen(source: str, problem: str) -> None:
    found = use_problems("pipeline/run.py", source)
    assert len(found) == 1 and problem in found[0]


def test_good_uses_pass() -> None:
    source = (
        "eval: int = 1\nhelp = {'trust_remote_code': 'never'}\nre.compile('a')\nmodel.eval()\n"
        "f(trust_remote_code=False)\ngetattr(model, name)\nfrom pipeline.errors import ConfigError\n"
    )
    assert not use_problems("pipeline/run.py", source) + import_problems("pipeline/run.py", source, MODULES)
