"""Other people's test suites in an environment of their own, bare and with the bus on every Session.

    python -m tests.guests.programs sqlalchemy_utils optuna

Each guest's environment and source are made in the cache at the first run. Ends with 1 where a test ended otherwise
with the bus and no reason is known. The seconds of both runs stand beside each other. Tests that need a server of the
guest's own fail in both runs.
"""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tests.guests.suites import ROOT, Suite, cache, only_with_the_bus, source


@dataclass(frozen=True)
class Guest:
    """Which of its tests are run, what they need beside the package, and which may differ, with the reason."""

    paths: Sequence[str]
    needs: Sequence[str] = ()
    differences: Mapping[str, str] = field(default_factory=dict)

    def reason(self, name: str) -> str | None:
        return next((why for pattern, why in self.differences.items() if fnmatchcase(name, pattern)), None)


GUESTS: Final = {
    "sqlalchemy_utils": Guest(
        paths=(
            "tests/aggregate", "tests/observes", "tests/relationships", "tests/generic_relationship",
            "tests/test_auto_delete_orphans.py", "tests/test_models.py", "tests/test_instant_defaults_listener.py",
        ),
    ),
    "optuna": Guest(
        paths=("tests/storages_tests/rdb_tests",),
        differences={
            "*::test_upgrade_*": "migrations have old models of their own, of the names and tables of the present ones",
        },
    ),
}  # fmt: skip


def python_of(name: str, guest: Guest) -> str:
    """The interpreter of the guest's environment."""
    place = cache() / "environments" / name
    python = str(place / "bin" / "python")
    if not (place / "made").exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        packages = ["--editable", str(ROOT), "pytest", name, *guest.needs]
        pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *packages], check=True)
        (place / "made").touch()
    return python


def differing(name: str) -> list[str]:
    """Run one guest bare and with the bus; the ids of what ended otherwise and should not have."""
    guest = GUESTS[name]
    python = python_of(name, guest)
    suite = Suite(source(name, python), ["-p", "no:cacheprovider", "--tb=short"], python)
    bare, bus = suite.run(guest.paths, bus=False), suite.run(guest.paths, bus=True)
    print(f"{name}: bare {bare}; with the bus {bus}, {bus.seconds / bare.seconds:.2f} times", flush=True)
    found = only_with_the_bus(bare, bus)
    for each in found:
        print(f"  {each}: {guest.reason(each) or 'UNKNOWN'}")
    unknown = [each for each in found if guest.reason(each) is None]
    if unknown:
        print(bus.output)
    return unknown


def main(arguments: Iterable[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.guests.programs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("guests", nargs="*", default=list(GUESTS), help="default: all of %(default)s")
    options = parser.parse_args(None if arguments is None else list(arguments))
    unknown = [test for name in options.guests for test in differing(name)]
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
