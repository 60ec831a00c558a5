"""Tokenize a corpus once, in parallel processes; what was done before a stop is not done again.

Worker `w` of `W` reads all rows and tokenizes every batch whose number is `w` modulo `W`; the batches are then put
together in order, so that the corpus does not depend on how many workers there were.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from pipeline import models
from pipeline.accelerator import PACKAGE
from pipeline.data import Corpus, DataConfig, digests_of, find_rows, join, locked, token_type
from pipeline.data.corpus import INDEX, Part
from pipeline.encoding import ENCODING_VERSION, cache_folder, code_of
from pipeline.errors import DataError
from pipeline.files import write_text
from pipeline.progress import kind_of
from pipeline.settings import RunConfig, make_task
from pipeline.tasks import Task

BATCH = 1000
"""Documents that are tokenized together."""
COMMIT = 8
"""Batches between two points from which a stopped worker goes on."""
POLL_SECONDS = 0.2
READING = {"text_column", "column_names", "encoding", "delimiter", "sample_by"}
"""Settings that decide what is read from a file."""
JOB, PROBLEMS = "job.json", "problems.json"


def tokenize(config: Any, task: Task, files: Sequence[str], name: str, poll: Callable[[], None]) -> Corpus:
    """The corpus of some files, from the cache when the same files were tokenized the same way before.

    `poll` is called meanwhile; what it raises ends the work, and the next call goes on with it. Processes that ask at
    once wait for the one that works. Raises DataError with all problems of the rows.
    """
    folder = cache_folder(config.data) / f"{_key(config, task, files)}.corpus"
    with locked(folder, poll):
        if not (folder / INDEX).is_file() and not (folder / PROBLEMS).is_file():
            _make(config, task, files, name, folder, poll)
        for leftover in folder.glob("part-*"):  # of a process killed in its last moments, or of another number of them
            shutil.rmtree(leftover)
    if (folder / PROBLEMS).is_file():  # kept: the same files have the same problems for whoever asks next
        raise DataError(json.loads((folder / PROBLEMS).read_text()))
    return Corpus(folder)


def _key(config: Any, task: Task, files: Sequence[str]) -> str:
    """All that the tokens depend on. Files go by name, size and time of change: reading them is what is to be saved."""
    found = [(str(Path(file).resolve()), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    data = config.data.model_dump(mode="json", include=READING)
    free = {*task.settings_of_scores, *task.settings_of_outputs}
    own = config.task.model_dump(mode="json", exclude=free)
    described = [ENCODING_VERSION, found, data, task.processing(), task.columns(), own]
    described.append(code_of(task))
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:32]


def _make(config: Any, task: Task, files: Sequence[str], name: str, folder: Path, poll: Callable[[], None]) -> None:
    workers, dtype = config.data.preprocessing_num_workers, token_type(models.token_rows(task.tokenizer) - 1)
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "config": config.model_dump(mode="json"),
        "files": list(files),
        "workers": workers,
        "dtype": dtype.str,
        "max_length": task.max_length,
    }
    (folder / JOB).write_text(json.dumps(job))
    parts = [_part(folder, worker, workers) for worker in range(workers)]
    began = time.monotonic()
    with _progress(name, parts) as show:

        def meanwhile() -> None:
            poll()
            show()

        if workers == 1:
            _work(folder, 0, task, meanwhile)
        else:
            _start(folder, workers, meanwhile)
    (folder / JOB).unlink()
    if (folder / PROBLEMS).is_file():
        return
    join(parts, folder, dtype)
    corpus = Corpus(folder)
    size = len(corpus.tokens) * dtype.itemsize / 1e6
    Console(stderr=True).print(
        f"tokenize {name}: {len(corpus.ends):,} documents, {len(corpus.tokens):,} tokens, {size:,.1f} MB "
        f"({8 * dtype.itemsize} bits each) in {time.monotonic() - began:.1f} s on {workers} process(es)",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


def _part(folder: Path, worker: int, workers: int) -> Path:
    return folder / f"part-{worker}-of-{workers}"


@contextmanager
def _progress(name: str, parts: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """A count of documents and tokens on a terminal; how many there will be is not known before they were read."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=kind_of(console) != "terminal") as progress:
        bar = progress.add_task(f"tokenize {name}", total=None)

        def show() -> None:
            found = [path / "progress.json" for path in parts]
            batches = [batch for path in found if path.is_file() for batch in json.loads(path.read_text())["batches"]]
            done = f"{sum(count for _, count in batches):,} documents, {sum(length for length, _ in batches):,} tokens"
            progress.update(bar, description=f"tokenize {name}: {done}")

        yield show


def _start(folder: Path, workers: int, poll: Callable[[], None]) -> None:
    """Run the workers and wait for them. All end when one fails, or when `poll` raises."""
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    paths = filter(None, (str(PACKAGE.parent), environment.get("PYTHONPATH")))
    environment |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    environment["PYTHONSAFEPATH"] = "1"  # else a folder `pipeline` in the current one would be imported for ours
    command = [sys.executable, "-m", "pipeline.tokenizing", str(folder)]
    # a session of their own: a signal to our group is ours to answer, and they see for themselves that we are gone
    running = [
        subprocess.Popen([*command, str(worker)], env=environment, start_new_session=True) for worker in range(workers)
    ]
    try:
        while any(process.poll() is None for process in running):
            poll()
            if any(process.poll() for process in running):
                break
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait() for process in running]
    if any(codes) and not (folder / PROBLEMS).is_file():
        raise RuntimeError(f"a process that tokenizes ended with code {next(code for code in codes if code)}")


def _work(folder: Path, worker: int, task: Task, poll: Callable[[], None]) -> None:
    """Tokenize one worker's batches, from where it was stopped."""
    job = json.loads((folder / JOB).read_text())
    workers, data = job["workers"], DataConfig.model_validate(job["config"]["data"])
    part = Part(_part(folder, worker, workers), np.dtype(job["dtype"]))
    (column,) = task.columns()
    try:
        rows, problems = find_rows(job["files"], task.columns(), data)
        mine = islice(_batches(rows), worker, None, workers)
        for number, batch in enumerate(mine):
            poll()
            if number < len(part.progress["batches"]):
                continue
            texts = [text for (text,) in batch]
            features = task.encode({column: texts})
            part.add(features["input_ids"], features["num_bytes"], [digests_of([text]) for text in texts])
            if number % COMMIT == COMMIT - 1:
                part.commit()
        if problems.count:
            write_text(folder / PROBLEMS, json.dumps(problems.sentences()))
            return
        part.commit(done=True)
    finally:
        part.close()


def _batches(rows: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


def main() -> None:
    """A worker: `python -m pipeline.tokenizing FOLDER NUMBER`. Ends when whoever started it is gone."""
    folder, worker = Path(sys.argv[1]), int(sys.argv[2])
    parent = os.getppid()

    def poll() -> None:
        if os.getppid() != parent:
            sys.exit(1)

    job = json.loads((folder / JOB).read_text())
    config: Any = RunConfig.model_validate(job["config"])
    task = make_task(config)
    task.use_tokenizer(models.load_tokenizer(config.model), job["max_length"])
    _work(folder, worker, task, poll)


if __name__ == "__main__":
    main()
