"""The session flag: what a muted session changes is neither stamped nor captured nor published.

The flag is a counter in `session.info`, so it nests, belongs to exactly one Session (not to a thread), and ends with
the block whatever happens inside.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from eventbus.errors import CaptureError
from eventbus.events.context import one_session

MUTED: Final = "eventbus.muted"
"""Key in the `info` of a Session inside a `muted` block."""


class muted:  # noqa: N801 - reads as a function, like contextlib.suppress
    """`with muted(session):` publishes nothing of what is changed inside the block.

    `session` is a Session, AsyncSession (then `async with`), or a scoped session of either: the current one is meant.
    What was pending before is flushed first and published; what is pending at the end is flushed while still muted.
    Anything else is a ConfigurationError. A plain `with` on an AsyncSession cannot flush: it raises CaptureError where
    something is pending at either end.
    """

    def __init__(self, session: Any) -> None:
        self._session = one_session(session, "muted({!r})")

    def __enter__(self) -> None:
        self._flush()
        self._raise_flag()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._lower_flag()

    async def __aenter__(self) -> None:
        await self._session.flush()
        self._raise_flag()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._session.flush()
        finally:
            self._lower_flag()

    def _flush(self) -> None:
        sync_session = getattr(self._session, "sync_session", None)
        if sync_session is None:
            self._session.flush()
        elif sync_session.new or sync_session.dirty or sync_session.deleted:
            raise CaptureError(
                "muted(AsyncSession) with changes that are not flushed: "
                "use `async with eventbus.muted(session)`, which flushes them"
            )

    def _raise_flag(self) -> None:
        info = self._session.info
        info[MUTED] = info.get(MUTED, 0) + 1

    def _lower_flag(self) -> None:
        info = self._session.info
        info[MUTED] -= 1
        if not info[MUTED]:
            del info[MUTED]


def is_muted(session: Any) -> bool:
    """Whether the session is inside a `muted` block."""
    return MUTED in one_session(session, "is_muted({!r})").info
