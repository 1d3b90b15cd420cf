"""A received message whose body is what the sender sent."""

from __future__ import annotations

from typing import Any

from kombu.message import Message


class RawMessage(Message):
    """Leaves the body alone, whatever the header `compression` asks for.

    kombu's own Message inflates in its constructor, before any limit of ours can be looked at: 200 KB become 200 MiB.
    """

    def __init__(self, body: Any = None, *, headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(body, **kwargs)  # type: ignore[no-untyped-call]
        self.headers = headers or {}
