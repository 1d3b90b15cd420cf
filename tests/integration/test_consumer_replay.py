"""What a mirror has becomes what another consumer has, and newer changes win."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers import replay
from consumers.base import DONE, ConsumerSettings, Delivery, Outcome, run
from consumers.json_mirror.disk import documents
from eventbus.events import signing
from tests.support.consuming import Collector, fresh
from tests.support.mirroring import apply, contents, delivery, fields, mirror


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    with fresh(broker_url, unique) as made:
        yield made


def write(directory: Path, pk: Any, version: int, entity: str = "contact", stub: Any = None) -> None:
    document = documents.encode(f"crm.{entity}", pk, version, {"id": pk, "phone": "+32"}, stub)
    path = directory / documents.decode(document).directory / documents.decode(document).filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document)


def command(settings: ConsumerSettings, *directories: Path, shards: int = 0) -> int:
    shared = ["--shards", str(shards)] if shards else []
    return replay.main(["--url", settings.url, "--queue", settings.queue, *shared, *map(str, directories)])


def test_every_record_arrives_as_a_snapshot_with_its_version(settings: ConsumerSettings, tmp_path: Path) -> None:
    first, second = tmp_path / "0", tmp_path / "1"
    for version in range(1, 601):
        write(first, f"r{version}", version)
    write(second, [1, "a"], 601, "order_line")
    (first / ".eventbus").mkdir()
    (first / ".eventbus" / "state.json").write_text("{}")
    assert run(settings, Collector(), drain=True) == 0
    assert command(settings, first, second) == 0
    got: list[tuple[str, Any, int, Any]] = []

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        got.extend((each.event.op, each.event.pk, each.event.version, each.event.after) for each in batch)
        return [DONE] * len(batch)

    assert run(settings, handler, drain=True) == 0
    assert len(got) == 601
    assert ("r", "r7", 7, {"id": "r7", "phone": "+32"}) in got
    assert ("r", [1, "a"], 601, {"id": [1, "a"], "phone": "+32"}) in got


def test_what_was_written_later_than_the_rest_keeps_its_version(settings: ConsumerSettings, tmp_path: Path) -> None:
    """So a late event that the mirror has not seen yet is merged in by the other one, too."""
    created = delivery("a", 1, {"phone": "1", "email": "a"}, op="c")
    late = delivery("a", 2, {"phone": "1", "email": "b"}, changed=["email"])
    newest = delivery("a", 3, {"phone": "3", "email": "a"}, changed=["phone"])
    apply(tmp_path / "old", [created, newest])
    assert run(settings, Collector(), drain=True) == 0
    assert command(settings, tmp_path / "old") == 0
    with mirror(tmp_path / "new") as other:
        assert run(settings, other, drain=True) == 0
        assert contents(tmp_path / "new") == contents(tmp_path / "old")
        other([late])
    assert fields(tmp_path / "new", "crm/contact/a.json") == {"phone": "3", "email": "b"}


def test_a_stub_arrives_as_one(settings: ConsumerSettings, tmp_path: Path) -> None:
    write(tmp_path, "a", 1, stub={"reason": "EventTooLarge", "field": None})
    write(tmp_path, "b", 1)
    assert run(settings, Collector(), drain=True) == 0
    assert command(settings, tmp_path) == 0
    stubs: dict[Any, Any] = {}

    def handler(batch: Sequence[Delivery]) -> Sequence[Outcome]:
        stubs.update((each.event.pk, each.event.stub) for each in batch)
        return [DONE] * len(batch)

    assert run(settings, handler, drain=True) == 0
    assert stubs == {"a": {"reason": "EventTooLarge", "field": None}, "b": None}


def test_what_is_no_record_is_named_and_left_out(
    settings: ConsumerSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", "a", 1)
    (tmp_path / "0" / "crm" / "contact" / "notes.json").write_text("[]")
    collector = Collector()
    assert run(settings, collector, drain=True) == 0
    assert command(settings, tmp_path / "0") == 1
    assert "notes.json" in capsys.readouterr().err
    assert run(settings, collector, drain=True) == 0
    assert collector.versions == [1]


def test_a_queue_that_is_not_there_is_a_failure(
    settings: ConsumerSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the command, not of the broker."""
    write(tmp_path / "0", "a", 1)
    assert run(settings, Collector(), drain=True) == 0
    other = replace(settings, queue=f"{settings.queue}-other")
    assert command(other, tmp_path / "0") == 1
    assert (
        f"python -m consumers.replay: there is no queue {other.queue}: start its consumer once\n"
        in capsys.readouterr().err
    )


def test_an_embedded_broker_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", "a", 1)
    assert replay.main(["--url", f"sqlite:///{tmp_path}/nofile.sqlite3", "--queue", "q", str(tmp_path / "0")]) == 1
    assert f"{tmp_path}/nofile.sqlite3: there is no such file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_queue_without_shards_is_a_failure(
    settings: ConsumerSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "0", "a", 1)
    assert run(settings, Collector(), drain=True) == 0
    assert command(settings, tmp_path / "0", shards=2) == 1
    assert (
        f"python -m consumers.replay: the queue {settings.queue} has no shards: start one of them once"
        in capsys.readouterr().err
    )


def test_snapshots_are_signed_where_consumers_look_at_signatures(
    rabbitmq_url: str, unique: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "k:" + "s" * 32
    trust = {"hmac_keys": signing.parse_keys(secret), "trusted_users": {"guest": frozenset({"*"})}}
    with fresh(rabbitmq_url, unique, **trust) as settings:
        collector = Collector()
        assert run(settings, collector, drain=True) == 0
        write(tmp_path / "0", "a", 1)
        monkeypatch.setenv("EVENTBUS_HMAC_KEYS", secret)
        monkeypatch.setenv("EVENTBUS_TRUSTED_USERS", "guest=*")
        assert command(settings, tmp_path / "0") == 0
        assert run(settings, collector, drain=True) == 0
        assert collector.versions == [1]
