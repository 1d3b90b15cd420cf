"""Loading a dump: eventbus-loaddata against orjson and SQLAlchemy Core by hand, and Django's loaddata if installed.

    python -m benchmarks.loaddata [--rows 20000] [--rounds 5] [--database sqlite:///…]
    python -m benchmarks.loaddata --megabytes 200

The contenders load the same list of records (13 columns) into an empty table, in turns, in an order that changes; what
is shown is the median of the rounds. By hand: the whole file through orjson, one comprehension that converts what JSON
lacks, one INSERT in one transaction; it checks nothing and knows one model. With `--megabytes` a dump of that size is
loaded once by the command, in a process of its own, and that process's peak memory is shown beside that of a tenth.
"""

from __future__ import annotations

import argparse
import datetime as dt
import decimal
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks import figures
from eventbus.loaddata import loaddata

MOMENT = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
"""With its fraction of a second, which MariaDB keeps only where it is told to; a load refuses to cut it."""


class Base(DeclarativeBase):
    """The benchmark's models."""


class Contact(Base):
    """13 columns of the usual kinds."""

    __tablename__ = "bench_contact"
    id: Mapped[str] = mapped_column(sa.String(40), primary_key=True)
    first_name: Mapped[str] = mapped_column(sa.String(80))
    last_name: Mapped[str] = mapped_column(sa.String(80))
    email: Mapped[str | None] = mapped_column(sa.String(80))
    phone: Mapped[str | None] = mapped_column(sa.String(80))
    active: Mapped[bool]
    visits: Mapped[int]
    balance: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2))
    rating: Mapped[float]
    born: Mapped[dt.date]
    created_at: Mapped[dt.datetime] = mapped_column(MOMENT)
    updated_at: Mapped[dt.datetime] = mapped_column(MOMENT)
    company_id: Mapped[str | None] = mapped_column(sa.String(40))


def record(number: int) -> dict[str, Any]:
    """A record as eventbus-dumpdata writes it."""
    fields = {
        "active": number % 2 == 0,
        "balance": f"{number % 10_000}.50",
        "born": "1980-05-17",
        "company_id": f"k{number:05}" if number % 5 else None,
        "created_at": "2026-11-23T08:00:00.123456",
        "email": f"emile.{number}@example.org",
        "first_name": "Émile",
        "id": f"c{number:07}",
        "last_name": "Dupont",
        "phone": None if number % 3 else "+32 2 555 12 34",
        "rating": number / 8,
        "updated_at": "2026-11-23T09:00:00",
        "visits": number,
    }
    return {"fields": fields, "model": "bench.contact", "pk": fields["id"]}


def ours(engine: sa.Engine, path: Path) -> None:
    """The product."""
    loaddata(engine, [path], models=Base)


def by_hand(engine: sa.Engine, path: Path) -> None:
    """What somebody would write for one model in a file that fits into memory."""
    moment, day = dt.datetime.fromisoformat, dt.date.fromisoformat
    rows = [
        {
            **fields,
            "balance": decimal.Decimal(fields["balance"]),
            "born": day(fields["born"]),
            "created_at": moment(fields["created_at"]),
            "updated_at": moment(fields["updated_at"]),
        }
        for fields in (each["fields"] for each in orjson.loads(path.read_bytes()))
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(Contact), rows)


def django(_engine: sa.Engine, path: Path) -> None:
    """Django's command on a model of the same columns, in a SQLite file beside the dump."""
    application = path.parent / "bench"
    application.mkdir(exist_ok=True)
    (application / "__init__.py").touch()
    (application / "models.py").write_text(_DJANGO_MODELS)
    script = _DJANGO.format(database=str(path.with_suffix(".django.db")), path=str(path))
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL, cwd=path.parent)


_DJANGO_MODELS = """
from django.db import models

def text():
    return models.CharField(max_length=80, null=True)

class Contact(models.Model):
    id = models.CharField(max_length=40, primary_key=True)
    first_name, last_name, email, phone, company_id = text(), text(), text(), text(), text()
    active, visits, rating = models.BooleanField(), models.IntegerField(), models.FloatField()
    balance, born = models.DecimalField(max_digits=10, decimal_places=2), models.DateField()
    created_at, updated_at = models.DateTimeField(), models.DateTimeField()
"""
_DJANGO = """
import django
from django.conf import settings

database = {{"ENGINE": "django.db.backends.sqlite3", "NAME": {database!r}}}
settings.configure(INSTALLED_APPS=["bench"], USE_TZ=False, DATABASES={{"default": database}})
django.setup()

from bench.models import Contact
from django.core.management import call_command
from django.db import connection

with connection.schema_editor() as editor:
    editor.create_model(Contact)
call_command("loaddata", {path!r}, verbosity=0)
"""


def measure(path: Path, url: str, rows: int, rounds: int) -> dict[str, list[float]]:
    """Rows a second of each round."""
    contenders: dict[str, Callable[[sa.Engine, Path], None]] = {"eventbus": ours, "orjson and Core": by_hand}
    if subprocess.run([sys.executable, "-c", "import django"], check=False, capture_output=True).returncode == 0:
        contenders["Django"] = django
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    engine = sa.create_engine(url)
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            Base.metadata.drop_all(engine)
            Base.metadata.create_all(engine)
            path.with_suffix(".django.db").unlink(missing_ok=True)
            started = time.perf_counter()
            contenders[name](engine, path)
            speeds[name].append(rows / (time.perf_counter() - started))
    Base.metadata.drop_all(engine)
    engine.dispose()
    return speeds


def write(path: Path, rows: int) -> None:
    """A list, one record a line, written as it is made."""
    with path.open("wb") as file:
        file.write(b"[\n")
        for number in range(rows):
            file.write(b"" if number == 0 else b",\n")
            file.write(orjson.dumps(record(number)))
        file.write(b"\n]\n")


def large(directory: Path, megabytes: int) -> None:
    """Load files of two sizes by the command; print time and peak memory of each."""
    for size in (megabytes / 10, megabytes):
        rows = int(size * 2**20 / len(orjson.dumps(record(1_000_000))))
        path, database = directory / "large.json", directory / "large.db"
        write(path, rows)
        database.unlink(missing_ok=True)
        engine = sa.create_engine(f"sqlite:///{database}")
        Base.metadata.create_all(engine)
        engine.dispose()
        command = [sys.executable, "-c", _CHILD, str(path), "-q", "--models", "benchmarks.loaddata:Base"]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, "--database", f"sqlite:///{database}"], check=True, capture_output=True, text=True
        )
        taken = time.perf_counter() - started
        title = f"loaddata/{path.stat().st_size / 2**20:.0f} MiB"
        figures.note(f"{title}/rows", rows / taken, "rows/s")
        figures.note(f"{title}/memory", int(done.stdout) / 2**10, "MiB")


_CHILD = """
import resource, sys
from eventbus.loaddata import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", help="default: a SQLite file in the temporary directory")
    parser.add_argument("--megabytes", type=int, help="load one large dump instead")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="eventbus-bench-") as temporary:
        directory = Path(temporary)
        if options.megabytes:
            large(directory, options.megabytes)
            return 0
        path = directory / "dump.json"
        write(path, options.rows)
        found = measure(path, options.database or f"sqlite:///{directory / 'bench.db'}", options.rows, options.rounds)
        for name, speeds in found.items():
            figures.note_median(f"loaddata/{name}", speeds, "rows/s")
        figures.note_ratio("loaddata/ratio", found["eventbus"], found["orjson and Core"])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
