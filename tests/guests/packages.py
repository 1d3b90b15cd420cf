"""Test suites of other people's packages, in environments of their own, bare and with the bus on every Session.

    python -m tests.guests.packages optuna sqlalchemy_utils

Each guest's environment and source are made in the cache at the first run. Ends with 1 where a test ended otherwise
with the bus and no reason is known. The processor's seconds of both runs stand beside each other. Tests that need a
server of the guest's own fail in both runs.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tests.guests.environments import python_of, version
from tests.guests.suites import Suite, only_with_the_bus, source


@dataclass(frozen=True)
class Guest:
    """A package, its environment, which of its tests are run, and which may differ, with the reason."""

    package: str
    paths: Sequence[str]
    options: Sequence[str] = ()
    differences: Mapping[str, str] = field(default_factory=dict)
    environment: str = ""
    """Where none is named, the one of the package's name."""

    def reason(self, name: str) -> str | None:
        return next((why for pattern, why in self.differences.items() if fnmatchcase(name, pattern)), None)


GUESTS: Final = {
    "optuna": Guest(
        "optuna",
        ("tests/storages_tests/test_storages.py", "tests/storages_tests/rdb_tests"),
        ("-k", "rdb or sqlite"),
        {"*::test_upgrade_*": "migrations have old models of their own, of the names and tables of the present ones"},
        environment="optuna-suite",
    ),
    "sqlalchemy_utils": Guest(
        "sqlalchemy-utils",
        ("tests",),
    ),
    "advanced_alchemy": Guest(
        "advanced-alchemy",
        ("tests/integration/test_repository.py",),
        ("-m", "sqlite or aiosqlite", "-o", "addopts="),
        environment="advanced-alchemy-suite",
    ),
}  # fmt: skip


def differing(name: str) -> list[str]:
    """Run one guest bare and with the bus; the ids of what ended otherwise and should not have."""
    guest = GUESTS[name]
    python = python_of(guest.environment or guest.package)
    options = ["-p", "no:cacheprovider", "--tb=short", *guest.options]
    suite = Suite(source(guest.package, python), options, python)
    bare, bus = suite.run(guest.paths, bus=False), suite.run(guest.paths, bus=True)
    times = f"{bus.seconds / bare.seconds:.2f} times"
    print(f"{guest.package} {version(guest.package, python)}: bare {bare}; with the bus {bus}, {times}", flush=True)
    found = only_with_the_bus(bare, bus)
    for each in found:
        print(f"  {each}: {guest.reason(each) or 'UNKNOWN'}")
    unknown = [each for each in found if guest.reason(each) is None]
    if unknown:
        print(bus.output)
    return unknown


def main(arguments: Iterable[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.guests.packages", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("guests", nargs="*", default=list(GUESTS), metavar="GUEST", help="default: all of %(default)s")
    options = parser.parse_args(None if arguments is None else list(arguments))
    unknown = [test for name in options.guests for test in differing(name)]
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
