"""Whether a binding can match anything: routing keys are `<service>.<entity>.<created|updated|deleted>`.

Queues are bound in `broker.topology`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Final

from eventbus.events import naming

_WORDS: Final = 3
_LAST: Final = tuple(sorted(set(naming.OPERATIONS.values())))
_NAME: Final = re.compile(r"(?:[a-z0-9_-]|%[0-9A-F]{2})+")
_ADVICE: Final = "a routing key has three words, service.entity.operation"


def fault_of_binding(binding: str) -> str | None:
    """Why no event's routing key matches it, and what to write; None where one may."""
    if len(binding.encode("utf-8", "surrogatepass")) > naming.MAX_ROUTING_KEY:
        return f"it is longer than {naming.MAX_ROUTING_KEY} bytes"
    faults = [_fault(words) for words in _expanded(binding.split("."))]
    if not faults:
        short = binding.count(".") < _WORDS - 1 and "#" not in binding
        return f"{_ADVICE}; write {binding}.#" if short else _ADVICE
    return None if None in faults else faults[0]


def _expanded(words: Sequence[str]) -> Iterator[list[str]]:
    """The binding with each # as any number of words, where that makes three in all."""
    if "#" not in words:
        if len(words) == _WORDS:
            yield list(words)
        return
    at = words.index("#")
    for count in range(_WORDS + 1):
        yield from _expanded([*words[:at], *["*"] * count, *words[at + 1 :]])


def _fault(words: Sequence[str]) -> str | None:
    *names, last = words
    if last != "*" and last not in _LAST:
        near = difflib.get_close_matches(last.lower(), _LAST, 1, cutoff=0.5)
        return f"the third word is {', '.join(_LAST)} or *" + (f" ({near[0]}?)" if near else "")
    for name in names:
        if name != "*" and not _NAME.fullmatch(name):
            return f"a name is made of a-z, 0-9, _ and -, all else is encoded; write {naming.quote(name) or '*'} for it"
    return None
