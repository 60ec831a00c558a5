"""A run from start to finish: lock the folder, find the start, train, save, and write down what happened."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedTokenizerBase

from pipeline.checkpoint import is_full, why
from pipeline.data_report import describe_data, lines, save_data_report
from pipeline.errors import UserError
from pipeline.failure import RunFailed, explain, saved
from pipeline.heartbeat import Heartbeat, forget
from pipeline.lock import only_writer
from pipeline.manifest import write_json
from pipeline.prepare import Prepared
from pipeline.processes import Disagreement, OtherProcessFailed
from pipeline.resume import find_start, move_aside
from pipeline.session import Session
from pipeline.stopping import Stopped, StopRequest

logger = logging.getLogger("graft")
AGREED = (UserError, Stopped, OtherProcessFailed, Disagreement)
"""Ends that all processes come to together."""


@dataclass
class Run:
    """A finished run: its folder, its model, its numbers. It stands for its folder wherever a path is expected."""

    output_dir: Path
    model: nn.Module
    """As it is saved in `output_dir / "model"`, in evaluation mode; with adapters, the PEFT model."""
    results: dict[str, Any]
    """What `results.json` holds."""
    processing: Any
    """What turns rows into inputs: the tokenizer, or the image processor."""
    pushed: str = ""
    """What came of pushing it to a hub, when that was asked for."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer. Raises UserError for a run over images, which has an image processor in `processing`."""
        if not isinstance(self.processing, PreTrainedTokenizerBase):
            raise UserError("a run over images has no tokenizer; its image processor is run.processing")
        return self.processing

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the saved model on the validation split; without one, on the test split."""
        splits = self.results["metrics"]
        return splits.get("validation") or splits.get("test") or {}

    def __fspath__(self) -> str:
        return str(self.output_dir)

    @property
    def summary(self) -> str:
        """What was trained, and how much of it."""
        results, moved = self.results, self.results["parameters"]
        how = " + ".join(results["strategies"]) or "all weights"
        amount = f"{moved['trainable']:,} of {moved['total']:,} parameters trained"
        return f"{self.output_dir.name}: {results['task']}, {how}, {results['steps']:,} steps, {amount}"

    @property
    def scores(self) -> str:
        """The metrics on one line."""
        return ", ".join(f"{key} {value:.4g}" for key, value in self.metrics.items()) or "not evaluated"

    def __repr__(self) -> str:
        return f"Run({self.summary}; {self.scores}; {self.output_dir})"

    def _repr_html_(self) -> str:
        """For a notebook: the summary, and every score with its interval."""
        results = self.results
        splits = [split for split in ("validation", "test") if results["metrics"].get(split)]
        names = list(dict.fromkeys(name for split in splits for name in results["metrics"][split]))
        heads = "".join(f"<th>{split}, {results['num_samples'][split]:,} examples</th>" for split in splits)
        rows = "".join(
            f"<tr><th>{escape(name)}</th>{''.join(f'<td>{self._shown(split, name)}</td>' for split in splits)}</tr>"
            for name in names
        )
        return (
            escape(self.summary)
            + (f"<table><tr><th></th>{heads}</tr>{rows}</table>" if splits else "<br>not evaluated<br>")
            + f"<code>{escape(str(self.output_dir))}</code>"
        )

    def _shown(self, split: str, name: str) -> str:
        """A score with the ends of its interval; the main metric in bold."""
        value, ends = self.results["metrics"][split].get(name), self.results["intervals"].get(split, {}).get(name)
        if value is None:
            return ""
        text = f"{value:.4g}" + (f" ({ends[0]:.4g} to {ends[1]:.4g})" if ends else "")
        return f"<b>{text}</b>" if name == self.results["main_metric"] else text


def strict(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Metrics as JSON allows them: what is not finite (a perplexity can overflow) is null."""
    return {
        split: {key: value if math.isfinite(value) else None for key, value in found.items()}
        for split, found in metrics.items()
    }


def train(prepared: Prepared, stop: StopRequest | None = None) -> Run:
    """Train, evaluate and save. Raises Stopped after saving when asked to stop, RunFailed when a process is lost."""
    stop = stop or StopRequest()
    folder, processes = Path(prepared.config.output_dir), prepared.processes
    with ExitStack() as held:
        processes.on_main(lambda: held.enter_context(only_writer(folder)))
        start = _find_start(folder, prepared)
        heartbeat = Heartbeat(folder, processes.rank, processes.count)
        held.callback(heartbeat.close)
        try:
            run = _train(prepared, folder, stop, heartbeat, start)
            processes.on_main(lambda: forget(folder))
        except AGREED:
            raise
        except Exception as error:
            if isinstance(error, (OSError, SafetensorError)) and is_full(error):
                heartbeat.fail(error)
                raise RunFailed(f"{folder}: {why(error)}\n{saved(folder)}") from error
            if processes.count == 1:
                error.add_note(saved(folder))
                raise
            raise explain(error, heartbeat, folder) from error
    return run


def _find_start(folder: Path, prepared: Prepared) -> Path | None:
    """The checkpoint to go on from, the same on all processes; None after an earlier run was moved aside."""

    def find() -> str:
        forget(folder)
        start = find_start(folder, prepared.config)
        elsewhere = start is None or start.resolve().parent != (folder / "checkpoints").resolve()
        if elsewhere and (aside := move_aside(folder)):
            logger.warning("%s held an earlier run; it is now in %s", folder, aside)
        return "" if start is None else str(start)

    name = prepared.processes.from_main(find)
    return Path(name) if name else None


def _train(prepared: Prepared, folder: Path, stop: StopRequest, heartbeat: Heartbeat, start: Path | None) -> Run:
    session = Session(prepared, folder, stop, heartbeat)

    def report_data() -> None:
        report = describe_data(prepared.data)
        save_data_report(report, folder)
        for line in lines(report):
            session.log.say(line)

    try:
        prepared.processes.on_main(report_data)
        results = session.do(start)
    except Stopped as stopped:
        stopped.saved_step = session.keeper.saved_step  # by whoever: stopped evaluations save nothing themselves
        session.write_manifest("stopped")
        raise
    finally:
        session.close()
    model = session.export()
    if prepared.processes.is_main:
        write_json(folder / "results.json", {**results, "metrics": strict(results["metrics"])})
    session.write_manifest("finished")
    return Run(folder, model, results, prepared.task.row_processing)
