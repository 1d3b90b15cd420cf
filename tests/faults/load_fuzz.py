"""Any file at all for `eventbus-loaddata`: `python -m tests.faults.load_fuzz --minutes 10`.

Hypothesis makes files of bytes, of damaged dumps and archives, of records with anything in a field's place, and of few
bytes that read as millions of values, packed or not, alone or in directories with links and FIFOs. A process of its own
loads them. What must hold: each load ends within 20 s in rows, or in a LoadError of short lines and no row at all;
memory never exceeds that of the start by more than 64 MiB, or 256 MiB where a record is a bomb of the largest size.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import click
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventbus.errors import LoadError
from eventbus.loaddata import loaddata

MOST_SECONDS: Final = 20.0
MOST_MEMORY: Final = 64 << 20
MOST_FOR_A_BOMB: Final = 256 << 20


class Base(DeclarativeBase):
    """What is loaded into."""


class Contact(Base):
    """A column of each usual kind."""

    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    size: Mapped[int | None] = mapped_column(sa.BigInteger)
    share: Mapped[float | None]
    price: Mapped[Any] = mapped_column(sa.Numeric(20, 2), nullable=True)
    data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    seen: Mapped[Any] = mapped_column(sa.DateTime, nullable=True)
    kept: Mapped[bool | None]


FIELDS: Final = ("id", "name", "size", "share", "price", "data", "seen", "kept")

# --- files ----------------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["x" * 300_000, "9" * 100_000, "1e999999999", "\x1b[2J", "2026-01-02T03:04:05", "\ud800", "\0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=6,
)
GOOD = {"model": "crm.contact", "pk": "a", "fields": {"name": "fine", "size": 1}}
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["crm.contact", "contact", "billing.contact", "crm.nope", 5]) | VALUES,
        "pk": st.text(max_size=5) | VALUES,
        "fields": st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), VALUES, max_size=4) | VALUES,
        "version": VALUES,
        "stub": VALUES,
    },
) | st.just(GOOD)


def as_lines(records: list[Any]) -> str:
    return "\n".join(map(json.dumps, records))


def as_objects(records: list[Any]) -> str:
    return "".join(json.dumps(record, indent=1) for record in records)


SHAPES: Final[list[Callable[[list[Any]], str]]] = [json.dumps, as_lines, as_objects]
DUMPS = st.builds(
    lambda records, shape: shape(records).encode(), st.lists(RECORDS, max_size=4), st.sampled_from(SHAPES)
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes replaced by others, or the end cut off."""
    start = draw(st.integers(0, len(whole)))
    end = draw(st.integers(start, len(whole)) | st.integers(start, min(len(whole), start + 20)))
    return whole[:start] + draw(st.binary(max_size=12)) + whole[end:]


@st.composite
def dense(draw: st.DrawFn) -> bytes:
    """Few bytes that are many values, or deep ones."""
    item = draw(st.sampled_from([b"[]", b"{}", b"1", b'""', b'"ab"', b'{"":0}', b'},{"model":{', b"[[[["]))
    count = draw(st.sampled_from([1, 1_000, 100_000]))
    levels = b"[" * draw(st.integers(0, 1_100))
    head = (
        draw(st.sampled_from([b"[", b"", b"[ \n", b"\xef\xbb\xbf "]))
        + b'{"model": "crm.contact", "pk": "a", "fields": '
    )
    closing = draw(st.sampled_from([b"}}]", b"", b"}", b"}}"]))
    return head + b'{"data": [' + levels + b",".join([item] * count) + levels.replace(b"[", b"]") + b"]" + closing


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.json", data)
        archive.writestr("../b.json", data)
    return made.getvalue()


PACKERS: Final[list[Callable[[bytes], bytes]]] = [
    bytes,
    gzip.compress,
    bz2.compress,
    lambda data: lzma.compress(data, preset=0),
    zipped,
]
PLAIN = st.binary(max_size=200) | DUMPS | DUMPS.flatmap(damaged) | dense()
PACKED = st.builds(lambda data, pack: pack(data), PLAIN, st.sampled_from(PACKERS))
FILES = PLAIN | PACKED | PACKED.flatmap(damaged)


@st.composite
def bombs(draw: st.DrawFn) -> bytes:
    """What goes on for 200 MiB once it is unpacked."""
    head = draw(st.sampled_from([b"[", b"", b'[{"model": "', b'{"model": "', b"[1", b'{"a": [']))
    more = draw(st.sampled_from([b"a", b" ", b"\n", b"\0", b"[", b",", b"1", b'\\"', b'{"a":', b"[],", b'},{"model":']))
    block = more * ((1 << 20) // len(more))
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb", compresslevel=1) as archive:
        archive.write(head)
        for _ in range(200):
            archive.write(block)
    return made.getvalue()


# --- the process that loads -----------------------------------------------------------------------------------------


def work() -> None:
    """Loads what it is told on standard input, a path a line, and answers with a line: rows, or the refusal."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    for line in sys.stdin:
        try:
            answer = {"loaded": loaddata(engine, [json.loads(line)], models=Base, service="crm").objects}
        except LoadError as error:
            answer = {"refused": str(error)}
        with engine.begin() as connection:
            rows = len(connection.execute(sa.select(Contact.id)).all())
            connection.execute(sa.delete(Contact))
        print(json.dumps({**answer, "rows": rows}), flush=True)


class Loader:
    """`with Loader() as loader`: the process; `check` has it load a file or directory."""

    def __init__(self) -> None:
        self.loaded = self.refused = 0
        self.most_memory = 0

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="eventbus-fuzz-"))
        self._errors = (self._directory / "errors").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        good = self._directory / "good.json"
        good.write_text(json.dumps([GOOD]))
        assert self._load(good)["rows"] == 1
        self._memory = self._measured()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process, self._errors:
            self._process.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """An empty directory."""
        made = Path(tempfile.mkdtemp(dir=self._directory))
        yield made
        shutil.rmtree(made)

    def check(self, path: Path, most_memory: int = MOST_MEMORY) -> None:
        """Load it; AssertionError with what does not hold."""
        answer = self._load(path)
        told = answer.get("refused")
        if told is None:
            self.loaded += 1
            assert answer["rows"] <= answer["loaded"], answer
        else:
            self.refused += 1
            assert answer["rows"] == 0, answer
            assert all(line.isprintable() for line in told.split("\n")), answer
            assert len(told) < 20_000, answer
        self.most_memory = max(self.most_memory, self._measured() - self._memory)
        assert self.most_memory <= most_memory, f"{self.most_memory >> 20} MiB more than at the start"

    def _load(self, path: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(MOST_SECONDS), "the load does not end"
        line = self._process.stdout.readline()
        if not line:
            told = self._ended()
            raise AssertionError(f"the process ended: {told}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> str:
        """What it said at last; another one takes its place, as a smaller example is looked for."""
        self._process.wait()
        self._errors.seek(0)
        told = self._errors.read()[-3_000:]
        self.__exit__(None, None, None)
        self.__enter__()
        return told

    def _measured(self) -> int:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def fuzz(loader: Loader, examples: int, number: int) -> None:
    """So many times a file, and a directory; a failure is told with the smallest one that shows it."""
    configure = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )

    @seed(number)
    @configure
    @given(FILES)
    def run_files(data: bytes) -> None:
        with loader.place() as place:
            (place / "dump").write_bytes(data)
            loader.check(place / "dump")

    @seed(number)
    @configure
    @given(st.lists(FILES, min_size=1, max_size=3), st.sampled_from(["", "fifo", "link", "loop", "bytes", "directory"]))
    def run_directories(files: list[bytes], planted: str) -> None:
        with loader.place() as place:
            for index, data in enumerate(files):
                (place / f"{index}.json").write_bytes(data)
            plant(planted, place)
            loader.check(place)

    run_files()
    run_directories()


def plant(kind: str, place: Path) -> None:
    """Something beside the files."""
    if kind == "fifo":
        os.mkfifo(place / "f.json")
    elif kind == "link":
        (place / "l.json").symlink_to("/dev/zero")
    elif kind == "loop":
        (place / "loop").symlink_to(place)
    elif kind == "bytes":
        Path(os.fsdecode(bytes(place) + b"/\xff.json")).write_bytes(b"[]")
    elif kind == "directory":
        (place / "d.json").mkdir()


def fuzz_bombs(loader: Loader, examples: int, number: int) -> None:
    """So many bombs."""

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(bombs())
    def run(data: bytes) -> None:
        with loader.place() as place:
            (place / "dump.json.gz").write_bytes(data)
            loader.check(place / "dump.json.gz", MOST_FOR_A_BOMB)

    run()


@click.command()
@click.option("--minutes", default=10.0)
@click.option("--seed", "first", type=int, default=lambda: random.randrange(1 << 30))
@click.option("--worker", is_flag=True, hidden=True)
def main(minutes: float, first: int, worker: bool) -> None:
    """Fuzz loads for some minutes."""
    if worker:
        work()
        return
    end = time.monotonic() + 60 * minutes
    number = first
    with Loader() as loader:
        while time.monotonic() < end - 6 * minutes:
            fuzz(loader, 100, number)
            number += 1
            click.echo(
                f"seed {number - 1}: {loader.loaded:,} loaded, {loader.refused:,} refused, "
                f"{loader.most_memory / (1 << 20):.0f} MiB above the start"
            )
        while time.monotonic() < end:
            fuzz_bombs(loader, 5, number)
            number += 1
        click.echo(f"and bombs: {loader.refused:,} refused, {loader.most_memory / (1 << 20):.0f} MiB above the start")


if __name__ == "__main__":
    main()
