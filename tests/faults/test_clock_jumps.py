"""Clocks that jump, back and forth: versions rise all the same, mirrors follow, and nothing waits for them."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson
import pytest

from eventbus.outbox import Store
from eventbus.outbox.reading.parked_rows import ParkedRow
from tests.support.committing import Committer, committing
from tests.support.lacking import lacking

HOURS = ("+0", "-1", "+2", "+1", "-25", "+0")


@pytest.fixture
def jumping(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a process whose clock is off by what stands in the file `offset`; monotonic clocks are not."""
    found = glob.glob("/usr/lib/*/faketime/libfaketime*MT.so.1")
    if not found:
        lacking("libfaketime", "faketime")
    offset = tmp_path / "offset"
    offset.write_text("+0h\n")
    settings = {"FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return {**os.environ, "LD_PRELOAD": found[0], **settings, "EVENTBUS_URL": f"sqlite:///{tmp_path}/broker.sqlite3"}


def run(environment: Mapping[str, str], *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mirrors_clock", ["+0h", "-1h", "+48h"])
def test_a_clock_that_jumps_back_and_forth_loses_no_change(
    jumping: Mapping[str, str], mirrors_clock: str, tmp_path: Path
) -> None:
    urls = f"sqlite:///{tmp_path}/app.sqlite3", jumping["EVENTBUS_URL"]
    offset = jumping["FAKETIME_TIMESTAMP_FILE"]
    said = [float(line) for line in run(jumping, "tests.faults.clock_service", *urls, offset, *HOURS).split()]
    assert said[1] < said[0] - 3500, "the clock does not jump: this tests nothing"
    Path(offset).write_text(f"{mirrors_clock}\n")
    run(jumping, "consumers.json_mirror", "--data-dir", str(tmp_path / "data"), "--drain")
    document = orjson.loads((tmp_path / "data/crm/clock/1.json").read_bytes())
    assert document["fields"]["jumps"] == len(HOURS) - 1


def test_what_a_clock_two_days_ahead_has_written_is_refused_until_the_bound_is_raised(
    jumping: Mapping[str, str], tmp_path: Path
) -> None:
    """docs/guarantees.md, "The clock jumps", says what to do."""
    urls = f"sqlite:///{tmp_path}/app.sqlite3", jumping["EVENTBUS_URL"]
    run(jumping, "tests.faults.clock_service", *urls, jumping["FAKETIME_TIMESTAMP_FILE"], "+0", "+48", "+0")
    mirror = "consumers.json_mirror", "--data-dir", str(tmp_path / "data"), "--drain"
    run(jumping, *mirror)
    path = tmp_path / "data/crm/clock/1.json"
    assert orjson.loads(path.read_bytes())["fields"]["jumps"] == 0
    assert "version is too far ahead of the clock" in run(jumping, "consumers.dead_letters", "list")
    raised = {**jumping, "EVENTBUS_MAX_VERSION_AHEAD": "0"}
    run(raised, "consumers.dead_letters", "retry", "--all", "--distrusted")
    run(raised, *mirror)
    assert orjson.loads(path.read_bytes())["fields"]["jumps"] == 2


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Committer]:
    with committing(f"sqlite:///{tmp_path / 'app.sqlite3'}") as committer:
        yield committer


@pytest.mark.parametrize(("jump", "due"), [(0, False), (-3600, True), (-30, False), (3600, True)])
def test_parked_rows_do_not_wait_for_a_clock_that_was_put_back(app: Committer, jump: int, due: bool) -> None:
    """They are tried within the minute, as without it; a clock that is a little off tries none too early."""
    second = 1_000_000
    now = time.time_ns() // 1000
    store = Store(app.engine)
    app.commit()
    store.parked.add([ParkedRow(7, now, now, now + 60 * second, 1, "unroutable", b"{}")])
    then = now + jump * second
    assert bool(store.parked.claim(then, then + 60 * second)) is due
    store.close()
