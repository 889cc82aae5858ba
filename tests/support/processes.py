"""Processes that tests look for and end."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path


def command_line(pid: int) -> bytes:
    """Of a process; of one that has ended, and perhaps waits for its parent to notice, nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def child_ids(pid: int) -> list[int]:
    """Children of a process; threads and processes may end while they are listed."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def children(pid: int) -> list[int]:
    """Worker processes of a process: its spawned children, but for multiprocessing's own."""
    return [child for child in child_ids(pid) if b"spawn_main" in command_line(child)]


def descendants(pid: int) -> list[int]:
    found = []
    for child in child_ids(pid):
        found += [child, *descendants(child)]
    return found


def end(process: subprocess.Popen) -> None:
    """Kill a process and all below it, if it has not ended."""
    if process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)
