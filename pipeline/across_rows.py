"""A loss over the whole global batch (in-batch negatives), however the batch is cut: two passes over its parts.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (GradCache): the first pass
represents every row without gradients, the loss and its gradient with respect to all representations are computed
once, and the second pass carries each part's share of that gradient into the weights. It is the gradient of the batch
in one piece, for the price of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from pipeline import out_of_memory
from pipeline.evaluation import to_device
from pipeline.feed import Batch, Portion
from pipeline.processes import Rows
from pipeline.training import Training


@dataclass(frozen=True)
class WholeBatch:
    """The loss of a global batch, and its gradient with respect to the rows of each micro-batch of this process."""

    loss: float
    """This process's share of the sum; the main process has all of it."""
    gradients: list[Tensor]

    def stand_in(self, training: Training, batch: Batch, number: int) -> Tensor:
        """A number with the gradient that the loss of the whole batch has in this micro-batch; not its value."""
        representations, _ = training.task.represent(training.model, batch)
        return (representations * self.gradients[number]).sum()


def whole_batch(training: Training, portion: Portion, seed: Callable[[], None]) -> WholeBatch | None:
    """The first pass; None where there is no need of it, since one micro-batch holds the whole global batch.

    `seed` sets the step's random numbers; it is called again at the end, so that the second pass draws what the first
    one drew. Raises MemoryError on all processes when one of them has run out of memory.
    """
    processes = training.processes
    if not training.task.across_rows or (processes.count == 1 and len(portion.batches) == 1):
        return None
    try:
        own = _represented(training, portion)
    except (RuntimeError, MemoryError) as error:
        # the forward passes of shares are the work of all processes, so there nobody can be asked
        if not out_of_memory.is_out_of_memory(error) or isinstance(training.model, FSDPModule):
            raise
        own = None
    if processes.total(own is None)[0] or own is None:
        raise MemoryError("a process has run out of memory in the first pass over the batch")
    rows = processes.in_row_order(own)
    numbers = rows.pop("row").cpu().numpy()
    representations = rows.pop("representations").requires_grad_()
    loss = training.task.loss_of(representations, rows)
    (gradient,) = torch.autograd.grad(loss, representations)
    seed()
    places = (torch.from_numpy(np.searchsorted(numbers, part.rows)).to(gradient.device) for part in portion.parts)
    return WholeBatch(float(loss.detach()) if processes.is_main else 0.0, [gradient[place] for place in places])


def _represented(training: Training, portion: Portion) -> Rows:
    """The representations of this process's rows with their numbers; fillers have the number -1."""
    accelerator = training.accelerator
    parts: list[Rows] = []
    for batch, part in zip(portion.batches, portion.parts, strict=True):
        with torch.no_grad(), accelerator.autocast():
            representations, others = training.task.represent(training.model, to_device(batch, accelerator.device))
        rows = torch.as_tensor(part.rows.copy() if part.counts else np.full_like(part.rows, -1))
        parts.append({**others, "representations": representations.detach(), "row": rows.to(accelerator.device)})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
