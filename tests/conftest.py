"""Every test runs offline, in a Hugging Face home of its own, and fails when it reaches for the network."""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.hub_server import HUB, Hub
from tests.promises import show

# Before any Hugging Face import: their packages read these once.
_HOME = tempfile.mkdtemp(prefix="graft-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_UPDATE_DOWNLOAD_COUNTS="0",  # datasets and evaluate would tell a counter at Amazon what they load
    HF_ENDPOINT=HUB.endpoint,
    NO_PROXY="127.0.0.1,localhost",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # tests run side by side, and threads that wait for each other are ten times slower
    MPLCONFIGDIR=os.path.join(_HOME, "matplotlib"),
)
# What would change where or how a run happens, if the shell that started the tests has it.
for _name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN", "WORLD_SIZE", "RANK", "LOCAL_RANK"):
    os.environ.pop(_name, None)
for _name in [name for name in os.environ if name.startswith(("ACCELERATE_", "GRAFT_", "WANDB_"))]:
    del os.environ[_name]


# The same examples every time: a red run is then a change of ours, and a slow machine is no failure.
hypothesis.settings.register_profile("graft", derandomize=True, deadline=None)
hypothesis.settings.load_profile("graft")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Figures for docs/reliability.md."""
    for item in items:
        for mark in item.iter_markers("promise"):
            number, kind = mark.args
            item.user_properties.append(("promise", (number, kind, 1)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    show(terminalreporter)


def is_local(host: Any) -> bool:
    """Whether a host name or address means this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(host: Any) -> None:
    # Not an Exception: code under test that catches those must not hide it.
    if not is_local(host):
        pytest.fail(f"a test reached for the network: {host!r}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine and Unix sockets can be reached."""
    look_up = socket.getaddrinfo

    def guarded(method: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                refuse(address[0])
            return method(self, address)

        return connect

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        refuse(host)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The tests' hub (tests/hub_server.py), empty; this process uses it as `owner`, with an empty cache.

    For processes there is `tests.hub_online.environment`; a module that shares pushed models makes a fixture of its own
    from `tests.hub_online.online` and `tests.hub_server.HUB`.
    """
    from huggingface_hub import constants

    from tests.hub_online import online  # imports datasets and evaluate

    HUB.clear()
    with online(HUB, tmp_path / "hf-home") as found:
        yield found
        monkeypatch.undo()  # later it would put back what it found here, and the next tests would be online
    assert constants.is_offline_mode()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("this machine does not let the tests mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
