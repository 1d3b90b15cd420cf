"""The end of `make demo ARGS=--look`: the pages in a browser, while records go on changing until Ctrl-C."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

import eventbus
from examples import atlas
from examples.stage import Mirror, TroubleError, say, title

_PAUSE = 0.5
_PATIENCE = 30.0
_READY = "look at it: "
_PEOPLE = ("ann", "bob", "carla")


def look(factory: sessionmaker[Session], mirror: Mirror, data_dir: Path, log: Path) -> None:
    """Serve the pages and change a country twice a second. Ctrl-C ends it, and the demo goes on to its end."""
    title("The pages, in a browser")
    with _pages(data_dir, log) as address:
        say(f"  {_READY}{address}, and {address}/live for the changes. Ctrl-C ends it.")
        try:
            while True:
                mirror.check()
                with eventbus.acting_as(random.choice(_PEOPLE)), factory.begin() as session:  # noqa: S311  no secret
                    _change(session)
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            say("\n  Enough seen.")


def _change(session: Session) -> None:
    countries = list(session.scalars(select(atlas.Country).order_by(atlas.Country.alpha_2)))
    country = random.choice(countries)  # noqa: S311  no secret
    country.name = f"{country.name.partition(',')[0]}, seen at {time.strftime('%H:%M:%S')}"


@contextmanager
def _pages(data_dir: Path, log: Path) -> Iterator[str]:
    """`eventbus web` as a process of its own; gives its address."""
    command = [sys.executable, "-m", "eventbus", "web", "--data-dir", str(data_dir), "--port", "0"]
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, start_new_session=True)
    try:
        yield _address(process, log)
    finally:
        process.terminate()
        process.wait(_PATIENCE)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while _READY not in (said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > end:
            raise TroubleError(f"The pages did not start. Their log is {log}:\n{said[-2000:]}")
        time.sleep(0.05)
    return said.partition(_READY)[2].split()[0]
