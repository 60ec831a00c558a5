"""What users import: the names, their types, and that importing costs nothing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type

import pytest
from torch import nn
from transformers import PreTrainedTokenizerBase

import pipeline

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_is_there_and_documented() -> None:
    for name in pipeline.__all__:
        found = getattr(pipeline, name)
        assert found.__name__ == name and found.__doc__, name
        assert found.__module__ == pipeline.PUBLIC[name]
    assert set(pipeline.PUBLIC) <= set(dir(pipeline))


def test_the_page_names_them_all() -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    assert not [name for name in pipeline.PUBLIC if not re.search(rf"`{name}`|import [^\n]*\b{name}\b", page)]


def test_type_checkers_read_the_same_table() -> None:
    tree = ast.parse((ROOT / "pipeline" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {name.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert seen == pipeline.PUBLIC


def test_no_public_name_is_a_module() -> None:
    """The module would take the name's place as soon as it was imported."""
    assert not [name for name in pipeline.PUBLIC if (ROOT / "pipeline" / f"{name}.py").exists()]
    assert not [name for name in pipeline.PUBLIC if (ROOT / "pipeline" / name).exists()]


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'lorra'"):
        exec("from pipeline import lorra")


def test_importing_loads_nothing_large() -> None:
    program = "import sys, pipeline; print(sorted({'torch', 'transformers', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_starts_without_what_only_rows_and_scores_need() -> None:
    program = (
        "import sys, pipeline.api; print(sorted({'datasets', 'evaluate', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def types_of_a_users_program() -> None:
    """Never run: mypy --strict reads it in `make check`. assert_type does not take Any for a type."""
    from pipeline import (
        Evaluation,
        Run,
        Sweep,
        compare,
        evaluate,
        finetune,
        freeze,
        lora,
        merge,
        predict,
        pretrain,
        sweep,
        train,
    )

    for recipe in (pretrain, finetune, freeze, lora, train):
        assert_type(recipe("my.yaml", learning_rate=3e-4, lora={"r": 8}), Run)
    run = pretrain({"task": "causal_lm"})
    assert_type(run.metrics, dict[str, float])
    assert_type(run.model, nn.Module)
    assert_type(run.tokenizer, PreTrainedTokenizerBase)
    assert_type(run.output_dir, Path)
    assert_type(compare([run, "runs/x"]).best(), list[str])
    assert_type(predict(run, "test.csv"), list[dict[str, Any]])
    assert_type(predict(run, "test.csv", "out.jsonl"), Path)
    assert_type(evaluate(run), Evaluation)
    assert_type(merge(run, "merged"), Path)
    assert_type(sweep("my.yaml", {"seed": [0, 1]}), Sweep)
    pretrain(3)  # type: ignore[arg-type]
