"""What `eventbus tail` shows of an event."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from consumers.base.reading.delivery import Delivery
from consumers.history.reading.history import History
from consumers.tail import Past, _json_line, _Lines, duration, value
from eventbus.errors import BadEvent
from eventbus.events import envelope
from tests.support.consuming import event_body
from tests.support.histories import Event as Changed
from tests.support.histories import keep

AT = datetime.fromisoformat("2026-11-23T08:00:00.123456Z").timestamp()


def read(body: bytes) -> Delivery:
    delivery = Delivery(body)
    delivery.event = envelope.decode(body)
    return delivery


def line(body: bytes, *, after: float = 0.012) -> str:
    return _Lines(colour=False, now=lambda: AT + after)(read(body)).partition(".")[2]


def test_an_update_shows_each_changed_field_as_it_was_and_is() -> None:
    assert line(event_body("ab12", 7)) == '123  ~ crm.contact ab12  phone: ? → "+32"  by u1  12 ms'


def test_creations_and_deletions_show_what_came_and_went() -> None:
    assert line(event_body("ab12", 7, op="c")) == '123  + crm.contact ab12  id="ab12"  phone="+32"  by u1  12 ms'
    assert line(event_body("ab12", 7, op="d")) == "123  - crm.contact ab12  by u1  12 ms"


@pytest.mark.parametrize("key", ["\x1b[2J", "a\nb", "\u202e"])
def test_nothing_in_an_event_drives_the_terminal(key: str) -> None:
    shown = line(event_body(key, 7))
    assert key not in shown
    assert "\n" not in shown


@pytest.mark.parametrize(
    ("given", "shown"), [(None, "null"), ("é", '"é"'), ({"a": [1]}, '{"a": [1]}'), ("x" * 100, '"' + "x" * 58 + "…")]
)
def test_a_value_is_shown_as_json_and_cut(given: Any, shown: str) -> None:
    assert value({"a": given}, "a") == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0004, "0 ms"), (0.9994, "999 ms"), (3.44, "3.4 s"), (300, "5 min"), (7300, "2 h")]
)
def test_lateness_reads_well(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_what_is_no_event_is_shown_as_refused() -> None:
    assert _Lines(colour=False)(BadEvent("not JSON", "secret")) == "! refused: not JSON"
    assert _json_line(BadEvent("not JSON", "secret")) == '{"refused":"not JSON"}'


def test_json_is_the_event_on_one_line() -> None:
    body = event_body("ab12", 7)
    assert envelope.decode(_json_line(read(body)).encode()) == envelope.decode(body)
    assert "\n" not in _json_line(read(body.replace(b",", b",\n")))


def test_a_large_event_is_one_short_line() -> None:
    body = event_body("x" * 100_000, 7, op="c").replace(
        b'"phone":"+32"', b",".join(b'"f%d":"%s"' % (n, b"\\n" * 300) for n in range(500))
    )
    told = line(body.replace(b'"author":"u1"', b'"author":"' + b"u" * 50_000 + b'"'))
    assert len(told) < 20_000
    assert "and 401 more" in told
    assert told.isprintable()


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z", "x" * 300]
)
def test_a_time_may_be_anything(moment: str) -> None:
    body = event_body("ab12", 7).replace(b"2026-11-23T08:00:00.123456Z", moment.encode())
    assert "crm.contact ab12" in _Lines(colour=False)(read(body))


def test_json_for_other_programs_does_not_drive_the_terminal_either() -> None:
    told = _json_line(read(event_body("\u009b31m\u202e", 7)))
    assert told.isprintable()
    assert envelope.decode(told.encode()).pk == "\u009b31m\u202e"


def test_the_past_is_asked_again_and_tells_only_what_it_did_not_tell_and_nobody_showed(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    keep(path, [Changed("t1", "ab12", 10, "c", {"n": 1})])
    with History(path) as history:
        now = [0.0]
        past = Past(history, 0, ("crm.contact.*",), clock=lambda: now[0])
        assert [each.event.version for each in past.more()] == [10]
        live = read(event_body("ab12", 20))
        assert past.is_new(live.event)
        keep(path, [Changed("t2", "ab12", 20, "u", {"n": 2}, ("n",)), Changed("t3", "cd34", 30, "c", {"n": 3})])
        assert list(past.more()) == [], "not within a second"
        now[0] += 1
        assert [each.event.version for each in past.more()] == [30]
        assert not past.is_new(live.event)
        keep(path, [Changed("t4", "ef56", 40, "c", {})])
        now[0] += 100
        assert list(past.more()) == [], "what happens now comes from the broker"


def test_the_past_shows_what_a_binding_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    keep(path, [Changed("t1", "ab12", 10, "c", {}), Changed("t2", "ab12", 20, "d")])
    with History(path) as history:
        assert [each.event.op for each in Past(history, 0, ("*.*.deleted",)).more()] == ["d"]
