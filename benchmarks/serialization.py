"""One row of 13 columns to JSON bytes: by hand, by marshmallow, by DeepFriedMarshmallow, and by eventbus.

    python -m benchmarks.serialization [--rounds 300] [--rows 100]

All start from the same captured values (marshmallow: from an object that has them) and end in the same bytes, which is
checked first; DeepFriedMarshmallow takes part if it is installed. They take turns of `--rows` rows, in an order that
changes every round, and what is shown is the median of the rounds: on a busy machine compare the ratios.
"""

from __future__ import annotations

import argparse
import datetime as dt
import decimal
import gc
import importlib
import random
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks import figures
from eventbus.records.entities import Entities

Contender = Callable[[Sequence[Any]], bytes]


class Base(DeclarativeBase):
    """The benchmark's models."""


class Contact(Base):
    """13 columns of the usual kinds."""

    __tablename__ = "contact"
    id: Mapped[str] = mapped_column(primary_key=True)
    first_name: Mapped[str]
    last_name: Mapped[str]
    email: Mapped[str | None]
    phone: Mapped[str | None]
    active: Mapped[bool]
    visits: Mapped[int]
    balance: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2))
    rating: Mapped[float]
    born: Mapped[dt.date]
    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]
    company_id: Mapped[str | None]


def rows(count: int) -> list[tuple[Any, ...]]:
    """Rows as a session holds them after a flush."""
    started = dt.datetime(2026, 11, 23, 8, 0, 0, 123456)  # noqa: DTZ001 - a naive column
    return [
        (
            f"c{number:07}",
            "Émile",
            "Dupont",
            f"emile.{number}@example.org",
            None if number % 3 else "+32 2 555 12 34",
            number % 2 == 0,
            number,
            decimal.Decimal(number).scaleb(-2),
            number / 7,
            dt.date(1980, 5, 1 + number % 28),
            started,
            started + dt.timedelta(seconds=number),
            f"k{number:05}" if number % 5 else None,
        )
        for number in range(count)
    ]


def by_hand(values: Sequence[Any]) -> bytes:
    """What somebody would write who knows every column and trusts every value."""
    key, first, last, email, phone, active, visits, balance, rating, born, created, updated, company = values
    return orjson.dumps(
        {
            "id": key,
            "first_name": first,
            "last_name": last,
            "email": email,
            "phone": phone,
            "active": active,
            "visits": visits,
            "balance": str(balance),
            "rating": rating,
            "born": born,
            "created_at": created,
            "updated_at": updated,
            "company_id": company,
        }
    )


def contenders() -> dict[str, Contender]:
    """Name to what makes the bytes of a row."""
    entity = Entities("bench").for_mapper(sa.inspect(Contact))
    if entity is None:
        raise SystemExit("the benchmark's model is not an entity")
    serializer = entity.serializer(sa.make_url("postgresql://").get_dialect()())
    keys = entity.keys

    def marshmallow(schema: Any) -> Contender:
        return lambda values: orjson.dumps(schema.dump(SimpleNamespace(**dict(zip(keys, values, strict=True)))))

    found: dict[str, Contender] = {
        "by hand": by_hand,
        "eventbus": lambda values: orjson.dumps(serializer.after(values)),
        "marshmallow": marshmallow(serializer.schema),
    }
    try:
        jit: Any = importlib.import_module("deepfriedmarshmallow")
    except ImportError:
        return found
    schema = entity.serializer(sa.make_url("mysql://").get_dialect()()).schema
    jit.deep_fry_schema_object(schema)
    found["DeepFriedMarshmallow"] = marshmallow(schema)
    return found


def measure(entrants: dict[str, Contender], rounds: int, count: int) -> dict[str, float]:
    """Median microseconds a row."""
    batch = rows(count)
    times: dict[str, list[float]] = {name: [] for name in entrants}
    order = list(entrants)
    gc.disable()
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            contender = entrants[name]
            started = time.perf_counter()
            for values in batch:
                contender(values)
            times[name].append((time.perf_counter() - started) / count * 1e6)
        gc.collect()
    gc.enable()
    return {name: statistics.median(taken) for name, taken in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Check that all say the same, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rows", type=int, default=100, help="rows a turn")
    options = parser.parse_args(argv)
    entrants = contenders()
    for values in rows(100):
        said = {contender(values) for contender in entrants.values()}
        if len(said) != 1:
            raise SystemExit(f"the contenders do not agree: {said}")
    taken = measure(entrants, options.rounds, options.rows)
    for name, microseconds in sorted(taken.items(), key=lambda item: item[1]):
        figures.note(f"serialization/{name}", microseconds, "µs a row")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
