"""A mirror that is killed or restarted in the middle of its work loses nothing; see also `mirror_kills`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from consumers.base import ConsumerSettings
from eventbus.naming import dead_letter_queue
from tests.faults.mirror_kills import kill_in_a_loop
from tests.support.consuming import ready, remove
from tests.support.mirror_process import Load, MirrorProcess, Reader, drain, mirror_settings
from tests.support.mirroring import contents, unfinished

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "rabbitmq"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[ConsumerSettings]:
    url = f"sqlite:///{tmp_path / 'broker.sqlite3'}"
    if request.param == "rabbitmq":
        url = request.getfixturevalue("rabbitmq_url")
    made = mirror_settings(url, unique)
    yield made
    remove(made)


def test_killed_again_and_again_under_load(settings: ConsumerSettings, tmp_path: Path) -> None:
    outcome = kill_in_a_loop(settings, tmp_path / "data", kills=4)
    assert outcome.good, outcome
    assert outcome.sent > 200
    assert outcome.read > 200


def test_rolling_restarts_under_load_with_a_small_prefetch(settings: ConsumerSettings, tmp_path: Path) -> None:
    """SIGTERM ends the batch at hand; what a quorum queue hands over again comes in another order."""
    settings = replace(settings, prefetch=50)
    data_dir = tmp_path / "data"
    drain(settings, data_dir)
    with Reader(data_dir) as reader, Load(settings) as load:
        for _ in range(3):
            with MirrorProcess(settings, data_dir) as process:
                process.wait_until_it_holds_the_directory()
                assert process.stop() == 0, process.log.read_text()
    drain(settings, data_dir)
    found = {path: orjson.loads(content)["fields"] for path, content in contents(data_dir).items()}
    assert found == load.expected
    assert reader.faults == []
    assert unfinished(data_dir) == []
    assert ready(settings, dead_letter_queue(settings.queue)) == 0
