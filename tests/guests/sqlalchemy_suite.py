"""SQLAlchemy's own tests of the ORM, bare and with the bus on every Session: what fails only with the bus?

    python -m tests.guests.sqlalchemy_suite                            # test/orm and test/ext: some 20 minutes
    python -m tests.guests.sqlalchemy_suite test/orm/dml -n 2
    python -m tests.guests.sqlalchemy_suite --environment sqlalchemy-2.0

The tests come from the source package of the SQLAlchemy that is installed, here or in a guest's environment. Three
runs: all with the bus; bare what fails there; and what passes bare once more with the bus, without SQLAlchemy's
assertions about the SQL that was sent, since the bus sends statements of its own. What then still fails must be in
`sqlalchemy_differences`. Ends with 1 where it is not.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from tests.guests.environments import ENVIRONMENTS, python_of, version
from tests.guests.sqlalchemy_differences import DIFFERENCES
from tests.guests.suites import LOOSE, Suite, source

_OPTIONS: Final = ("-o", "addopts=", "-p", "no:logging", "-p", "no:cacheprovider", "--tb=short")


@dataclass(frozen=True)
class Comparison:
    """Ids of tests: all that were run, those that mind our SQL only, those with a reason, and those without."""

    run: int
    statements: Sequence[str]
    explained: Sequence[str]
    unexplained: Sequence[str]
    output: str


def compare(paths: Sequence[str], *, workers: int = 0, python: str = sys.executable) -> Comparison:
    """Run these files and directories of the suite, with the SQLAlchemy of this interpreter."""
    options = [*_OPTIONS, *(("-n", str(workers)) if workers else ())]
    suite = Suite(source("sqlalchemy", python), options, python)
    bus = suite.run(paths, bus=True)
    print(f"with the bus:  {bus}", flush=True)
    failed = [name for name, outcome in bus.of.items() if outcome == "failed"]
    bare = suite.run(_files(failed), bus=False, only=failed) if failed else bus
    differing = sorted(name for name in failed if bare.of.get(name) != "failed")
    print(f"of these bare: {len(failed) - len(differing)} fail", flush=True)
    again = suite.run(_files(differing), bus=True, only=differing, environment={LOOSE: "1"}) if differing else bus
    rest = [name for name in differing if again.of.get(name) == "failed"]
    unexplained = [name for name in rest if reason(name) is None]
    return Comparison(
        run=len(bus.of),
        statements=[name for name in differing if name not in rest],
        explained=[name for name in rest if name not in unexplained],
        unexplained=unexplained,
        output=again.output,
    )


def _files(names: Iterable[str]) -> list[str]:
    return sorted({name.partition("::")[0] for name in names})


def reason(name: str) -> str | None:
    """Why a test may differ, if the list knows it."""
    bare_name = name.partition("[")[0]
    for why, patterns in DIFFERENCES.items():
        if any(fnmatchcase(bare_name, f"*/{pattern}") for pattern in patterns):
            return why
    return None


def main(arguments: Iterable[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m tests.guests.sqlalchemy_suite", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", default=["test/orm", "test/ext"], help="default: test/orm test/ext")
    parser.add_argument("-n", dest="workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--environment", choices=ENVIRONMENTS, help="whose SQLAlchemy (default: the installed one)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    python = python_of(options.environment) if options.environment else sys.executable
    found = compare(options.paths, workers=options.workers, python=python)
    print(f"SQLAlchemy {version('sqlalchemy', python)}: {found.run} tests")
    print(f"{len(found.statements)} mind only the statements that the bus sends")
    for file, count in Counter(name.partition("::")[0] for name in found.statements).most_common():
        print(f"  {count:4} {file}")
    for name in found.explained:
        print(f"known    {name}: {reason(name)}")
    for name in found.unexplained:
        print(f"UNKNOWN  {name}")
    if found.unexplained:
        print(found.output)
    return 1 if found.unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
