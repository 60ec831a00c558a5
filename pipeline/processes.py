"""What the processes of a run tell each other: sums, short texts, and how each one's part went.

Everything goes as plain tensors; collectives for Python objects pickle them.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from pipeline.errors import UserError
from pipeline.stopping import Stopped

T = TypeVar("T")
Rows = dict[str, Tensor]
"""Columns of rows, (rows, ...) each, with `row`, their numbers."""
PATIENCE = datetime.timedelta(hours=12)
"""How long processes wait for the work of one, such as writing a checkpoint; a dead one is noticed within a second."""
BUCKET = 25 * 2**20
"""Bytes of gradients that travel together."""


class OtherProcessFailed(Exception):
    """Another process of this run ended with an error, which it has reported itself."""

    def __init__(self, rank: int, text: str, exit_code: int):
        self.rank, self.text, self.exit_code = rank, text, exit_code
        super().__init__(f"process {rank}: {text}")


class Disagreement(Exception):
    """The processes of a run do not do the same work."""


class Processes:
    """The processes of a run. With a single one, everything here is trivial and costs nothing."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.is_main = self.rank == 0
        self.waiting = distributed.new_group(backend="gloo", timeout=PATIENCE) if self.count > 1 else None

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes, in double precision."""
        if self.count == 1:
            return [float(value) for value in values]
        found = torch.tensor([float(value) for value in values], dtype=torch.float64, device=self.accelerator.device)
        return [float(value) for value in self.accelerator.reduce(found, "sum")]

    def in_row_order(self, own: Rows) -> Rows:
        """The rows of all processes, on each of them, by their number; those with the number -1 are left out.

        They stay where they are: what lies on the processor is not brought to the device for this.
        """
        if self.count > 1 and own["row"].device.type == "cpu":
            own = {key: self._everyones(value) for key, value in own.items()}
        elif self.count > 1:
            padded = {key: self.accelerator.pad_across_processes(own[key], dim=0, pad_index=-1) for key in own}
            own = {key: self.accelerator.gather(value) for key, value in padded.items()}
        known = own["row"] >= 0
        order = torch.argsort(own["row"][known])
        return {key: value[known][order] for key, value in own.items()}

    def _everyones(self, own: Tensor) -> Tensor:
        """The rows of all processes on the processor, by rank; -1 is behind those narrower than another process's."""
        shapes = [json.loads(text) for text in self.share(json.dumps(list(own.shape)))]
        padded = own.new_full([max(sizes) for sizes in zip(*shapes, strict=True)], -1)
        padded[tuple(map(slice, own.shape))] = own
        parts = [torch.empty_like(padded) for _ in shapes]
        distributed.all_gather(parts, padded, group=self.waiting)
        return torch.cat([part[:rows] for part, (rows, *_) in zip(parts, shapes, strict=True)])

    def share(self, text: str) -> list[str]:
        """Every process's text, by rank. Waits for as long as the slowest one works."""
        if self.waiting is None:
            return [text]
        own = torch.frombuffer(bytearray(text.encode() + b"\0"), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([len(own)]), group=self.waiting)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        distributed.all_gather(parts, padded, group=self.waiting)
        return [bytes(part.tolist()).rstrip(b"\0").decode() for part in parts]

    def meet(self, error: BaseException | None = None) -> None:
        """All come here with how their part went. When one failed, it raises its error and the others say whose."""
        said = "" if error is None else json.dumps({"text": _text(error), "exit_code": exit_code(error)})
        everyone = self.share(said)
        if error is not None:
            raise error
        for rank, found in enumerate(everyone):
            if found:
                raise OtherProcessFailed(rank, **json.loads(found))

    def each(self, work: Callable[[], None]) -> None:
        """Every process does the work alone; what one of them raises ends all."""
        error = None
        try:
            work()
        except Exception as raised:
            error = raised
        self.meet(error)

    def on_main(self, work: Callable[[], T]) -> T | None:
        """The main process works while the others wait; what it raises ends all. Returns None on the others."""
        result, error = None, None
        if self.is_main:
            try:
                result = work()
            except Exception as raised:
                error = raised
        self.meet(error)
        return result

    def from_main(self, work: Callable[[], str]) -> str:
        """A text that the main process finds out, for all."""
        return self.share(self.on_main(work) or "")[0]

    def must_agree(self, facts: Mapping[str, str], advice: str) -> None:
        """Raise Disagreement on all processes when one of them sees another value of a fact than the main process."""
        everyone = [json.loads(text) for text in self.share(json.dumps(dict(facts)))]
        problems = [
            f"process {rank} sees another {name} than process 0 ({found[name]} against {everyone[0][name]})"
            for rank, found in enumerate(everyone)
            for name in facts
            if found[name] != everyone[0][name]
        ]
        if problems:
            raise Disagreement("\n".join([*problems, advice]))

    def average_gradients(self, model: nn.Module) -> None:
        """What a data-parallel wrapper does within backward, done after it: the mean over processes, in buckets."""
        moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
        used = torch.tensor([parameter.grad is not None for parameter in moving], device=self.accelerator.device).int()
        distributed.all_reduce(used)
        gradients = []
        for parameter, anywhere in zip(moving, used.tolist(), strict=True):
            if anywhere:  # one that no process has used stays as it is, as in a single process
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket]).div_(self.count)
            distributed.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def share_buffers(self, buffers: Iterable[Tensor]) -> None:
        """The main process's running statistics for all."""
        if self.count > 1:
            for buffer in buffers:
                distributed.broadcast(buffer, src=0)

    def close(self) -> None:
        """Let go of the group; a notebook may train many times."""
        if self.waiting is not None and distributed.is_initialized():
            distributed.destroy_process_group(self.waiting)


def exit_code(error: BaseException) -> int:
    """What the process ends with because of an error: a mistake of the user's is told from one of ours."""
    return error.exit_code if isinstance(error, (UserError, Stopped, OtherProcessFailed)) else 1


def _text(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _buckets(gradients: list[Tensor]) -> Iterable[list[Tensor]]:
    """Gradients of one type in groups of about BUCKET bytes, last layers first as backward makes them."""
    bucket: list[Tensor] = []
    for gradient in reversed(gradients):
        if bucket and (bucket[0].dtype != gradient.dtype or sum(part.nbytes for part in bucket) > BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
