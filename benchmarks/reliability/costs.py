"""What the safety of a run costs: checkpoints against the plain way, saving within a run, and the guards of a step.

    graft quickstart && OMP_NUM_THREADS=2 python -m benchmarks.reliability.costs --quickstart runs/quickstart

Writes costs.json beside this file. Both ways of saving alternate, so that a noisy machine harms both alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn, serialization
from transformers import AutoConfig, AutoModelForCausalLM

from pipeline import checkpoint
from pipeline.accelerator import make_accelerator
from pipeline.guard import GuardConfig, is_finite, is_spike
from pipeline.manifest import describe_machine, folder_size
from pipeline.processes import Processes
from pipeline.shards import model_tensors, optimizer_tensors
from pipeline.stopping import StopRequest

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- costs: written by python -m benchmarks.reliability.costs -->\n", "<!-- end of costs -->\n"
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quickstart", type=Path, required=True, help="folder of a finished quick start")
    options = parser.parse_args()
    processes = Processes(make_accelerator())
    manifest = json.loads((options.quickstart / "pretrain" / "manifest.json").read_text())
    results = json.loads((options.quickstart / "pretrain" / "results.json").read_text())
    step_seconds = manifest["cost"]["train_seconds"] / results["steps"]
    found = {
        "command": "python -m benchmarks.reliability.costs --quickstart runs/quickstart",
        "machine": describe_machine(torch.device("cpu")),
        "checkpoint": [checkpoint_cost(processes, hidden) for hidden in (128, 512)],
        "quickstart": {
            "steps": results["steps"],
            "train_seconds": manifest["cost"]["train_seconds"],
            "saving_seconds": manifest["cost"]["saving_seconds"],
            "saving_percent": round(100 * manifest["cost"]["saving_seconds"] / manifest["cost"]["train_seconds"], 3),
            "step_milliseconds": round(1e3 * step_seconds, 3),
        },
        "guards": guard_cost(processes, step_seconds),
    }
    (HERE / "costs.json").write_text(json.dumps(found, indent=1) + "\n")
    text = DOCUMENT.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    DOCUMENT.write_text(before + BEGIN + table(found) + END + after)
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """The costs as docs/reliability.md shows them."""
    rows = ["| what | measured |", "| --- | --- |"]
    for cost in found["checkpoint"]:
        graft, plain = cost["graft_milliseconds"], cost["save_pretrained_and_torch_save_milliseconds"]
        sizes = cost["graft_bytes"], cost["save_pretrained_and_torch_save_bytes"]
        rows.append(
            f"| one checkpoint of {cost['parameters']:,} parameters with AdamW, against `save_pretrained` and "
            f"`torch.save` in place, unflushed | {graft} ms against {plain} ms; "
            f"{sizes[0]:,} bytes against {sizes[1]:,} |"
        )
    run, guards = found["quickstart"], found["guards"]
    rows += [
        f"| saving within the quick start's pretraining, {run['steps']} steps at the default `save_steps` | "
        f"{run['saving_percent']} % of training time ({run['saving_seconds']} of {run['train_seconds']} s) |",
        f"| guards of one step, in the quick start's {run['step_milliseconds']} ms | "
        f"{guards['default_microseconds']} microseconds, {guards['default_percent_of_a_quickstart_step']} %; "
        f"with the spike guard {guards['with_spike_guard_percent_of_a_quickstart_step']} % |",
    ]
    machine = found["machine"]
    return "\n".join(
        [*rows, "", f"{machine['cpu']}, torch {machine['versions']['torch']}, Python {machine['python']}.", ""]
    )


def checkpoint_cost(processes: Processes, hidden: int) -> dict[str, Any]:
    """Milliseconds (median) and bytes of one checkpoint of a Llama with its AdamW state, both ways."""
    config = AutoConfig.for_model(
        "llama", hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, 2048, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    with tempfile.TemporaryDirectory(dir=HERE) as name:
        folder = Path(name)
        times: dict[str, list[float]] = {"graft": [], "plain": []}
        for number in range(ROUNDS):
            times["graft"].append(seconds(lambda n=number: _ours(folder / "ours", n, model, optimizer, processes)))
            times["plain"].append(seconds(lambda: _plain(folder / "plain", model, optimizer)))
        sizes = {"graft": folder_size(checkpoint.steps(folder / "ours")[-1]), "plain": folder_size(folder / "plain")}
    median = {key: round(1e3 * statistics.median(values), 1) for key, values in times.items()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": parameters,
        "graft_milliseconds": median["graft"],
        "save_pretrained_and_torch_save_milliseconds": median["plain"],
        "ratio": round(median["graft"] / median["plain"], 2),
        "graft_bytes": sizes["graft"],
        "save_pretrained_and_torch_save_bytes": sizes["plain"],
    }


def _ours(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes) -> None:
    tensors = {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}
    checkpoint.save(folder, step, tensors, {"step": step}, processes)
    checkpoint.rotate(folder, keep=2, pinned=[])


def _plain(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """In place, not flushed to the disk, not verified, and pickled: what is measured against, and done nowhere else."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    serialization.save(optimizer.state_dict(), folder / "optimizer.pt")


def guard_cost(processes: Processes, step_seconds: float) -> dict[str, Any]:
    """Microseconds per step of everything a step does only to be safe, with the spike guard on."""
    config = GuardConfig(spike_sigma=6.0)
    recent = [[2.0 + 0.01 * (number % 7), 1.0] for number in range(config.spike_window)]
    found = {}
    with StopRequest() as stop:
        for name, settings in {"default": GuardConfig(), "with_spike_guard": config}.items():

            def once(settings: GuardConfig = settings) -> None:
                processes.total(2.0, 0.0, stop())
                is_finite(2.0, 1.0)
                is_spike(settings, recent, 2.0, 1.0)

            spent = min(seconds(lambda: [once() for _ in range(1000)]) for _ in range(ROUNDS)) / 1000
            found[f"{name}_microseconds"] = round(1e6 * spent, 2)
            found[f"{name}_percent_of_a_quickstart_step"] = round(100 * spent / step_seconds, 4)
    return found


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
