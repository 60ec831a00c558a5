"""Out of memory, told from other errors by its type or by the words that libraries use for it."""

from __future__ import annotations

import torch

WORDS = (
    "out of memory",  # CUDA, cuBLAS workspaces, HIP; with and without a full stop
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
ADVICE = (
    "a single row does not fit: lower data.max_length, or set train.gradient_checkpointing: true, or "
    "train.mixed_precision: bf16, or adapt less of the model (lora, freeze); "
    "`graft env` says who else holds a GPU's memory"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller micro-batch might help."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)


def release() -> None:
    """Give cached blocks back, so that smaller ones can take their place."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
