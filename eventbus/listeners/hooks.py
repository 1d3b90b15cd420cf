"""In-process callbacks: `listens_for(Contact, "created")` calls a function after each commit that created a contact."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Table

from eventbus.errors import ConfigurationError
from eventbus.events.change import Change, Entity

log = logging.getLogger(__name__)

Callback = Callable[[Change], Any]
AnyCallback = TypeVar("AnyCallback", bound=Callback)

OPERATIONS: Final = {"created": "c", "updated": "u", "deleted": "d"}


class _Hook(NamedTuple):
    target: type[Any] | Table
    operations: frozenset[str]
    callback: Callback

    def concerns(self, entity: Entity) -> bool:
        if isinstance(self.target, Table):
            return self.target is entity.table
        return entity.model is not None and issubclass(entity.model, self.target)


registered: Final[list[_Hook]] = []
"""All hooks of the process. They belong to models, not to a bus: `listens_for` decorates, beside a model."""


def listens_for(target: type[Any] | Table, *operations: str) -> Callable[[AnyCallback], AnyCallback]:
    """Call the decorated function with a `Change` after each commit that created, updated or deleted such a record.

    `target` is a mapped class (its subclasses are meant too) or a secondary Table; no operations means all three. The
    function runs on the committing thread (in the event loop's thread for an AsyncSession) once the transaction is
    committed and its Session has none: so be quick, and use a Session of your own. What it raises is logged with its
    name; the other functions, the commit and the events are not touched by it. An `async def` is refused.
    """
    if not isinstance(target, type | Table):
        raise ConfigurationError(f"listens_for({target!r}): give a mapped class, or a secondary Table")
    unknown = set(operations) - OPERATIONS.keys()
    if unknown:
        raise ConfigurationError(f"listens_for: {sorted(unknown)} is no operation; there are {', '.join(OPERATIONS)}")
    chosen = frozenset(OPERATIONS[each] for each in operations or OPERATIONS)

    def register(callback: AnyCallback) -> AnyCallback:
        _demand_function(callback)
        registered.append(_Hook(target, chosen, callback))
        return callback

    return register


def _demand_function(callback: Any) -> None:
    if not callable(callback):
        raise ConfigurationError(f"listens_for calls a function, not {callback!r}")
    if inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(type(callback).__call__):
        raise ConfigurationError(
            f"listens_for cannot await {_name(callback)}: make it a plain `def` (one that may call"
            " asyncio.create_task, where an event loop runs)"
        )


def stop_listening(callback: Callback) -> None:
    """Take back all `listens_for` of that function."""
    registered[:] = [hook for hook in registered if hook.callback is not callback]


def arrange(modules: Sequence[str]) -> None:
    """Put the functions of these modules into the order of the modules, then of their names; others stay in place."""
    rank = {name: index for index, name in enumerate(modules)}
    places = [place for place, hook in enumerate(registered) if module_of(hook.callback) in rank]
    theirs = [registered[place] for place in places]
    theirs.sort(key=lambda hook: (rank[module_of(hook.callback)], _name(hook.callback)))
    for place, hook in zip(places, theirs, strict=True):
        registered[place] = hook


def callbacks_for(entity: Entity, op: str) -> tuple[Callback, ...]:
    """The functions that want to know of this operation on this entity, in the order they were registered."""
    return tuple(hook.callback for hook in registered if op in hook.operations and hook.concerns(entity))


def tell(entity: Entity, change: Change, others: Iterable[Callback]) -> None:
    """Call all that want to know of a committed change, and then these."""
    try:
        callbacks = callbacks_for(entity, OPERATIONS[change.op])
    except Exception:  # a class may answer issubclass() in a way of its own
        log.exception("hooks not called", extra={"entity": change.entity, "op": change.op})
        callbacks = ()
    for callback in (*callbacks, *others):
        call(callback, change)


def call(callback: Callback, change: Change) -> None:
    """Call it, and log what it raises."""
    try:
        callback(change)
    except Exception:
        log.exception(
            "hook %s failed on %s %s",
            _name(callback),
            change.op,
            change.entity,
            extra={
                "hook": _name(callback),
                "entity": change.entity,
                "op": change.op,
                "transaction": change.transaction,
            },
        )


def module_of(callback: Callback) -> str:
    """The name of the module that defines it."""
    return getattr(callback, "__module__", None) or "?"


def _name(callback: Callback) -> str:
    return f"{module_of(callback)}.{getattr(callback, '__qualname__', repr(callback))}"
