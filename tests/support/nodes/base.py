"""A server process of a test's own, with its files in one directory that goes with it."""

from __future__ import annotations

import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.discovery import Unavailable

_SERVER_DIRECTORIES = (
    "/usr/lib/rabbitmq/bin",  # before /usr/sbin, where Debian's wrapper changes the user
    *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True),
    *os.environ.get("PATH", os.defpath).split(os.pathsep),
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/opt/homebrew/sbin",
)
START_TIMEOUT = 90  # seconds; RabbitMQ takes 5 on an idle machine and many times that on a busy one


def binary(*names: str) -> str:
    """Path of the first of these programs that is installed, also where PATH does not look. Raises Unavailable."""
    for name in names:
        found = shutil.which(name, path=os.pathsep.join(_SERVER_DIRECTORIES))
        if found:
            return found
    raise Unavailable(f"{names[0]} is not installed")


def free_port() -> int:
    """A TCP port that nobody uses now, below the range from which the kernel takes ports for outgoing connections.

    So a server that is down for a moment finds its port free when it comes back.
    """
    for _ in range(200):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Unavailable("no free port between 20000 and 30000")


class Node(ABC):
    """One private server. `start` returns once it answers; `destroy` leaves nothing behind; also a context manager.

    Port and files survive `stop`, `kill` and `restart`, as they do on a real host.
    """

    kind: str
    user: str | None = None  # whom to run as when the tests run as root; None: no change
    graceful = signal.SIGTERM
    abrupt = signal.SIGKILL

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"eventbus-{self.kind}-", dir="/tmp"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The server in the foreground."""

    @abstractmethod
    def probe(self) -> str:
        """The version, or Unavailable while the server does not answer."""

    def prepare(self) -> None:  # noqa: B027 - most servers need nothing
        """What has to happen once, before the first start."""

    def environment(self) -> Mapping[str, str]:
        """Environment of the server, beside PATH."""
        return {}

    @property
    def running(self) -> bool:
        """Whether the process lives; it may not answer yet."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the node is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until the server answers. A running node stays as it is. Raises Unavailable with the log."""
        if self.running:
            return self
        if not self._prepared:
            self.prepare()
            self._prepared = True
        self._process = self.spawn(self.command())
        try:
            wait_until(self._answers, START_TIMEOUT, f"{self.kind} did not answer")
        except TimeoutError as error:
            self.kill()
            raise Unavailable(f"{error}: {self.log()[-1500:]}") from error
        return self

    def stop(self) -> None:
        """End it in good order; killed if that takes more than 30 seconds."""
        if self._process is None:
            return
        self._process.send_signal(self.graceful)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it as a crash does: no flush, no goodbye."""
        if self._process is None:
            return
        os.killpg(self._process.pid, signal.SIGCONT)
        os.killpg(self._process.pid, self.abrupt)
        self._process.wait(timeout=30)
        self._process = None

    def restart(self) -> Self:
        """Stop in good order and start again."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        os.killpg(self.pid, signal.SIGCONT)

    def destroy(self) -> None:
        """Kill it and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """All that the server printed so far."""
        path = self.directory / "output.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.destroy()
            raise

    def __exit__(self, *_: object) -> None:
        self.destroy()

    def spawn(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """A process in a group of its own, as the node's user, its output appended to the log."""
        with (self.directory / "output.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env=self._environment(),
                start_new_session=True,
                user=self.run_as(),
                extra_groups=None if self.run_as() is None else (),
            )

    def run(self, command: Sequence[str], *, timeout: float = 60) -> str:
        """Output of a command beside the server, in its environment and as its user. Raises Unavailable if it fails."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self._environment(),
            timeout=timeout,
            check=False,
            user=self.run_as(),
            extra_groups=None if self.run_as() is None else (),
        )
        if done.returncode:
            raise Unavailable(f"{' '.join(command)} failed: {done.stdout[-500:]}{done.stderr[-1000:]}")
        return done.stdout

    def run_as(self) -> str | None:
        """The user to change to, where the tests run as root and the server does not want that."""
        if self.user is None or os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return self.user if self.user in names else "nobody"

    def give_directory_away(self) -> None:
        """Let `run_as` own the directory."""
        owner = self.run_as()
        if owner is not None:
            shutil.chown(self.directory, owner)

    def _environment(self) -> dict[str, str]:
        base = {"PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "HOME": str(self.directory)}
        return base | {"LC_ALL": "C.UTF-8"} | dict(self.environment())

    def _answers(self) -> bool:
        if not self.running:
            raise Unavailable(f"{self.kind} ended at once: {self.log()[-1500:]}")
        try:
            self.probe()
        except Unavailable:
            return False
        return True


def wait_until(condition: Callable[[], bool], timeout: float, complaint: str) -> None:
    """Return once the condition holds; TimeoutError with the complaint after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} within {timeout:g} s")
        time.sleep(0.05)
