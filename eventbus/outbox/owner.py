"""Who wrote a row: names of processes, unique among all processes that ever use a database.

A name reads `<scope>-<pid>-<random>-<n>`. The scope stands for "the same process ids": this boot of this machine and
this pid namespace. So a process that finds a name of its own scope whose pid is gone knows its owner dead at once;
all else about life and death goes by leases.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import socket


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
os.register_at_fork(after_in_child=process.renew)


class Owner:
    """One writer of rows within this process: its name in this process, and another one in a fork."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        self._number = next(self._numbers)

    @property
    def name(self) -> str:
        """At most 64 characters."""
        return f"{process.name}-{self._number}"


def is_dead(owner: str) -> bool:
    """Whether the process of that name is certainly gone. False means: not known."""
    scope, _, rest = owner.partition("-")
    pid = rest.partition("-")[0]
    if scope != process.scope or not pid.isdigit():
        return False
    if owner.startswith(process.name):
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether the process has ended and only waits to be collected by its parent."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"Z"
    except (OSError, IndexError):
        return False
