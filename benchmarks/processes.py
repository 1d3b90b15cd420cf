"""Processor time and memory of a process with all its descendants, as Linux tells them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path


def tree(pid: int) -> Iterator[int]:
    """The process and its descendants that live."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            listed = children.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
        for child in listed:
            yield from tree(int(child))


def cpu(pid: int) -> float:
    """Seconds of processor time that the tree has used; a member that ended takes its own with it."""
    spent = 0.0
    for each in tree(pid):
        try:
            spent += own_cpu(each)
        except OSError:
            continue
    return spent


def own_cpu(pid: int) -> float:
    """Seconds of processor time that this process alone has used."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock of another process: clock_getcpuclockid(3)


def memory(pid: int) -> float:
    """MiB of the tree: its own pages, and its share of those that several processes have (PSS)."""
    kib = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def peak(pid: int) -> float:
    """MiB that the process alone had resident at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
