"""Failpoints: off unless asked for, and exact when asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus import failpoints
from eventbus.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def survive(points: str, passes: int) -> int:
    """How many passes of `after_commit` a process survives; all of them: `passes`."""
    code = (
        "import sys\nfrom eventbus import failpoints\n"
        f"for number in range({passes}):\n"
        "    failpoints.hit('after_flush'); failpoints.hit('after_commit')\n"
        "    print(number, flush=True)\n"
    )
    environment = {**os.environ, failpoints.VARIABLE: points}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == (0 if len(done.stdout.split()) == passes else -9), done.stderr
    return len(done.stdout.split())


def test_without_the_variable_nothing_happens() -> None:
    assert survive("", 3) == 3


def test_the_pass_that_was_asked_for_kills() -> None:
    assert survive("after_commit=3", 5) == 2
    assert survive("after_commit", 5) == 0
    assert survive("before_delete=1; after_commit=2", 5) == 1


def test_a_seed_repeats_the_moment_of_death() -> None:
    first, second = (survive("after_commit=p0.05,seed7", 200) for _ in range(2))
    assert first == second < 200


@pytest.mark.parametrize("text", ["after_lunch=1", "after_commit=often", "after_commit=pmuch"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=failpoints.VARIABLE):
        failpoints.parse(text)
