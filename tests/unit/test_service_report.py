"""A missing service skips on a laptop and fails in CI; the last lines say what ran against which server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nodes.redis import RedisNode

ROOT = Path(__file__).parents[2]
NOWHERE = "redis://127.0.0.1:1/0"
TESTS = """
def test_uses_redis(redis_url):
    assert redis_url

def test_starts_its_own(private_redis):
    node = private_redis()
    node.kill()
    node.start()

def test_needs_nothing(unique):
    assert unique.isalnum()
"""
NOTHING_FOUND = """
import os, pytest
from tests.support import services, containers
from tests.support.discovery import Unavailable

def no_engine(*_):
    raise Unavailable("no engine")

class NoNode:
    def __init__(self):
        raise Unavailable("not installed")

services.LOCAL = {"redis": "redis://127.0.0.1:1/0"}
services._NODES = {"redis": NoNode}
containers.start = no_engine
"""


def run_pytest(directory: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """Exit code and output of pytest on TESTS, with the real conftest as a plugin."""
    (directory / "test_sample.py").write_text(TESTS)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_") and name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", *arguments, f"--rootdir={directory}", str(directory)],
        cwd=directory,
        env=clean | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def without_services(tmp_path: Path) -> Path:
    """A directory whose own conftest makes every way to a Redis server fail."""
    (tmp_path / "conftest.py").write_text(NOTHING_FOUND)
    return tmp_path


def test_a_missing_service_skips_with_the_reason(without_services: Path) -> None:
    code, output = run_pytest(without_services, "-k", "uses_redis", "-rs")
    assert code == 0, output
    assert "1 skipped" in output
    assert "redis: no redis server: local server: " in output
    assert "private node: not installed; Docker container: no engine, 1 test skipped" in output


def test_in_ci_a_missing_service_fails(without_services: Path) -> None:
    code, output = run_pytest(without_services, "-k", "uses_redis", CI="true")
    assert code == 1
    assert "no redis server" in output


def test_a_named_server_that_does_not_answer_fails_everywhere(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, "-k", "uses_redis", EVENTBUS_TEST_REDIS_URL=NOWHERE)
    assert code == 1
    assert "EVENTBUS_TEST_REDIS_URL" in output


def test_markers_follow_from_the_fixtures_a_test_asks_for(tmp_path: Path) -> None:
    _, output = run_pytest(tmp_path, "-m", "redis", "--collect-only", "-q")
    assert "test_uses_redis" in output
    assert "test_starts_its_own" in output
    assert "test_needs_nothing" not in output


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["one process", "two workers"])
def test_the_summary_counts_the_tests_of_each_service(
    private_redis: Callable[[], RedisNode], tmp_path: Path, arguments: list[str]
) -> None:
    node = private_redis()
    code, output = run_pytest(tmp_path, *arguments, EVENTBUS_TEST_REDIS_URL=node.url)
    assert code == 0, output
    assert (
        f"redis: server named by EVENTBUS_TEST_REDIS_URL, {node.probe()} at 127.0.0.1:{node.port}, 2 tests passed"
        in output
    )
    assert "rabbitmq: not needed, no tests" in output
