"""A companion is let finish what is to be done, told to end when there is hurry, and gone when `close` says so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.base.companion import Companion
from consumers.history import following
from consumers.history.settings import HistorySettings
from consumers.json_mirror.state import State

_SLOW = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: (Path("told").touch(), sys.exit()))
Path("begun").touch()
sys.stdin.buffer.read()
Path("alone").touch()
while not Path("enough").exists():
    time.sleep(0.01)
Path("done").touch()
"""
_LOCKED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from consumers.history.following import lock
from consumers.history.settings import HistorySettings
from consumers.json_mirror.errors import DirectoryLocked
sys.stdin.buffer.read()
end = time.monotonic() + 10
while not Path("done").exists() and time.monotonic() < end:
    try:
        with lock(HistorySettings(data_dir=Path({home!r}))):
            Path("done").touch()
    except DirectoryLocked:
        time.sleep(0.01)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "slow.py").write_text(_SLOW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(here: Path, module: str = "slow") -> Companion:
    companion = Companion("helper", module, [])
    assert companion.check() == ""
    if module == "slow":
        wait((here / "begun").exists)
    return companion


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_where_processors_are_short_whoever_watches_it_goes_first(here: Path) -> None:
    companion = started(here)
    assert companion._process is not None
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, companion._process.pid) == min(19, mine + 10)
    companion.close(0.0)


def test_it_finishes_what_is_to_be_done(here: Path) -> None:
    companion = started(here)
    threading.Thread(target=lambda: (wait((here / "alone").exists), (here / "enough").touch())).start()
    assert companion.close()
    assert (here / "done").exists()


def test_when_its_time_is_over_it_is_told_to_end_and_has_ended(here: Path) -> None:
    companion = started(here)
    assert companion.close(0.3)
    assert (here / "told").exists()
    assert not (here / "done").exists()


def test_hurry_is_heard_while_it_is_waited_for(here: Path) -> None:
    companion, hurry = started(here), threading.Event()
    threading.Thread(target=lambda: (wait((here / "alone").exists), hurry.set())).start()
    assert companion.close(hurry=hurry)
    assert (here / "told").exists()


def follow_alone(here: Path) -> None:
    """The historian over a journal that is begun, its mirror gone, until it has done all."""
    settings = HistorySettings(kind="git", data_dir=here)
    settings.private_dir.mkdir()
    with State(settings.state_file) as state:
        state.keep_journal(settings.history_file, 1 << 20)
    alone = threading.Event()
    alone.set()
    following.keep(settings, threading.Event(), alone)


def test_the_historian_ends_after_its_follower_and_awaits_it_without_the_lock(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "locked.py").write_text(_LOCKED.format(root=str(Path(following.__file__).parents[2]), home=str(here)))
    monkeypatch.setattr(following, "_companion", lambda _: Companion("follower", "locked", []))
    follow_alone(here)
    assert (here / "done").exists()


class _Behind:
    """A historian that has done all after three steps."""

    settling = 0.0
    steps = 0

    def __init__(self, *_: object) -> None:
        pass

    def step(self, _: float) -> bool:
        type(self).steps += 1
        return self.steps < 3


def test_the_follower_is_started_while_the_historian_is_behind_and_not_after_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "Historian", _Behind)
    looked: list[int] = []
    monkeypatch.setattr(Companion, "check", lambda _: looked.append(_Behind.steps) or "")
    follow_alone(here)
    assert looked[0] == 1
    assert looked[-1] == 3
