"""Messages of some size for publishers, numbered."""

from __future__ import annotations

from eventbus.events.envelope import Message


def messages(count: int, size: int = 20, start: int = 0, key: str = "crm.contact.updated") -> list[Message]:
    """`count` messages with bodies of about `size` bytes; ids and bodies hold their numbers, from `start`."""
    return [
        Message(key, f"tx-{number}", b'{"n":%d,"x":"%s"}' % (number, b"y" * size), "tx")
        for number in range(start, start + count)
    ]
