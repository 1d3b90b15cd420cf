"""The short form: two programs of others, bare and with the bus on every Session."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.guests.environments import python_of
from tests.guests.programs import PROGRAMS, compared


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optuna_study", "alchemy_repositories"])
def test_what_a_user_sees_is_the_same_and_files_equal_tables(name: str) -> None:
    try:
        python_of(PROGRAMS[name].environment)
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the packages cannot be fetched: {error}")
    found = compared(name)
    assert found.differences == []
    assert found.seen > 10
    assert found.rows > 10
