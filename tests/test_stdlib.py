"""The quick start's corpus: large enough, without leaks, the same every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data import DataConfig, load_splits
from pipeline.data.stdlib import StdlibCorpus, collect, train_tokenizer

USES = ("pretrain_train", "pretrain_validation", "docstrings_train", "docstrings_validation")


@pytest.fixture(scope="module")
def corpus() -> StdlibCorpus:
    return collect()


def test_it_is_large_enough(corpus: StdlibCorpus) -> None:
    assert sum(map(len, corpus.pretrain_train)) > 2_000_000
    assert sum(map(len, corpus.pretrain_validation)) > 100_000
    assert len(corpus.docstrings_train) >= 1500 and len(corpus.docstrings_validation) >= 300


def test_nothing_leaks_and_pairs_are_clean(corpus: StdlibCorpus) -> None:
    documents = corpus.pretrain_train + corpus.pretrain_validation
    pairs = corpus.docstrings_train + corpus.docstrings_validation
    assert len(set(documents)) == len(documents)
    assert len({signature for signature, _ in pairs}) == len({docstring for _, docstring in pairs}) == len(pairs)
    text = "\n".join(corpus.pretrain_train)
    for signature, docstring in pairs:
        assert signature.startswith(("def ", "async def ", "class ")) and signature.endswith(":\n")
        assert 20 <= len(docstring) <= 200 and docstring.isascii() and docstring.isprintable()
    leaked = sum(f'"""{docstring}"""' in text for _, docstring in corpus.docstrings_validation)
    assert leaked == 0


def tree(root: Path, count: int = 60) -> Path:
    for n in range(count):
        path = root / f"package{n % 3}" / f"module{n}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'class Thing{n}(object):\n    """What number {n} is good for.\n\n    More."""\n')
    return root


def test_small_tree(tmp_path: Path) -> None:
    root = tree(tmp_path / "lib")
    before = collect(root)
    (root / "test").mkdir()
    for name, content in {
        "test/test_it.py": b'def f():\n    """Tests are left out, all of them."""\n',
        "site-packages/other.py": b'def g():\n    """Third-party code is left out."""\n',
        "_sysconfigdata_x.py": b"build_time_vars = {'prefix': '/secret'}\n",
        "latin.py": b'# -*- coding: latin-1 -*-\nname = "\xe9"\n',
        "python2.py": b"print 'hello'\n",
        "nul.py": b"x = '\0'\n",
        **{f"zz/copy{n}.py": (root / "package0" / "module0.py").read_bytes() for n in range(20)},
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    assert collect(root) == before, "files that are left out, or copies, must not move the result"
    pairs = before.docstrings_train + before.docstrings_validation
    assert ("class Thing%d(object):\n", "What number %d is good for.") in [
        (s.replace(n, "%d"), d.replace(n, "%d"))
        for s, d in pairs
        for n in [s.split("(")[0].removeprefix("class Thing")]
    ]
    assert len(before.pretrain_train) + len(before.pretrain_validation) + len(pairs) == 60


def test_a_repeated_docstring_is_in_one_list_only(tmp_path: Path) -> None:
    root = tree(tmp_path / "lib")
    for path in root.rglob("*.py"):
        same = f"\n\ndef close_{path.stem}(self):\n    'Close it and forget about it.'\n"
        other = f"\n\ndef open(self):\n    'How to open {path.stem} again.'\n"
        path.write_text(path.read_text() + same + other)
    corpus = collect(root)
    pairs = corpus.docstrings_train + corpus.docstrings_validation
    assert "Close it and forget about it." not in {docstring for _, docstring in pairs}, "pretraining files have it"
    assert sum(signature == "def open(self):\n" for signature, _ in pairs) == 1
    assert sum(signature == "def open(self):\n" for signature, _ in corpus.docstrings_validation) == 1


def test_written_files_are_read_back(tmp_path: Path) -> None:
    corpus = collect(tree(tmp_path / "lib"))
    paths = corpus.write(tmp_path / "out" / "corpus")
    assert tuple(paths) == USES
    config = DataConfig(train_file=str(paths["pretrain_train"]), validation_file=str(paths["pretrain_validation"]))
    splits = load_splits(config, {"text": "text"})
    assert splits["train"]["text"][:] == corpus.pretrain_train
    first = json.loads(paths["docstrings_train"].read_text().splitlines()[0])
    assert tuple(first.values()) == corpus.docstrings_train[0] and list(first) == ["signature", "docstring"]


def test_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    texts = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    train_tokenizer(texts, 400, tmp_path / "a")
    train_tokenizer(iter(texts), 400, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "a"))
    assert len(tokenizer) == 400
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    strange = "def f(x):\n    return 'é\t 日本 , \0'  .\n"
    ids = tokenizer(strange)["input_ids"]
    assert tokenizer.decode(ids) == strange and not {0, 1, 2} & set(ids)
