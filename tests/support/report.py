"""The last word of a test run: what ran against which service."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.support.discovery import KINDS
from tests.support.services import Services

_FIXTURES = {
    "rabbitmq": {"rabbitmq_url", "rabbitmq_remove", "private_rabbitmq"},
    "postgres": {"postgres_url", "postgres_db", "private_postgres"},
    "mariadb": {"mariadb_url", "mariadb_db", "private_mariadb"},
    "redis": {"redis_url", "private_redis"},
}


def services_of(item: pytest.Item) -> set[str]:
    """The services a test needs: by the fixtures it asks for, or by a parameter that names one (`[postgres]`)."""
    asked = set(getattr(item, "fixturenames", ()))
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    named = {value for value in parameters if isinstance(value, str)}
    return {kind for kind in KINDS if asked & _FIXTURES[kind] or kind in named}


class ServiceReport:
    """A pytest plugin: marks tests by the services they need, counts their outcomes, prints a section at the end.

    Where pytest-xdist shares the tests out, the workers find the services and tell the one that reports.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._told: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self._outcomes: Counter[tuple[str, str]] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Before `-m` selects."""
        for item in items:
            for kind in services_of(item):
                item.add_marker(kind)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by the set-up that kept it from being called."""
        if report.when == "call" or (report.when == "setup" and not report.passed):
            for kind in KINDS:
                if kind in report.keywords:
                    self._outcomes[kind, report.outcome] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """In a worker: hand over where the services were found."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["services"] = {kind: str(it) for kind, it in self._services.found().items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker has ended; one that crashed has told nothing."""
        for kind, where in getattr(node, "workeroutput", {}).get("services", {}).items():
            self._told[kind].add(where)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line a service."""
        terminalreporter.section("services")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """`rabbitmq: local server 3.10.8 at 127.0.0.1:5672, 41 tests passed`."""
        return [f"{kind}: {self._where(kind)}, {self._count(kind)}" for kind in KINDS]

    def _where(self, kind: str) -> str:
        found = self._services.found()
        where = self._told[kind] | ({str(found[kind])} if kind in found else set())
        return " and ".join(sorted(where)) or ("nodes of the tests' own" if self._total(kind) else "not needed")

    def _count(self, kind: str) -> str:
        if not self._total(kind):
            return "no tests"
        counts = [(self._outcomes[kind, outcome], outcome) for outcome in ("passed", "failed", "skipped")]
        return ", ".join(f"{count} test{'s' * (count != 1)} {outcome}" for count, outcome in counts if count)

    def _total(self, kind: str) -> int:
        return sum(count for (counted, _), count in self._outcomes.items() if counted == kind)
