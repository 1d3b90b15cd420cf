"""What `install()` may be given. An argument of a wrong kind is told at once, and what to give instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

from marshmallow import Schema
from sqlalchemy import Table

from eventbus.errors import ConfigurationError
from eventbus.listeners.auto_fields import AutoFields
from eventbus.listeners.base import Listener
from eventbus.listeners.committing.encoding import POLICIES
from eventbus.listeners.committing.transaction import Joined
from eventbus.listeners.statements.omissions import MODES
from eventbus.publishers import Publisher
from eventbus.redaction import redact
from eventbus.settings import Settings


class _Rule(NamedTuple):
    fits: Callable[[Any], bool]
    wanted: str


def check(**arguments: Any) -> None:
    """Raises ConfigurationError for the first argument that cannot be meant."""
    for name, value in arguments.items():
        rule = _RULES[name]
        if not rule.fits(value):
            raise ConfigurationError(f"install({name}={redact(repr(value))}): {rule.wanted}")


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The arguments that a second `install()` gives and the first one had not: what contradicts it; what only may.

    Two functions, or objects, may do the same.
    """
    given = {name: value for name, value in second.items() if not _same(value, defaults[name])}
    other = sorted(name for name, value in given.items() if not _same(first[name], value))
    return [name for name in other if name not in _OBJECTS], [name for name in other if name in _OBJECTS]


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - whatever compares in a way of its own is another one
        return False


def _is_collection(value: Any) -> bool:
    """Not one thing alone, which would be taken apart: a name into its letters."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | type | Table)


def _are_listeners(value: Any) -> bool:
    if isinstance(value, str):
        return all(part.isidentifier() for part in value.split("."))
    return isinstance(value, Sequence) and all(isinstance(each, Listener) for each in value)


def _are_schemas(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(map(_is_schema, value.values())))


def _is_schema(value: Any) -> bool:
    return isinstance(value, Schema) or (isinstance(value, type) and issubclass(value, Schema))


def _is_function(value: Any) -> bool:
    return callable(value) and not inspect.iscoroutinefunction(value)


def _one_of(values: Iterable[str]) -> _Rule:
    return _Rule(lambda value: value in tuple(values), f"use one of {', '.join(values)}")


_YES_OR_NO: Final = _Rule(lambda value: isinstance(value, bool), "give True or False")
_MODELS: Final = _Rule(_is_collection, "give a list of models, tables or entity names, e.g. [Contact]")
_TEXT: Final = _Rule(lambda value: value is None or isinstance(value, str), "give text, or nothing")
_RULES: Final[Mapping[str, _Rule]] = {
    "service": _TEXT,
    "url": _TEXT,
    "schemas": _Rule(
        _are_schemas, "give marshmallow schemas (classes or objects) by model, e.g. {Contact: ContactSchema}"
    ),
    "include": _MODELS,
    "exclude": _MODELS,
    "withhold": _Rule(
        lambda value: _is_collection(value) and all(isinstance(each, str) for each in value),
        'give a list of words, e.g. ["birth", "salary"]',
    ),
    "author": _Rule(
        lambda value: value is None or _is_function(value), "give a plain function that returns who acts, or nothing"
    ),
    "auto_fields": _Rule(lambda value: isinstance(value, bool | AutoFields), "give True, False or an AutoFields"),
    "new_id": _Rule(_is_function, "give a plain function that returns an id, or e.g. ShortIds(8)"),
    "outbox": _YES_OR_NO,
    "create_outbox": _YES_OR_NO,
    "delivery": _Rule(lambda value: value in (None, "thread", "relay"), 'give "thread", "relay", or nothing'),
    "wire": _Rule(lambda value: value in (None, "single", "batch"), 'give "single", "batch", or nothing'),
    "reread": _YES_OR_NO,
    "bulk": _one_of(MODES),
    "on_unfit": _one_of(POLICIES),
    "joined": _one_of(get_args(Joined)),
    "listeners": _Rule(
        _are_listeners, 'give a list of objects of Listener subclasses, e.g. [Audit()], or a package, e.g. "crm.events"'
    ),
    "settings": _Rule(
        lambda value: value is None or isinstance(value, Settings), "give an eventbus.Settings, or nothing"
    ),
    "publisher": _Rule(
        lambda value: value is None or isinstance(value, Publisher) or _is_function(value),
        "give a Publisher, a function that makes one, or nothing; a broker's URL is `url=`",
    ),
}
_OBJECTS: Final = frozenset({"author", "auto_fields", "listeners", "new_id", "publisher", "schemas"})
