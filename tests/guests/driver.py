"""Runs one program of `uses` in its own environment, bare or with the bus, and prints as JSON what came of it.

    python -m tests.guests.driver optuna_study DIRECTORY [--bus]

With the bus on every Session the whole chain runs: outbox, embedded broker, mirror. At the end each row of the
program's tables is held against the mirror's files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine

from eventbus.bus import Bus
from eventbus.comparison.comparing import compare
from eventbus.comparison.difference import Difference
from eventbus.comparison.mirror import Place, opened
from eventbus.settings import Settings
from tests.guests.plugins.guest_bus import installed


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--bus", action="store_true")
    options = parser.parse_args()
    place = options.directory.resolve()
    os.chdir(place)
    program = import_module(f"tests.guests.uses.{options.program}")
    url = f"sqlite:///{place}/broker.sqlite3"
    bus = _installed(program, url) if options.bus else None
    begin = time.process_time()
    seen = [json.dumps(each, default=str, sort_keys=True) for each in program.use()]
    told: dict[str, Any] = {"seconds": time.process_time() - begin, "seen": seen}
    if bus is not None:
        told |= mirrored(bus, program, place, url)
    print(json.dumps(told))


def _installed(program: Any, url: str) -> Bus:
    return installed(settings=Settings(url=url, service="guest"), exclude=getattr(program, "EXCLUDE", ()))


def mirrored(bus: Bus, program: Any, place: Path, url: str) -> dict[str, Any]:
    """How many rows there are, and which differ from the mirror's files."""
    bus.close(60)
    files = place / "files"
    command = [sys.executable, "-m", "consumers.json_mirror", "--drain", "--url", url, "--data-dir", files]
    subprocess.run(command, check=True, stdout=sys.stderr)
    differences: list[Difference] = []
    engine = create_engine(program.DATABASE)
    with opened("files", Place(str(files))) as mirror:
        tally = compare(bus.entities, engine, mirror, models=program.MODELS, told=differences.append)
    engine.dispose()
    told = [f"{each.kind} {each.model}/{each.pk}: {', '.join(each.fields)}" for each in differences]
    unseen = getattr(program, "UNSEEN", {})
    known = {each: why for each in told for pattern, why in unseen.items() if fnmatchcase(each, pattern)}
    return {"rows": tally.objects, "differences": [each for each in told if each not in known], "known": known}


if __name__ == "__main__":
    main()
