"""A pytest plugin (`-p guest_outcomes`): which tests failed goes to a file; only tests of a list are run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

RESULT, ONLY = "EVENTBUS_GUEST_RESULT", "EVENTBUS_GUEST_ONLY"
"""Environment: the file to write (a line a test: what became of it, its id), and one with ids of the tests to run."""
_ORDER: Final = ("failed", "skipped", "passed")


class _Outcomes:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of set-up, call and teardown the worst counts."""
        worst = min(self._found.get(report.nodeid, "passed"), report.outcome, key=_ORDER.index)
        self._found[report.nodeid] = worst

    def pytest_sessionfinish(self) -> None:
        self._path.write_text("".join(f"{outcome} {name}\n" for name, outcome in sorted(self._found.items())))


def pytest_configure(config: pytest.Config) -> None:
    """Only where the reports of all workers come together."""
    if RESULT in os.environ and "PYTEST_XDIST_WORKER" not in os.environ:
        config.pluginmanager.register(_Outcomes(Path(os.environ[RESULT])))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if ONLY in os.environ:
        wanted = set(Path(os.environ[ONLY]).read_text().splitlines())
        items[:] = [item for item in items if item.nodeid in wanted]
