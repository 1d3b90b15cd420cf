"""Alarms and dashboard: they ask for figures that there are, and lead to a heading that says what to do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import sqlalchemy as sa
import yaml

from consumers.base.monitoring import Figures
from consumers.json_mirror.handling.standing import Standing
from eventbus import metrics
from eventbus.delivery.stats import Stats
from eventbus.relay.monitoring import Probe, pages
from tests.support.lacking import program

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "alerts/eventbus.rules.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "dashboards/eventbus.json").read_text())
NAME = re.compile(r"\beventbus_[a-z_]+")


class _Bus:
    """What `metrics.register` needs of a bus."""

    def watch(self, watcher: Any) -> None:
        watcher(Stats(), [0.1])


def shown() -> set[str]:
    """The names of all figures: of services, consumers, mirror and relay."""
    registry = prometheus_client.CollectorRegistry()
    metrics.register(_Bus(), registry)  # type: ignore[arg-type]
    observer = Figures(registry)
    observer.handled(1, 0.1)
    Standing(tuple).served(registry)
    text = prometheus_client.generate_latest(_without_troubles(registry)).decode()
    text += pages(Probe(), sa.create_engine("sqlite://"))["/metrics"]().body.decode()
    names = set(NAME.findall("\n".join(line for line in text.splitlines() if not line.startswith("#"))))
    return {name for name in names if not name.endswith("_created")} | {"eventbus_mirror_troubles"} | OUTBOX


OUTBOX = {"eventbus_outbox_rows", "eventbus_outbox_oldest_seconds", "eventbus_outbox_parked_rows"}
"""Shown where the database answers and has an outbox: tests/integration/test_outbox_census.py."""


def _without_troubles(registry: prometheus_client.CollectorRegistry) -> prometheus_client.CollectorRegistry:
    """A mirror that was never made has no troubles to count."""
    collectors = {names[0]: collector for collector, names in registry._collector_to_names.items()}
    registry.unregister(collectors["eventbus_mirror_troubles"])
    return registry


def asked_by_rules() -> set[str]:
    return {name for rule in RULES for name in NAME.findall(rule["expr"])}


def asked_by_dashboard() -> set[str]:
    return {name for panel in DASHBOARD["panels"] for each in panel["targets"] for name in NAME.findall(each["expr"])}


def test_alarms_and_dashboard_ask_for_figures_that_there_are() -> None:
    assert asked_by_rules() <= shown()
    assert asked_by_dashboard() <= shown()


def test_every_figure_is_on_the_dashboard() -> None:
    derived = ("_sum", "_count")  # of histograms, whose buckets are asked for
    assert {name for name in shown() if not name.endswith(derived)} == asked_by_dashboard()


def test_every_figure_is_documented() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    documented = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in shown()}
    assert {name for name in documented if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alarm_leads_to_a_heading_that_says_what_to_do(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()


def test_each_alarm_comes_with_its_fault_and_goes_with_it() -> None:
    command = [program("promtool", "prometheus"), "test", "rules", "eventbus.rules.test.yml"]
    done = subprocess.run(command, cwd=ROOT / "alerts", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_tested_with_and_without_its_fault() -> None:
    tests = yaml.safe_load((ROOT / "alerts/eventbus.rules.test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for rule in RULES:
        own = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == rule["alert"]]
        assert set(own) == {True, False}, rule["alert"]
