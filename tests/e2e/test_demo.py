"""`make demo`, but for the making of a virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kombu
import pytest
from amqp.exceptions import NotFound

from eventbus.settings import Settings
from examples import demo
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


def complaint(*arguments: str, **environment: str) -> tuple[int, str]:
    """How the demo ends that does not begin, and all it says."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_demo_has_a_help_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    code, told = complaint("--help", DEMO_DIR=str(tmp_path / "demo"))
    assert (code, "EVENTBUS_URL=amqp://" in told) == (0, True)
    code, told = complaint("--hepl", DEMO_DIR=str(tmp_path / "demo"))
    assert (code, "--hepl" in told) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["foo", "memory://", "amqp://guest@localhost:abc//"])
def test_a_broker_that_cannot_be_meant_is_told_before_anything_else(url: str, tmp_path: Path) -> None:
    code, told = complaint(DEMO_DIR=str(tmp_path), EVENTBUS_URL=url)
    assert code == 2
    assert "The broker is" not in told
    assert told.strip().startswith(("broker URL", "memory://")), told


def test_the_demo_takes_its_own_names_from_rabbitmq_and_says_which_others_stay(
    rabbitmq_url: str, unique: str, rabbitmq_remove: Remove, capsys: pytest.CaptureFixture[str]
) -> None:
    rabbitmq_remove(queues=[unique, f"{unique}.dlq"], exchanges=[unique])
    settings = Settings(url=rabbitmq_url, queue=unique, exchange=unique)
    with kombu.Connection(rabbitmq_url) as connection:
        channel = connection.channel()

        def there(declare: Callable[..., object], name: str, **more: object) -> bool:
            try:
                declare(name, passive=True, **more)
            except NotFound:
                return False
            return True

        with demo.removed_at_the_end(settings, ["EVENTBUS_QUEUE"]):
            for name in (unique, f"{unique}.dlq"):
                channel.queue_declare(name, durable=True, auto_delete=False)
            channel.exchange_declare(unique, "topic", durable=True, auto_delete=False)
        assert capsys.readouterr().out == f"On RabbitMQ stay: exchange {unique}\n"
        assert there(connection.channel().exchange_declare, unique, type="topic")
        assert not there(connection.channel().queue_declare, unique)
        assert not there(connection.channel().queue_declare, f"{unique}.dlq")
        with demo.removed_at_the_end(settings, ["EVENTBUS_QUEUE", "EVENTBUS_EXCHANGE"]):
            pass
        assert capsys.readouterr().out == "Queue and exchange are removed from RabbitMQ.\n"
        assert not there(connection.channel().exchange_declare, unique, type="topic")


def files(data_dir: Path) -> int:
    return sum(1 for _ in data_dir.glob("atlas/*/*.json"))


@pytest.mark.slow
def test_the_demo_ends_by_itself_with_a_file_a_row_and_again(tmp_path: Path) -> None:
    """Twice: the second run neither fails nor duplicates."""
    for _ in range(2):
        output = run_demo(tmp_path)
        assert "Files and tables are equal." in output
        assert "set by editor" in output
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
    assert "The broker is RabbitMQ at " in output
    assert f"On RabbitMQ stay: queue {unique}-mirror, queue {unique}-mirror.dlq, exchange {unique}\n" in output
    assert "Files and tables are equal." in output
    assert files(tmp_path / "mine") > 5000
    assert foreign.exists()
