"""A Prometheus of the test's own, with the rules of this project at another pace."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.support.committing import eventually
from tests.support.lacking import program
from tests.support.nodes.base import free_port

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "alerts/eventbus.rules.yml"
_CONFIGURATION: Final = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
{jobs}
"""
_JOB: Final = "  - {{job_name: {name}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}"


def hastened(rules: str) -> str:
    """The rules with every minute made a second: windows, patience, and the limits that are seconds."""
    shorter = re.sub(r"\b(\d+)m\b", r"\1s", rules)
    return re.sub(r"> (60|300)$", lambda limit: f"> {int(limit[1]) // 60}", shorter, flags=re.MULTILINE)


class Prometheus:
    """Scrapes these ports, each a job, once a second. It is ended with the block."""

    def __init__(self, directory: Path, jobs: Mapping[str, int], patience: float) -> None:
        self._patience = patience
        self._port = free_port()
        rules, configuration = directory / "rules.yml", directory / "prometheus.yml"
        rules.write_text(hastened(RULES.read_text()))
        listed = "\n".join(_JOB.format(name=name, port=port) for name, port in jobs.items())
        configuration.write_text(_CONFIGURATION.format(rules=rules, jobs=listed))
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                program("prometheus", "prometheus"),
                f"--config.file={configuration}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def __enter__(self) -> Self:
        eventually(self._answers, self._patience)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def value(self, expression: str) -> float | None:
        """What PromQL says now; None where there is nothing."""
        result = self._ask("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        """The names of the alarms that fire."""
        return {each["labels"]["alertname"] for each in self._ask("alerts")["alerts"] if each["state"] == "firing"}

    def will_say(self, expression: str, wanted: float) -> None:
        """Return once the expression has this value."""
        try:
            eventually(lambda: self.value(expression) == wanted, self._patience)
        except AssertionError:
            assert self.value(expression) == wanted, expression
            raise

    def will_fire(self, *alarms: str) -> None:
        """Return once all of them fire."""
        self._until(lambda: set(alarms) - self.firing())

    def will_resolve(self, *alarms: str) -> None:
        """Return once none of them fires."""
        self._until(lambda: set(alarms) & self.firing())

    def _until(self, wrong: Callable[[], set[str]]) -> None:
        """Return once nothing is wrong any more; else say what still is."""
        try:
            eventually(lambda: not wrong(), self._patience)
        except AssertionError:
            assert wrong() == set()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, "Prometheus has ended"
        try:
            self._ask("query", query="up")
        except URLError:
            return False
        return True

    def _ask(self, what: str, **parameters: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self._port}/api/v1/{what}?{urlencode(parameters)}", timeout=30) as answer:
            return cast("dict[str, Any]", json.load(answer))["data"]
