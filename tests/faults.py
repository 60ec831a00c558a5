"""Faults for real runs in other processes: FAULT="kind rank step", installed by the script that starts them."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh


def at_step(act: Any) -> None:
    """Call `act(training)` inside the backward of the step and process that FAULT names."""
    import pipeline.step as module

    _, rank, step = os.environ["FAULT"].split()
    backward = module._backward

    def faulty(training: Any, *arguments: Any, **more: Any) -> float:
        loss = backward(training, *arguments, **more)
        mine = training.processes.rank == int(rank) and training.state.step == int(step)
        return act(training, loss) if mine else loss

    module._backward = faulty


def die(training: Any, loss: float) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return loss


def hang(training: Any, loss: float) -> float:
    time.sleep(3600)
    return loss


def fail(training: Any, loss: float) -> float:
    raise KeyError("a bug in somebody's task")


def nan(training: Any, loss: float) -> float:
    return float("nan")


def infinite_gradient(training: Any, loss: float) -> float:
    next(parameter for parameter in training.model.parameters() if parameter.grad is not None).grad.fill_(float("inf"))
    return loss


def out_of_memory(training: Any, loss: float) -> float:
    if training.micro_batch_size > 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    return loss


def out_of_memory_in_words(training: Any, loss: float) -> float:
    if training.micro_batch_size > 1:
        raise RuntimeError("CUDA error: out of memory")
    return loss


def drift(training: Any, loss: float) -> float:
    with torch.no_grad():
        next(iter(training.model.parameters())).add_(1.0)
    return loss


def stop(training: Any, loss: float) -> float:
    os.kill(os.getpid(), signal.SIGTERM)
    return loss


def slow(result: Any, seconds: float = 0.2) -> Any:
    """So slow that a test can send signals: every piece of work of every process waits, and says that it has begun."""
    Path(os.environ["FAULT_SAYS"]).touch()
    time.sleep(seconds)
    return result


@contextmanager
def stop_after(step: int | None) -> Iterator[None]:
    """A real SIGTERM, to every process, when so many steps are done; the run stops at the end of the next one."""
    from pipeline.tracking import RunLog

    advance = RunLog.advance

    def signalling(self: RunLog, done: int) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(self, done)

    RunLog.advance = signalling  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        RunLog.advance = advance  # type: ignore[method-assign]


AT_STEP = (die, hang, fail, nan, infinite_gradient, out_of_memory, out_of_memory_in_words, drift, stop)


def install() -> None:
    """Install the fault that the environment names, if any; whatever it is, the process has to end cleanly."""
    atexit.register(refuse_threads)
    kind = os.environ.get("FAULT", "").partition(" ")[0]
    if not kind:
        return
    known = {act.__name__: act for act in AT_STEP}
    if kind in known:
        at_step(known[kind])
    else:
        globals()[f"install_{kind}"]()


def refuse_threads() -> None:
    """A thread that outlives its process group aborts a process that has finished, now and then: exit code 70.

    Not where weights were sharded: their mesh, which something in torch keeps to the end, holds the group.
    """
    if any(isinstance(thing, DeviceMesh) for thing in gc.get_objects()):
        return
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in names if "gloo" in name]:
        print(f"left behind: {', '.join(left)}", file=sys.stderr, flush=True)
        os._exit(70)


def install_oom_within_backward() -> None:
    """As on a GPU, where gradients of micro-batches that have fitted travel within backward."""
    import pipeline.step as module

    module._is_watched = lambda training, portion: training.state.step < 3
    os.environ["FAULT"] = "out_of_memory 1 3"
    at_step(out_of_memory)


def install_slow_training(seconds: float = 0.2) -> None:
    import pipeline.step as module

    backward = module._backward

    def slower(training: Any, *arguments: Any, **more: Any) -> float:
        return slow(backward(training, *arguments, **more), seconds)

    module._backward = slower


def install_very_slow_training() -> None:
    """So slow that another process can start and end meanwhile."""
    install_slow_training(1.0)


def install_slow_evaluation() -> None:
    """So slow that an evaluation lasts longer than anybody is given to stop."""
    import pipeline.evaluation as module

    forward = module._forward

    def slower(*arguments: Any, **more: Any) -> Any:
        return slow(forward(*arguments, **more), 5)

    module._forward = slower


def install_slow_tokenization() -> None:
    """Every row is a batch and takes a second, all of them longer than a process is given to stop."""
    from pipeline.data import cache

    encoded = cache._encoded

    def slower(rows: Any, encode: Any, description: str, poll: Any, batch_size: int) -> Any:
        def each(batches: Any) -> Any:
            for batch in batches:
                yield slow(batch, 1)

        return encoded(rows, lambda batches: encode(each(batches)), description, poll, 1)

    cache._encoded = slower


def install_slow_save() -> None:
    """Training waits in each step, and a checkpoint that is whole waits a minute before it is published."""
    from pipeline import checkpoint

    install_slow_training()
    publish = checkpoint._publish

    def slower(*arguments: Any) -> None:
        Path(os.environ["FAULT_SAYS"] + ".saving").touch()
        time.sleep(60)
        publish(*arguments)

    checkpoint._publish = slower  # type: ignore[assignment]


def install_slow_import() -> None:
    """Nothing is left to do: see slow_import.py."""


def install_slow_main() -> None:
    """Writing takes longer than processes may wait for each other within a step."""
    from pipeline import checkpoint

    publish = checkpoint._publish

    def slower(*arguments: Any) -> None:
        time.sleep(8)
        publish(*arguments)

    checkpoint._publish = slower  # type: ignore[assignment]


def install_full_disk() -> None:
    """The disk of process 1 takes nothing."""
    from pipeline import checkpoint

    write = checkpoint._write

    def full(temporary: Any, tensors: Any, processes: Any) -> Any:
        if processes.rank == 1:
            raise OSError(28, "No space left on device")
        return write(temporary, tensors, processes)

    checkpoint._write = full


def install_other_rows() -> None:
    """Process 1 reads other rows than process 0."""
    import pipeline.api as module
    from pipeline.prepare import prepare as whole
    from tests.synthetic import data_of

    rank = int(os.environ.get("RANK", "0"))

    def other(config: Any, **more: Any) -> Any:
        return whole(config, **{**more, "datasets": data_of(config, 40 + rank)})

    module.prepare = other  # type: ignore[attr-defined]
