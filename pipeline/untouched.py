"""A run inside of somebody else's program leaves everything as it was: random states, settings, environment."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from huggingface_hub import constants
from transformers.utils import logging as transformers_logging

STATES = (PartialState, AcceleratorState, GradientState)


@contextmanager
def untouched() -> Iterator[None]:
    """Put back, however the run ended: the states of all random generators, the environment, what the Hugging Face
    libraries know about being offline, accelerate's global state, PyTorch's global settings, warning filters, logging
    levels and the import path.

    With several processes accelerate's state stays: it belongs to the process group, which lives on.
    """
    variables, path = dict(os.environ), [*sys.path]
    offline, level, bar = constants.HF_HUB_OFFLINE, logging.root.level, transformers_logging.is_progress_bar_enabled()
    of_datasets = _of_datasets()
    states = [dict(kind._shared_state) for kind in STATES]
    torch_settings, generators = _torch_settings(), _generators()
    try:
        with warnings.catch_warnings():
            # torch's advice to keep what we keep, in every process of a notebook
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            yield
    finally:
        _set_generators(generators)
        _set_torch(torch_settings)
        if not torch.distributed.is_initialized():
            for kind, state in zip(STATES, states, strict=True):
                kind._shared_state.clear()
                kind._shared_state.update(state)
        constants.HF_HUB_OFFLINE = offline
        if "datasets" in sys.modules:
            vars(sys.modules["datasets"].config).update(of_datasets)
        logging.root.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()
        sys.path[:] = path
        for name in [name for name in os.environ if name not in variables]:
            del os.environ[name]
        os.environ.update(variables)


def _of_datasets() -> dict[str, Any]:
    """What datasets knows of the network; before it is imported, what it will make of the environment."""
    if "datasets" in sys.modules:
        config = sys.modules["datasets"].config
        return {name: vars(config)[name] for name in ("HF_HUB_OFFLINE", "HF_UPDATE_DOWNLOAD_COUNTS")}
    own = os.environ.get("HF_DATASETS_OFFLINE")
    offline = constants.HF_HUB_OFFLINE if own is None else own.upper() in constants.ENV_VARS_TRUE_VALUES
    return {"HF_HUB_OFFLINE": offline}


def _generators() -> tuple[Any, ...]:
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus


def _set_generators(states: tuple[Any, ...]) -> None:
    own, numpy, processor, gpus = states
    random.setstate(own)
    np.random.set_state(numpy)
    torch.set_rng_state(processor)
    if gpus is not None:
        torch.cuda.set_rng_state_all(gpus)


def _torch_settings() -> dict[str, Any]:
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "benchmark": torch.backends.cudnn.benchmark,
        "gradients": torch.is_grad_enabled(),
    }


def _set_torch(settings: dict[str, Any]) -> None:
    torch.set_default_dtype(settings["dtype"])
    torch.set_num_threads(settings["threads"])
    torch.use_deterministic_algorithms(settings["deterministic"], warn_only=settings["warn_only"])
    torch.set_float32_matmul_precision(settings["precision"])
    torch.backends.cudnn.benchmark = settings["benchmark"]
    torch.set_grad_enabled(settings["gradients"])
