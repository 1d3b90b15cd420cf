"""`benchmarks/results.json`: every figure of a run, and what it was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import orjson

from benchmarks.figures import Figure

FILE: Final = Path(__file__).with_name("results.json")
PEERS: Final = (
    "SQLAlchemy-Continuum", "crudcdc", "sqlalchemy-audit-trail", "pika", "DeepFriedMarshmallow", "Django",
)  # fmt: skip
PACKAGES: Final = (
    "sqlalchemy-eventbus", "SQLAlchemy", "kombu", "amqp", "marshmallow", "orjson", "psycopg", "PyMySQL", "redis", *PEERS
)  # fmt: skip


class Results:
    """The machine, and parts by name: `date`, `command`, `seconds`, `load` (processes that wanted the machine before it
    began), `is_complete`, and `figures` by name.
    """

    def __init__(self, machine: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> None:
        self.machine = dict(machine)
        self.parts = {name: dict(part) for name, part in parts.items()}

    @classmethod
    def load(cls, file: Path = FILE) -> Self:
        """What is there; nothing where there is no file."""
        if not file.exists():
            return cls({}, {})
        found = orjson.loads(file.read_bytes())
        return cls(found["machine"], found["parts"])

    def put(self, name: str, figures: Mapping[str, Figure], **about: Any) -> None:
        """A part in the place of an earlier one of its name."""
        self.parts[name] = {
            **about,
            "figures": {
                each: {key: value for key, value in asdict(figure).items() if value is not None}
                for each, figure in figures.items()
            },
        }

    def has(self, name: str) -> bool:
        """Whether the part was measured to its end."""
        return bool(self.parts.get(name, {}).get("is_complete"))

    def save(self, file: Path = FILE) -> None:
        """The whole, readable, from one instant to the next."""
        found = {"machine": self.machine, "parts": self.parts}
        new = file.with_suffix(".new")
        new.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
        new.replace(file)

    def __getitem__(self, name: str) -> Figure:
        for part in self.parts.values():
            if name in part["figures"]:
                return Figure(**part["figures"][name])
        raise KeyError(name)

    def get(self, name: str) -> Figure | None:
        """None where it was not measured."""
        try:
            return self[name]
        except KeyError:
            return None

    def under(self, beginning: str) -> Iterator[str]:
        """The names that begin so, in the order in which they were measured."""
        for part in self.parts.values():
            yield from (name for name in part["figures"] if name.startswith(beginning))


def machine(servers: Mapping[str, str]) -> dict[str, Any]:
    """This one, and the versions of what takes part."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "servers": {name: _short(version) for name, version in servers.items()},
        "packages": dict(sorted(_versions())),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _short(version: str) -> str:
    """`PostgreSQL 15.20 (Debian …) on …` is 15.20."""
    return next((word for word in version.replace("-", " ").split() if word[0].isdigit()), version)
