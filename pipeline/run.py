"""A run from start to finish: lock the folder, find the start, train, save, and write down what happened."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.lock import StopRequest, only_writer
from pipeline.loop import Stopped
from pipeline.manifest import write_json
from pipeline.prepare import Prepared
from pipeline.resume import find_start, move_aside
from pipeline.session import Session

logger = logging.getLogger("graft")


@dataclass
class Run:
    """A finished run: its folder, its model, its numbers."""

    output_dir: Path
    model: nn.Module
    tokenizer: Any
    results: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the saved model on the validation split; without one, on the test split."""
        splits = self.results["metrics"]
        return splits.get("validation") or splits.get("test") or {}

    def __repr__(self) -> str:
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in self.metrics.items())
        moved = self.results["parameters"]
        return (
            f"Run({self.output_dir.name}: {self.results['task']}, {self.results['steps']} steps, "
            f"{moved['trainable']:,} of {moved['total']:,} parameters trained; {numbers or 'no evaluation'}; "
            f"{self.output_dir})"
        )

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><td>{escape(key)}</td><td>{value:.4g}</td></tr>" for key, value in self.metrics.items())
        return f"<b>{escape(self.output_dir.name)}</b><table>{cells}</table><code>{escape(str(self.output_dir))}</code>"


def strict(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Metrics as JSON allows them: what is not finite (a perplexity can overflow) is null."""
    return {
        split: {key: value if math.isfinite(value) else None for key, value in found.items()}
        for split, found in metrics.items()
    }


def train(prepared: Prepared) -> Run:
    """Train, evaluate and save. Raises loop.Stopped after saving when asked to stop."""
    config, accelerator = prepared.config, prepared.accelerator
    folder = Path(config.output_dir)
    with StopRequest() as stop, only_writer(folder, enabled=accelerator.is_main_process):
        accelerator.wait_for_everyone()
        start = find_start(folder, config)
        if start is None and accelerator.is_main_process and (aside := move_aside(folder)):
            logger.warning("%s held an earlier run; it is now in %s", folder, aside)
        accelerator.wait_for_everyone()
        session = Session(prepared, folder, stop)
        try:
            results = session.do(start)
        except Stopped as stopped:
            stopped.exit_code = stop.exit_code
            session.write_manifest("stopped")
            raise
        finally:
            session.log.close()
        model = session.export()
        if accelerator.is_main_process:
            write_json(folder / "results.json", {**results, "metrics": strict(results["metrics"])})
        session.write_manifest("finished")
        accelerator.wait_for_everyone()
    return Run(folder, model, prepared.task.tokenizer, results)
