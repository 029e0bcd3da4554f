"""An agent as a running process with its children: what it costs, and its sudden end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """How an agent is started."""

    arguments: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)


class Process:
    """A started agent, in a process group of its own."""

    def __init__(self, command: Command, folder: Path, log: Path) -> None:
        self._command = command
        self._folder = folder
        self.log = log
        self.start()

    def start(self) -> None:
        """Starts it, the first time or again after [`kill`]."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._command.arguments,
                cwd=self._folder,
                env={**os.environ, **self._command.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to it and all its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def check(self) -> None:
        """Raises where it ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"{self._command.arguments[0]} ended with {code}: see {self.log}")

    def cpu_seconds(self) -> float:
        """Processor time of all its threads. By a clock, since the ticks of /proc are too coarse for a light agent."""
        # The clock of another process's CPU time, as clock_getcpuclockid(3) makes it.
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self._pids())

    def memory(self) -> tuple[float, float]:
        """Resident memory in MB: all of it, and with shared pages divided by those that share them."""
        rss = sum(_number(pid, "status", r"^VmRSS:\s+(\d+)") for pid in self._pids())
        pss = sum(_number(pid, "smaps_rollup", r"^Pss:\s+(\d+)") for pid in self._pids())
        return rss / 1024, pss / 1024

    def _pids(self) -> list[int]:
        return [self._process.pid, *_descendants(self._process.pid)]


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            yield child
            yield from _descendants(child)


def _number(pid: int, file: str, pattern: str) -> int:
    found = re.search(pattern, Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"/proc/{pid}/{file} has no {pattern}")
    return int(found[1])
