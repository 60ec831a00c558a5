"""`graft env` on a machine with a GPU, by a driver's library that is played here."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pipeline import environment

UUID = "d0aa760d-7d65-7ae3-5e10-8849f4914c00"


class NVMLError(Exception):
    pass


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One GPU, on which this process, another one, and one of another container hold memory."""
    users = [(os.getpid(), 2**30), (os.getppid(), 3 * 2**30), (2**22 + 1, None)]
    running = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in users]
    library = ModuleType("pynvml")
    library.__dict__.update(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.159.04",
        nvmlDeviceGetHandleByUUID={f"GPU-{UUID}": "handle"}.__getitem__,
        nvmlDeviceGetComputeRunningProcesses={"handle": running}.__getitem__,
    )
    card = SimpleNamespace(name="H100", total_memory=79 * 2**30, uuid=UUID)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(environment, "find_spec", lambda name: library)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_who_else_holds_memory_is_said(gpu: ModuleType) -> None:
    said = environment._devices()
    assert said.startswith("H100 79.0 GiB; CUDA ") and "; driver 580.159.04; memory held by " in said
    assert f"(pid {os.getppid()}) 3.0 GiB, pid {2**22 + 1} an unknown amount" in said
    assert f"pid {os.getpid()})" not in said


def test_a_driver_that_does_not_answer_is_no_traceback(gpu: ModuleType) -> None:
    def broken() -> None:
        raise NVMLError("Driver/library version mismatch")

    gpu.__dict__["nvmlInit"] = broken
    assert environment._devices().endswith("the driver does not answer (Driver/library version mismatch)")


def test_without_the_package_the_line_that_installs_it_is_said(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    assert environment._devices().endswith("pip install 'graft-pipeline[gpu]'")
