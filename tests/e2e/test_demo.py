"""`make demo`, but for the making of a virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Remove
from tests.support.chain import PATIENCE, ROOT


def run_demo(directory: Path, **more: str) -> str:
    known = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}
    known.pop("DATA_DIR", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.demo"],
        cwd=ROOT,
        env={**known, "DEMO_DIR": str(directory), **more},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def files(data_dir: Path) -> int:
    return sum(1 for _ in data_dir.glob("atlas/*/*.json"))


@pytest.mark.slow
def test_the_demo_ends_by_itself_with_a_file_a_row_and_again(tmp_path: Path) -> None:
    """Twice: the second run neither fails nor duplicates."""
    for _ in range(2):
        output = run_demo(tmp_path)
        assert "Files and tables are equal." in output
        rows = [int(line.split()[1]) for line in output.splitlines() if line.endswith(" files")]
        assert len(rows) == 4
        assert files(tmp_path / "files") == sum(rows) > 5000


@pytest.mark.slow
def test_the_demo_through_rabbitmq_writes_where_data_dir_says_and_counts_its_own_files_only(
    tmp_path: Path, rabbitmq_url: str, unique: str, rabbitmq_remove: Remove
) -> None:
    foreign = tmp_path / "mine" / "crm" / "contact" / "1.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    rabbitmq_remove(queues=[f"{unique}-mirror", f"{unique}-mirror.dlq"], exchanges=[unique])
    names = {"EVENTBUS_EXCHANGE": unique, "EVENTBUS_QUEUE": f"{unique}-mirror", "EVENTBUS_SERVICE": "other"}
    output = run_demo(tmp_path / "demo", EVENTBUS_URL=rabbitmq_url, DATA_DIR=str(tmp_path / "mine"), **names)
    assert "RabbitMQ" in output
    assert "Files and tables are equal." in output
    assert files(tmp_path / "mine") > 5000
    assert foreign.exists()
