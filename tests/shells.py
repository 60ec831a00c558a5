"""Real interactive shells on a terminal: a line is typed, Tab is pressed, and what the line then holds is read."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

STARTS = {
    "bash": (["--norc", "--noprofile", "-i"], "source {script}"),
    "zsh": (["-f", "-i"], "fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D"),
    "fish": (["--no-config", "-i"], "source {script}"),
}
"""Arguments without anybody's start files, and the line that loads a completion script."""
ANSWERS = {"\x1b[c": b"\x1b[?62;c", "\x1b[0c": b"\x1b[?62;c", "\x1b[6n": b"\x1b[1;1R"}
"""What shells ask a terminal, and what it says."""
SECONDS = 60


def completed(shell: str, script: Path, lines: Sequence[str], folder: Path) -> list[list[str]]:
    """The words of each line after a Tab at its end, typed in `folder`."""
    options, load = STARTS[shell]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 250, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "HOME": str(folder), "HISTFILE": ""}
    process = subprocess.Popen(
        [shutil.which(shell) or shell, *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        loading = load.format(script=script, folder=script.parent)
        os.write(ours, f"{loading}; printf 'REA%s' DY\n".encode())
        read_until(ours, "READY")
        found = []
        for line in lines:
            # Ctrl-A, Ctrl-E: the completed line becomes the arguments of printf.
            os.write(ours, f"{line}\t\x01printf '[%s]' \x05 END\n".encode())
            seen = re.search(r"\[graft\].*\[END\]", read_until(ours, "[END]"), re.DOTALL)
            assert seen is not None, line
            found.append(seen[0][1:-1].split("][")[1:-1])
        return found
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str) -> str:
    text, end = "", time.monotonic() + SECONDS
    while wanted not in text:
        assert time.monotonic() < end, f"no {wanted!r} in {text!r}"
        if select.select([terminal], [], [], 1)[0]:
            piece = os.read(terminal, 2**16).decode(errors="replace")
            for question, answer in ANSWERS.items():
                if question in piece:
                    os.write(terminal, answer)
            text += piece
    return text
