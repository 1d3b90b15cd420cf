"""Erasures that are killed: `python -m tests.faults.history_erasures --rounds 50`.

In a mirror's directory with history and repository records are erased, and `erase` is killed with -9 at any moment, and
run again until it succeeds. What an earlier killed mirror or git has left lies there as well. In the end no byte of
the record is in any file, nor in any object of git, and no file is in the repository that git does not know.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from consumers.base import DONE
from tests.support.histories import Event, make_commits, mirror, take_journal

_FIRST: Final = 1_700_000_000_000_000
_KNOWN: Final = re.compile(
    r"pack-[0-9a-f]{40}\.(pack|idx|rev|bitmap)|multi-pack-index|commit-graph-chain|graph-.*|packs"
)


@dataclass
class Outcome:
    """`wrong` is empty where nothing was left."""

    erased: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)


def marker(number: int) -> str:
    """A text that nothing but this record's versions hold."""
    return f"marker-of-{number:04d}-zz"


def made(home: Path, chance: random.Random, records: int) -> None:
    """A mirror's directory in which so many records were made, changed and deleted; some events wait in the journal."""
    events: list[Event] = []
    for version in range(records * 6):
        number = version if version < records else chance.randrange(records)
        op = "c" if version < records else "d" if chance.random() < 0.05 else "u"
        fields = {"id": number, "name": f"{marker(number)} {version} {'long ' * chance.randrange(60)}"}
        size = 2 if version > records * 6 - 5 else 1
        events.append(
            Event(f"t{version}", number, _FIRST + version, op, None if op == "d" else fields, ["name"], size=size)
        )
    _mirror(home, events)
    _history(home)


def _mirror(home: Path, events: list[Event]) -> None:
    assert mirror(home, events) == [DONE] * len(events)


def _history(home: Path) -> None:
    take_journal(home)
    make_commits(home)


def leftovers(home: Path, number: int) -> None:
    """What those who were killed leave: a mirror, git that joins packs, git that writes a setting."""
    private = home / ".eventbus"
    (private / "making").mkdir(exist_ok=True)
    (private / "making" / "1f-1").write_text(marker(number))
    git = private / "history.git"
    packs = sorted((git / "objects/pack").glob("*.pack"))
    shutil.copy(packs[0], git / "objects/pack" / f".tmp-77-{packs[0].name}")
    shutil.copy(packs[0], git / "objects/pack/tmp_pack_Ab12Cd")
    (git / "objects/pack/tmp_history").write_text(marker(number))
    (git / "config.lock").write_text(marker(number))


def traces(home: Path, number: int) -> list[str]:
    """Where anything of the record is."""
    wanted = marker(number).encode()
    found = [str(each) for each in home.rglob("*") if each.is_file() and wanted in each.read_bytes()]
    git = home / ".eventbus" / "history.git"
    found += [f"unknown {each}" for each in git.glob("objects/*/*") if _is_unknown(each)]
    listed = subprocess.run(
        ["git", "-C", git, "cat-file", "--batch", "--batch-all-objects"], capture_output=True, check=True
    )
    if wanted in listed.stdout or f"contact {number} (".encode() in listed.stdout:
        found.append("an object of git")
    return found


def _is_unknown(path: Path) -> bool:
    return not _KNOWN.fullmatch(path.name) and path.name != "commit-graphs"


def erase(home: Path, variables: Mapping[str, str], number: int, after: float | None) -> bool:
    """Erase it, killed after so many seconds; whether it came to its end."""
    command = [sys.executable, "-m", "consumers.history", "erase", "crm.contact", str(number), "--yes"]
    with (home.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False
    assert code == 0, (home.parent / "log").read_text()[-2000:]
    return True


def erase_in_a_loop(home: Path, rounds: int, seed: int = 1) -> Outcome:
    """Erase one record after the other."""
    chance = random.Random(seed)
    told = Outcome()
    data = home / "data"
    made(data, chance, 40)
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")},
        "EVENTBUS_URL": f"sqlite:///{home}/broker.db",
        "EVENTBUS_HISTORY": "git",
        "DATA_DIR": str(data),
    }
    began = time.monotonic()
    assert erase(data, variables, 39, None)
    takes = time.monotonic() - began
    numbers = chance.sample(range(39), 39)
    for _ in range(rounds):
        if not numbers:
            shutil.rmtree(data)
            made(data, chance, 40)
            numbers = chance.sample(range(39), 39)
        number = numbers.pop()
        if not traces(data, number):
            told.wrong.append(f"{number}: there was nothing to erase")
        leftovers(data, number)
        longest = 0.9
        while not erase(data, variables, number, chance.uniform(0.4, longest) * takes):
            told.kills += 1
            longest += 0.2  # the first try is nearly always killed, and one of the next comes to its end
        told.erased += 1
        told.wrong += [f"{number}: {each}" for each in traces(data, number)]
    verified = subprocess.run(
        [sys.executable, "-m", "consumers.history", "verify", "--git"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if verified.stdout != "the history is whole\n":
        told.wrong.append(verified.stdout + verified.stderr)
    return told


@click.command()
@click.option("--rounds", default=50)
@click.option("--seed", default=lambda: random.randrange(1 << 30), type=int)
def main(rounds: int, seed: int) -> None:
    """Erase, kill, look."""
    home = Path(tempfile.mkdtemp(prefix="eventbus-erasures-"))
    click.echo(f"seed {seed}, {home}")
    outcome = erase_in_a_loop(home, rounds, seed)
    click.echo(str(outcome))
    if outcome.wrong:
        raise SystemExit(1)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
