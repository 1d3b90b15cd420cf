"""Whoever of those that keep a history is killed, every transaction is one commit; see also `history_kills`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.history_erasures import erase_in_a_loop
from tests.faults.history_kills import kill_in_a_loop
from tests.support.consuming import remove
from tests.support.mirror_process import mirror_settings

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")]


def test_every_transaction_is_one_commit_and_the_tip_is_that_of_a_calm_run(
    rabbitmq_url: str, unique: str, tmp_path: Path
) -> None:
    settings = mirror_settings(rabbitmq_url, unique)
    try:
        outcome = kill_in_a_loop(settings, tmp_path, kills=4)
    finally:
        remove(settings)
    assert not outcome.wrong, outcome
    assert outcome.commits > 20


def test_an_erasure_that_is_killed_and_repeated_leaves_no_byte(tmp_path: Path) -> None:
    outcome = erase_in_a_loop(tmp_path, rounds=4)
    assert not outcome.wrong, outcome
    assert outcome.kills > 0
