"""The short form: some of SQLAlchemy's own tests, bare and with the bus on every Session."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.guests.sqlalchemy_suite import compare
from tests.guests.suites import source

QUICK = ("test/orm/test_versioning.py", "test/orm/test_default_strategies.py")


@pytest.mark.slow
def test_sqlalchemys_own_tests_end_the_same() -> None:
    try:
        source("sqlalchemy")
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the source of SQLAlchemy cannot be fetched: {error}")
    found = compare(QUICK)
    assert found.run > 30
    assert found.unexplained == [], found.output
