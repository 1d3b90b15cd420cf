"""What a reader of events may rely on, as a type checker sees it. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

from eventbus.errors import BadEvent, EventBusError
from eventbus.events.envelope import Event, decode
from eventbus.events.reading import Limits


def read(body: bytes) -> Event | None:
    try:
        return decode(body, Limits(body=1024))
    except BadEvent as error:
        root: EventBusError = error
        assert_type(str(root), str)
        return None


def use(event: Event) -> None:
    assert_type(event.version, int)
    assert_type(event.before, Mapping[str, Any] | None)
    assert_type(event.after, Mapping[str, Any] | None)
    assert_type(event.changed, list[str])
    assert_type(event.author, str | None)
    assert_type(event.service, str)
    assert_type(event.entity, str)
