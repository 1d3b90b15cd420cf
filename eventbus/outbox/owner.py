"""Who wrote a row: names of processes, unique among all processes that ever use a database.

A name reads `<scope>-<pid>-<random>-<n>`. The scope stands for "the same process ids": this boot of this machine and
this pid namespace. So a process that finds a name of its own scope whose pid is gone knows its owner dead at once;
all else about life and death goes by leases. Where a name ends with `FOR_RELAY`, its rows are the relay's, whether the
process lives or not.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import socket
from typing import Final

from eventbus.process import forks

FOR_RELAY: Final = "-relay"


def _scope() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        # Elsewhere than on Linux nothing is known about other processes' ids.
        return secrets.token_hex(5)
    return hashlib.sha256(f"{boot} {namespace} {socket.gethostname()}".encode()).hexdigest()[:10]


class _Process:
    """The name of this process; a fork is another one."""

    def __init__(self) -> None:
        self.scope = _scope()
        self.name = ""
        self.renew()

    def renew(self) -> None:
        self.name = f"{self.scope}-{os.getpid()}-{secrets.token_hex(4)}"


process = _Process()
forks.in_child(process.renew)


class Owner:
    """One writer of rows within this process: its name in this process, and another one in a fork.

    `for_relay`: the process publishes nothing itself.
    """

    _numbers = itertools.count()

    def __init__(self, *, for_relay: bool = False) -> None:
        self._suffix = f"-{next(self._numbers)}{FOR_RELAY if for_relay else ''}"

    @property
    def name(self) -> str:
        """At most 64 characters."""
        return process.name + self._suffix


def is_for_relay(owner: str) -> bool:
    """Whether rows of that owner are the relay's alone."""
    return owner.endswith(FOR_RELAY)


def is_dead(owner: str) -> bool:
    """Whether the process of that name is certainly gone. False means: not known."""
    pid = _local_pid(owner)
    return pid is not None and not owner.startswith(f"{process.name}-") and not _is_running(pid)


def is_alive(owner: str) -> bool:
    """Whether a process of that number runs here. It may be another one by now, so this is no proof for ever."""
    pid = _local_pid(owner)
    return pid is not None and (owner.startswith(f"{process.name}-") or _is_running(pid))


def _local_pid(owner: str) -> int | None:
    scope, _, rest = owner.partition("-")
    pid = rest.partition("-")[0]
    return int(pid) if scope == process.scope and pid.isdecimal() and len(pid) < 10 else None


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # another process had our number before us: this one has another name
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits to be collected by its parent."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (OSError, IndexError):
        return False
