"""What a test needs beside Python, and the machine lacks."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def program(name: str, package: str) -> str:
    """Where this program is; skips the test where it is not, and fails it with CI=true."""
    found = shutil.which(name)
    return lacking(name, package) if found is None else found


def lacking(what: str, package: str) -> NoReturn:
    """Skip the test, or fail it with CI=true."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed; Debian's package {package} has it")
    pytest.skip(f"{what} is not installed")
