"""Changes as they come, for any number of viewers: one queue at the broker, and a bounded one for each viewer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar, final

import orjson

from consumers.base.reading.delivery import Delivery
from consumers.base.settings import ConsumerSettings
from consumers.tail import Tail
from eventbus.errors import BadEvent, EventBusError
from eventbus.transports.sqlite.routing import topic_matches

MOST_VIEWERS: Final = 500
_ROOM: Final = 200
"""Changes that wait for a viewer, and at the broker for us; of one who does not keep up the oldest go."""
_PACE: Final = 500
"""Changes a second that are shown at most."""
_BEAT: Final = 15.0
_FIELDS: Final = 20
_LONGEST: Final = 200
_KEPT: Final = 100

logger = logging.getLogger(__name__)

T = TypeVar("T")


@final
class Viewer:
    """One who looks on."""

    def __init__(self, binding: str) -> None:
        self.binding = binding
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(_ROOM)
        self.skipped = 0

    def offer(self, key: str, message: bytes) -> None:
        """Show it, if it is asked for."""
        if self.binding and not topic_matches(self.binding, key):
            return
        if self.queue.full():
            self.queue.get_nowait()
            self.skipped += 1
        self.queue.put_nowait(message)


@final
class Broadcast:
    """Follows the broker while somebody looks on. For one event loop."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self._settings = replace(settings, bindings=("#",))
        self._viewers: set[Viewer] = set()
        self._stop: threading.Event | None = None
        self._number = 0

    async def follow(self, binding: str) -> AsyncIterator[bytes]:
        """Server-sent events: `data: {…}` each, and now and then a comment that keeps the line open."""
        viewer = Viewer(binding)
        self._viewers.add(viewer)
        try:
            self._start()
            yield b"retry: 2000\n\n"
            while True:
                try:
                    yield await asyncio.wait_for(viewer.queue.get(), _BEAT)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self.close()

    @property
    def is_full(self) -> bool:
        """Whether no more viewers are taken."""
        return len(self._viewers) >= MOST_VIEWERS

    def close(self) -> None:
        """End the thread; the queue at the broker goes with it."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None

    def _start(self) -> None:
        if self._stop is not None:
            return
        self._stop = stop = threading.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop, stop), name="eventbus-live", daemon=True).start()

    def _read(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        try:
            for each in _paced(Tail(self._settings, most=_ROOM).follow(stop), stop):
                if isinstance(each, BadEvent):
                    continue
                key, message = each.routing_key or each.event.type, _message(each)
                loop.call_soon_threadsafe(self._show, key, message)
        except EventBusError as error:
            logger.error("live changes end: %s", error)  # noqa: TRY400  the sentence says what to do
        except RuntimeError:
            if not stop.is_set():  # the loop has ended with its process
                raise

    def _show(self, key: str, message: Mapping[str, Any]) -> None:
        self._number += 1
        text = b"id: %d\ndata: %s\n\n" % (self._number, orjson.dumps(message))
        for viewer in list(self._viewers):
            viewer.offer(key, text)


def _paced(events: Iterable[T], stop: threading.Event) -> Iterator[T]:
    """At most `_PACE` a second, in tenths of it: nobody reads more, and mirror and broker have other work."""
    began, seen = time.monotonic(), 0
    for each in events:
        yield each
        seen += 1
        if seen == _PACE // 10:
            stop.wait(max(0.0, began + 0.1 - time.monotonic()))
            began, seen = time.monotonic(), 0


def _message(delivery: Delivery) -> dict[str, Any]:
    event = delivery.event
    before, after = event.before or {}, event.after or {}
    names = event.changed if event.op == "u" else list(after or before)
    return {
        "op": event.op,
        "model": event.model,
        "record": event.record[:_LONGEST],
        "pk": event.pk if len(event.record) <= _LONGEST else None,
        "time": event.time,
        "author": event.author and event.author[:_LONGEST],
        "fields": [
            {"name": name[:_LONGEST], "old": _short(before, name), "new": _short(after, name)}
            for name in names[:_FIELDS]
        ],
        "more": max(0, len(names) - _FIELDS),
    }


def _short(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    text = orjson.dumps(values[name]).decode()
    return text if len(text) <= _KEPT else text[: _KEPT - 1] + "…"
