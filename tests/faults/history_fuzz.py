"""A history that is spoilt on the disk: `python -m tests.faults.history_fuzz --minutes 10`.

Bytes of `history.sqlite3`, of the mirror's state with its journal, of their logs, and of git's packs, indexes, refs and
settings are flipped, cut, overwritten, or single values and rows are exchanged for others. Then all commands are run,
the historian and a mirror's start. What must hold: each ends with 0, 1 or 2 and says in words what is wrong; none ends
with a traceback, and none takes more than 20 s. Where the history is whole a repository is made anew of it, whatever is
wrong with the old one.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sqlite3
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import pytest

from consumers.history.command import command
from consumers.history.reading import events
from consumers.history.reading.history import History
from consumers.history.reading.moments import records
from eventbus.commands import run
from eventbus.errors import EventBusError
from tests.support.histories import Event, keep, mirror, take_journal

MOST_SECONDS: Final = 20.0
_FIRST: Final = 1_700_000_000_000_000
_GIT: Final = ("objects/pack/*.pack", "objects/pack/*.idx", "refs/heads/*", "packed-refs", "config", "HEAD")
_TABLES: Final = {
    "history.sqlite3": ("meta", "record", "tx", "change", "names", "waiting", "erased", "change", "record"),
    "state.sqlite3": ("meta", "entity", "record", "pending", "journal", "journal", "erased"),
}
_HARMLESS: Final = {
    "history.sqlite3": ("tx SET author = author || 'x'",),
    "state.sqlite3": ("journal SET time = time + 1", "record SET applied = applied + 1"),
}
_VALUES: Final = (
    *(None, 0, -1, 2**62, 1.5, "", "x", "{", "[]", "{}", "[1]", "null", '"a"', '{"a": 1}', '["a", 1]', "[[], null, 7]"),
    *(b"", b"\xff", b"{", b"[]", b"{}", b"[1]", b"7", b'{"id": 1}', b"x" * 16, b"[1, null, {}]", b'{"fields": []}'),
    *(b'[{}, ["a"], 3]', b"[{}, 1, null]", b'{"n": ["stale"]}', b'["crm.contact", {}]', b'["", 1]', b'["a.b.c", 1]'),
)


def made(home: Path) -> None:
    """A history of all kinds of things, with a repository and a state, whose journal has events still to be taken."""
    events = list(_events(random.Random(3)))
    for taken in (events[:100], events[100:]):
        mirror(home, taken)
        take_journal(home)
    assert _run(home, "erase", "crm.contact", "gone", "--yes") == 0
    assert _run(home, "erase", "--author", "nobody", "--yes") == 0
    half = [Event("t-half", pk, _FIRST + 10**5, "u", {"id": pk, "n": 8}, ["n"], size=3, author="u1") for pk in ("a", 7)]
    mirror(home, half)
    assert _run(home, "git") == 0


def _events(chance: random.Random) -> Iterator[Event]:
    there: dict[Any, int] = {}
    for number in range(160):
        pk: Any = chance.choice(("a", "a", "a", 7, ["b", 2], "é/ü", "x" * 40))
        name = str(pk)
        version = _FIRST + number * 10
        if number % 17 == 16 and name in there:
            version = there[name] - 5  # late: it goes in between
        op = "c" if name not in there else "d" if chance.random() < 0.1 else "u"
        there[name] = max(version, there.get(name, 0))
        fields = {"id": pk, "n": chance.randrange(3), "text": "long " * chance.randrange(60), "m": number}
        yield Event(
            f"01935c2e-0000-7000-8000-{number:012d}", pk, version, op, None if op == "d" else fields,
            changed=["m"] if number % 3 else ["n", "text", "m"], notes={"reason": "r"} if number % 9 == 0 else None,
            trace="00-1-2-03" if number % 5 == 0 else None, second=number / 4, author=f"u{number % 4}",
        )  # fmt: skip


def _asked(chance: random.Random) -> list[tuple[str, ...]]:
    key = chance.choice(("a", "7", '["b",2]', "é/ü"))
    number = f"#{chance.randrange(1, 160)}"
    questions: list[tuple[str, ...]] = [
        ("log",), ("log", "--json"), ("log", "crm.contact"), ("log", "crm.contact", key), ("log", "--author", "u1"),
        ("why", "crm.contact", key, "n"), ("why", "crm.contact", key, "m", "--all", "--json"), ("show", number),
        ("show", "01935c2e-0000-7000-8000-000000000012"), ("show", "01935c2e"), ("diff", "crm.contact", key),
        ("at", number), ("at", "2025-11-23T12:00:10Z", "crm.contact"), ("at", number, "crm.contact", key),
        ("restore", "crm.contact", key, "--at", number), ("path", "crm.contact", key), ("status",),
        ("status", "--json"), ("verify",), ("verify", "--git"), ("export", "--fast-import"),
    ]  # fmt: skip
    deeds: list[tuple[str, ...]] = [
        ("git",), ("git", "--fresh"), ("prune", "--older-than", "0"), ("erase", "crm.contact", key, "--yes"),
        ("erase", "--author", "u1", "--yes"),
    ]  # fmt: skip
    return [*chance.sample(questions, 9), *chance.sample(deeds, 2)]


def spoil(home: Path, chance: random.Random) -> str:
    """Damage something; what it was."""
    private = home / ".eventbus"
    name = chance.choice(tuple(_TABLES))
    manner = chance.choice((_value, _value, _row, _bytes, _bytes, _log))
    return _git(private, chance) if chance.random() < 0.2 else manner(private / name, chance)


def _value(path: Path, chance: random.Random) -> str:
    with contextlib.closing(sqlite3.connect(path)) as db:
        table = chance.choice(_TABLES[path.name])
        column = chance.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
        value = chance.choice(_VALUES)
        which = chance.choice(("1", "abs(random()) % 3 = 0", "abs(random()) % 40 = 0"))
        with contextlib.suppress(sqlite3.IntegrityError):
            db.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE {which}", (value,))
        db.commit()
    return f"{path.name}: {table}.{column} = {value!r} where {which}"


def _row(path: Path, chance: random.Random) -> str:
    with contextlib.closing(sqlite3.connect(path)) as db:
        table = chance.choice(_TABLES[path.name])
        db.execute(f"DELETE FROM {table} WHERE abs(random()) % ? = 0", (chance.choice((1, 3, 20)),))
        db.commit()
    return f"{path.name}: rows of {table} gone"


def _bytes(path: Path, chance: random.Random) -> str:
    return _damage(path, chance)


def _log(path: Path, chance: random.Random) -> str:
    """A log that a kill has left beside the file, and that is spoilt."""
    log, copy = Path(f"{path}-wal"), path.with_name("copy")
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_autocheckpoint = 0")
    for change in _HARMLESS[path.name]:
        db.execute(f"UPDATE {change}")
    db.commit()
    shutil.copy(log, copy)
    shutil.copy(path, f"{copy}-db")
    db.close()
    Path(f"{copy}-db").rename(path)
    copy.rename(log)
    return _damage(log, chance)


def _git(private: Path, chance: random.Random) -> str:
    found = sorted(each for pattern in _GIT for each in (private / "history.git").glob(pattern))
    return _damage(chance.choice(found), chance)


def _damage(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    path.chmod(0o644)
    manner = chance.choice(("flip", "flip", "overwrite", "zero", "cut", "swap", "gone"))
    at = chance.randrange(len(data) or 1)
    match manner:
        case "flip":
            for _ in range(chance.choice((1, 8, 100))):
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case "overwrite":
            data[at : at + 64] = chance.randbytes(64)
        case "zero":
            data[at : at + 4096] = bytes(min(4096, len(data) - at))
        case "cut":
            del data[at:]
        case "swap":
            first, second = (chance.randrange(0, len(data), 4096) for _ in range(2))
            data[first : first + 4096], data[second : second + 4096] = (
                data[second : second + 4096],
                data[first : first + 4096],
            )
        case "gone":
            path.unlink()
            return f"{path.name} gone"
    path.write_bytes(data)
    return f"{path.name} {manner} at {at}"


class _Out(io.TextIOWrapper):
    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace")


def _run(home: Path, *arguments: str) -> int:
    environment = {"DATA_DIR": str(home), "EVENTBUS_HISTORY": "git", "EVENTBUS_URL": f"sqlite:///{home}/broker.db"}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(_Out()),
        contextlib.redirect_stderr(_Out()),
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        return run(command, arguments, "eventbus history")


def _others(home: Path) -> None:
    """Those who read it beside the commands; and the historian."""
    path = home / ".eventbus" / "history.sqlite3"
    for act in (
        lambda: take_journal(home),
        lambda: mirror(home, [Event("t-more", "a", _FIRST + 2 * 10**6, "u", {"id": "a", "n": 7}, ["n"])]),
        lambda: list(records(home, position=80)),
        lambda: list(records(home, at="2025-11-23T12:00:20Z")),
        lambda: _told(path),
        lambda: keep(path, [Event("t-new", pk, _FIRST + 10**6, "u", {"id": pk, "n": 9}, ["n"]) for pk in ("a", 7)]),
        lambda: keep(path, [Event("t-late", pk, _FIRST + 705, "u", {"id": pk, "n": 9}, ["n"]) for pk in ("a", 7)]),
    ):
        with contextlib.suppress(EventBusError):
            act()


def _told(path: Path) -> None:
    with History(path) as history:
        list(events.told(history, 60))


class Fuzz:
    """Histories that are spoilt one after the other; `wrong` has what did not end in words."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.codes: Counter[int] = Counter()
        self.wrong: dict[str, str] = {}
        self.counted: Counter[str] = Counter()
        made(home / "whole")

    def once(self, seed: int) -> None:
        """Spoil one, and ask it everything."""
        chance = random.Random(seed)
        home = self._home / "spoilt"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(self._home / "whole", home)
        what = f"seed {seed}: {spoil(home, chance)}"
        for arguments in _asked(chance):
            with self._watched(f"{what}: {' '.join(arguments)}"):
                self.codes[_run(home, *arguments)] += 1
        with self._watched(f"{what}: others"):
            _others(home)
        if "history.sqlite3" in what:
            return
        with self._watched(f"{what}: at the end"):
            assert _run(home, "git", "--fresh") == 0
            assert _run(home, "verify", "--git") in ((0, 1) if "state.sqlite3" in what else (0,))

    @contextlib.contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001  what is looked for
            # The innermost frame of ours tells one kind from another.
            ours = [each for each in traceback.extract_tb(error.__traceback__) if "/consumers/" in each.filename]
            kind = f"{type(error).__name__} {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else "?"
            self.counted[kind] += 1
            self.wrong.setdefault(kind, f"{what}\n{traceback.format_exc(limit=-6)}")
        if time.monotonic() - began > MOST_SECONDS:
            self.wrong.setdefault(f"slow {what}", f"{time.monotonic() - began:.0f} s")


@click.command()
@click.option("--minutes", default=10.0)
@click.option("--seed", default=lambda: random.randrange(1 << 30), type=int)
def main(minutes: float, seed: int) -> None:
    """Spoil histories until the time is over."""
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory(prefix="eventbus-fuzz-") as home:
        fuzz, number = Fuzz(Path(home)), 0
        while time.monotonic() < end:
            fuzz.once(seed + number)
            number += 1
    for kind, what in fuzz.wrong.items():
        click.echo(f"{fuzz.counted[kind]} times {kind}: {what}")
    click.echo(f"seed {seed}: {number} histories, codes {dict(fuzz.codes)}, {len(fuzz.wrong)} kinds of wrong")
    click.echo(f"{threading.active_count()} threads")
    if fuzz.wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
