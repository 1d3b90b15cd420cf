"""What the demo stands on: lines for the reader, and the mirror as a process of its own."""

from __future__ import annotations

import difflib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

PATIENCE = 60.0
"""Seconds without any progress after which the demo gives up and says why."""
_PROGRESS_LINE = 5.0
"""Seconds between two lines of progress where nobody watches, as in a log."""


class TroubleError(Exception):
    """The demo cannot go on; the text says why and what to do."""


class Mirror:
    """`python -m consumers.json_mirror`, from start to SIGTERM, as in production."""

    def __init__(self, data_dir: Path, log: Path) -> None:
        self._command = [sys.executable, "-m", "consumers.json_mirror", "--data-dir", str(data_dir)]
        self._log = log

    def __enter__(self) -> Self:
        say("Starting the mirror ...")
        with self._log.open("w") as log:
            # In a session of its own, so that Ctrl-C reaches it through us, once everything is said.
            self._process = subprocess.Popen(self._command, stderr=log, start_new_session=True)
        try:
            wait_for(self._consumes, "the mirror to reach the broker", self)
        except BaseException:
            self._stop()
            raise
        say(f"The mirror is process {self._process.pid}; its log is {self._log}")
        return self

    def __exit__(self, *_: object) -> None:
        say(f"The mirror ended with exit code {self._stop()}")

    def check(self) -> None:
        """Raise TroubleError where the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise TroubleError(f"The mirror ended with exit code {code}. {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return "\n  ".join(["The last lines of its log:", *lines]) if lines else "Its log is empty."

    def _consumes(self) -> bool:
        return '"consuming"' in self._log.read_text(errors="replace")

    def _stop(self) -> int:
        self._process.terminate()
        try:
            return self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def wait_for(
    condition: Callable[[], bool],
    what: str,
    mirror: Mirror,
    *,
    progress: Callable[[], object] = lambda: None,
    every: float = 0.01,
) -> None:
    """Return once the condition holds; TroubleError where the mirror ends, or `progress` stands still for PATIENCE.

    `every`: seconds between two looks.
    """
    last, since = progress(), time.monotonic()
    while not condition():
        mirror.check()
        now = progress()
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > PATIENCE:
            raise TroubleError(f"Waited {PATIENCE:.0f} s for {what}, in vain. {mirror.last_words()}")
        time.sleep(every)
    progress()


def say(text: str = "") -> None:
    """One line for the reader."""
    print(text, flush=True)


def title(text: str) -> None:
    """The beginning of a chapter."""
    say(f"\n== {text}")


def show_file(path: Path) -> None:
    """All of a file."""
    say(f"  {path}")
    for line in path.read_text(encoding="utf-8").splitlines():
        say(f"    {line}")


def show_difference(before: str, after: str) -> None:
    """The lines that differ."""
    for line in list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]:
        if not line.startswith("@@"):
            say(f"    {line}")


class Progress:
    """`with Progress("countries", 249) as show: show(17)`: a line that counts up, and one that stays in the end."""

    def __init__(self, name: str, total: int) -> None:
        self._name = name
        self._total = total
        self._done = 0
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int) -> int:
        """So many are done, which it gives back."""
        self._done = done
        if sys.stdout.isatty():
            print(f"\r\x1b[K{self._line()} ...", end="", flush=True)
        elif time.monotonic() - self._shown > _PROGRESS_LINE:
            self._shown = time.monotonic()
            say(f"{self._line()} ...")
        return done

    def __exit__(self, *_: object) -> None:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        say(f"{self._line()} in {time.monotonic() - self._started:.1f} s")

    def _line(self) -> str:
        return f"  {self._name}: {self._done} of {self._total}"
