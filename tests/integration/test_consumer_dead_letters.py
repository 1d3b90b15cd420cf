"""`eventbus-dead-letters`: what is shown is what is there, and nothing leaves before it is safe elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consumers import dead_letters
from consumers.base import ConsumerSettings, DeadLetter, Delivery, Outcome, run
from consumers.base.broker.dead_letter_queue import DeadLetterQueue
from consumers.base.broker.sender import Sender
from consumers.base.errors import Lost
from tests.support.consuming import Collector, event_body, fresh, publish, ready, wait_for


@pytest.fixture
def settings(broker_url: str, unique: str) -> Iterator[ConsumerSettings]:
    """A queue whose dead letters are: ten events of two kinds in falling versions, and two that are none."""
    with fresh(broker_url, unique) as made:
        assert run(made, Collector(), drain=True) == 0
        publish(made, [event_body(f"r{version}", version) for version in range(10, 5, -1)])
        publish(made, [event_body(f"r{version}", version, entity="order") for version in range(5, 0, -1)])
        publish(made, [b"\x1b[31mno JSON", b"{}"])
        assert run(made, refuse, drain=True) == 0
        yield made


def refuse(batch: Sequence[Delivery]) -> Sequence[Outcome]:
    return [DeadLetter("no such parent")] * len(batch)


def command(settings: ConsumerSettings, *arguments: str) -> int:
    return dead_letters.main(["--url", settings.url, "--queue", settings.queue, *arguments])


def left(settings: ConsumerSettings) -> int:
    """How many there are. The broker takes a moment to put back what was looked at, once the command has hung up."""
    return ready(settings, f"{settings.queue}.dlq")


def test_list_shows_everything_and_takes_nothing(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        assert command(settings, "list") == 0
    shown = capsys.readouterr().out
    assert shown.count("12 dead letters") == 3
    assert "no such parent" in shown
    assert "crm.contact/r7" in shown
    wait_for(lambda: left(settings) == 12)


def test_who_looks_again_at_once_sees_as_many(settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ says goodbye before it has put back what was only looked at."""
    answers = iter([12, 0, 7, 12])
    monkeypatch.setattr(DeadLetterQueue, "count", lambda _: next(answers))
    assert len(list(DeadLetterQueue(settings).read(lambda _: True))) == 12
    assert next(answers, None) is None


def test_what_is_shown_cannot_drive_the_terminal(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    command(settings, "list", "--reason", "not JSON")
    command(settings, "show", json_lines(settings, capsys, "--reason", "not JSON")[0]["id"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\u001b[31mno JSON" in shown


def json_lines(settings: ConsumerSettings, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert command(settings, "list", "--json", *arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ((), 12),
        (("--entity", "order"), 5),
        (("--entity", "crm.contact"), 5),
        (("--reason", "PARENT"), 10),
        (("--reason", "parent", "--entity", "order", "--limit", "2"), 2),
        (("--entity", "nothing"), 0),
    ],
)
def test_filters_choose(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], count: int
) -> None:
    assert len(json_lines(settings, capsys, *arguments)) == count


def test_show_gives_the_body_as_it_came(settings: ConsumerSettings, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    entry = next(DeadLetterQueue(settings).read(lambda entry: entry.record == "crm.contact/r9"))
    assert command(settings, "show", "--raw", entry.digest[:8]) == 0
    assert capfdbinary.readouterr().out == event_body("r9", 9)
    assert command(settings, "show", "0000000000") == 1


def test_retry_sends_older_versions_first_and_only_what_is_meant(settings: ConsumerSettings) -> None:
    assert command(settings, "retry", "--reason", "no such parent") == 0
    wait_for(lambda: left(settings) == 2)
    collector = Collector()
    assert run(settings, collector, drain=True) == 0
    assert collector.versions == list(range(1, 11))


def test_long_work_reports_how_far_it_has_come(settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.base.broker.dead_letter_queue._GROUP", 5)
    reports: list[int] = []
    assert DeadLetterQueue(settings).retry(lambda entry: entry.event is not None, report=reports.append) == (10, 0, 0)
    assert DeadLetterQueue(settings).purge(lambda _: True, report=reports.append) == 2
    assert reports == [5, 10, 2]


def test_what_fails_again_comes_back_with_its_count(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    command(settings, "retry", "--entity", "order")
    assert run(settings, refuse, drain=True) == 0
    again = json_lines(settings, capsys, "--entity", "order")
    assert [letter["attempts"] for letter in again] == [2] * 5
    wait_for(lambda: left(settings) == 12)


def test_nothing_leaves_before_the_broker_has_confirmed_it(
    settings: ConsumerSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_self: Sender, _letters: object) -> None:
        raise Lost("no confirm")

    monkeypatch.setattr(Sender, "send", fail)
    assert command(settings, "retry", "--all") == 1
    assert "no confirm" in capsys.readouterr().err
    wait_for(lambda: left(settings) == 12)


def test_purge_deletes_what_is_meant_once_it_is_said_twice(settings: ConsumerSettings) -> None:
    assert command(settings, "purge", "--all") == 2
    assert command(settings, "purge", "--yes") == 2
    wait_for(lambda: left(settings) == 12)
    assert command(settings, "purge", "--entity", "order", "--yes") == 0
    wait_for(lambda: left(settings) == 7)
    assert command(settings, "purge", "--all", "--yes") == 0
    wait_for(lambda: left(settings) == 0)


def test_a_queue_without_dead_letters_is_no_error(
    settings: ConsumerSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(settings, "purge", "--all", "--yes") == 0
    assert command(settings, "list") == 0
    assert capsys.readouterr() == ("12 dead letters deleted\n0 dead letters\n", "")


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("retry", "--all"), ("purge", "--all", "--yes"), ("show", "abcd")]
)
def test_a_queue_that_is_not_there_is_a_failure(
    settings: ConsumerSettings, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped name must not look like a queue that is well."""
    other = f"{settings.queue}-other"
    assert command(replace(settings, queue=other), *arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert (
        shown.err == f"eventbus-dead-letters: there is no queue {other}.dlq: no such consumer has run on this broker\n"
    )
    assert command(replace(settings, queue=f"{settings.queue}.dlq"), *arguments) == 1
    assert f"give the queue of the consumer, {settings.queue}\n" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("list",), ("retry", "--all")])
def test_an_embedded_broker_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Most likely the command runs in another directory than the mirror."""
    monkeypatch.chdir(tmp_path)
    assert dead_letters.main(["--url", "sqlite:///no%20file.sqlite3", *arguments]) == 1
    said = f"the broker cannot be reached: sqlite:///{tmp_path}/no%20file.sqlite3: there is no such file"
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [(), ("retry",), ("show",), ("show", "ab"), ("list", "--limit", "0"), ("nonsense",), ("list", "--nope")],
)
def test_wrong_use_is_told_from_failure(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(["--url", "memory://", *arguments]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("before", [(), ("--queue", "other", "--url", "sqlite:///nowhere.sqlite3")])
def test_broker_and_queue_may_be_named_after_the_word(
    settings: ConsumerSettings, before: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where both say it, the later one is meant."""
    where = ["--url", settings.url, "--queue", settings.queue]
    assert dead_letters.main([*before, "list", *where]) == 0
    assert dead_letters.main([*before, "purge", "--all", "--yes", *where]) == 0
    assert "12 dead letters deleted" in capsys.readouterr().out


def test_the_list_of_commands_is_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    dead_letters.main(["--help"])
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_a_broker_that_is_away_is_a_failure_and_no_password_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(["--url", "amqp://guest:hunter2@127.0.0.1:1//", "list"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(
        "eventbus-dead-letters: the broker cannot be reached: amqp://guest:***@127.0.0.1:1//: ConnectionRefused"
    )
    assert "hunter2" not in shown


def test_a_url_that_is_none_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(["--url", "http://localhost", "list"]) == 2
    assert "amqp" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--help",), ("list", "--help"), ("retry", "--help"), ("purge", "--help")])
def test_help_is_there(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert dead_letters.main(arguments) == 0
    assert "dead letters" in capsys.readouterr().out


def test_a_letter_too_large_to_be_read_is_left_and_named(
    rabbitmq_url: str, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fresh(rabbitmq_url, unique) as settings:
        assert run(settings, Collector(), drain=True) == 0
        publish(settings, [b"x" * (17 << 20), b"small"])
        assert run(settings, Collector(), drain=True) == 0
        wait_for(lambda: left(settings) == 2)
        assert command(settings, "retry", "--all") == 0
        assert capsys.readouterr().out.splitlines() == [
            "1 dead letter sent again",
            "1 dead letter left: too large to be read, and would only come back",
        ]
        wait_for(lambda: left(settings) == 1)
