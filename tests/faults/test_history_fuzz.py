"""A spoilt history, in short; `history_fuzz` does the same for as long as one likes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.history_fuzz import Fuzz

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]


def test_whatever_is_spoilt_is_told_in_words(tmp_path: Path) -> None:
    fuzz = Fuzz(tmp_path)
    for seed in range(25):
        fuzz.once(seed)
    assert not fuzz.wrong, fuzz.wrong
    assert fuzz.codes[0] > 25
    assert fuzz.codes[1] > 25
