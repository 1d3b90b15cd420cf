"""Why records are changed: free words of a transaction. A context variable, each thread and task sees its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from eventbus.errors import ConfigurationError

MAX_NOTES: Final = 10
MAX_NOTE: Final = 200
"""Characters of one value of `annotate`."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_notes: ContextVar[Mapping[str, str] | None] = ContextVar("eventbus_notes", default=None)


@contextmanager
def annotate(**notes: object) -> Iterator[None]:
    """Say in free words why records are changed inside: `with eventbus.annotate(reason="import 7", ticket="A-1")`.

    The words are the transaction's: they stand in `data.transaction.notes` of its events and in its history. Blocks
    nest; an inner word of the same name wins, and None takes one away. Values are made texts.

    Raises ConfigurationError for more than 10 words, a name that is not `a-z 0-9 _` or has more than 40 characters, and
    a value of more than 200.
    """
    token = _notes.set(_noted(_notes.get() or {}, notes))
    try:
        yield
    finally:
        _notes.reset(token)


current_notes: Final[Callable[[], Mapping[str, str] | None]] = _notes.get
"""What `annotate` says now; None or empty where it says nothing."""


def _noted(known: Mapping[str, str], notes: Mapping[str, object]) -> Mapping[str, str]:
    made = {**known, **{name: str(value) for name, value in notes.items() if value is not None}}
    for name, value in notes.items():
        if not _NAME.fullmatch(name):
            raise ConfigurationError(f"annotate({name}=…): use a-z, 0-9 and _ in names, 40 characters at most")
        if value is None:
            made.pop(name, None)
        elif len(made[name]) > MAX_NOTE:
            raise ConfigurationError(f"annotate({name}=…): {len(made[name])} characters, {MAX_NOTE} are the most")
    if len(made) > MAX_NOTES:
        raise ConfigurationError(f"annotate() would say {len(made)} words of one transaction, {MAX_NOTES} are the most")
    return made
