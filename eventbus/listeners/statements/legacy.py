"""The Session's bulk methods of old, which have no event: they are wrapped on the application's own class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import instance_state

from eventbus.listeners.capture import Capture
from eventbus.listeners.statements.omissions import Omissions
from eventbus.listeners.statements.recognition import Rows
from eventbus.listeners.statements.watch import Watches

_METHODS: Final = ("bulk_insert_mappings", "bulk_update_mappings", "bulk_save_objects")


class LegacyMethods:
    """`bulk_insert_mappings`, `bulk_update_mappings` and `bulk_save_objects` of the Sessions of one installation."""

    def __init__(self, capture: Capture, rows: Rows, omissions: Omissions, watches: Watches) -> None:
        self._capture = capture
        self._rows = rows
        self._omissions = omissions
        self._watches = watches
        self._overridden: dict[tuple[type[Session], str], Any] = {}

    def wrap(self, session_class: type[Session]) -> None:
        """Wrap the methods of this class."""
        for name in _METHODS:
            if name in session_class.__dict__:
                self._overridden[session_class, name] = session_class.__dict__[name]
            setattr(session_class, name, _wrapped(getattr(session_class, name), getattr(self, f"_{name}")))

    def unwrap(self, session_class: type[Session]) -> None:
        """Give the class its own methods back."""
        for name in _METHODS:
            delattr(session_class, name)
            if (session_class, name) in self._overridden:
                setattr(session_class, name, self._overridden.pop((session_class, name)))

    def _bulk_insert_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        self._run(run, session, "bulk_insert_mappings", [_first(args, kwargs, "mapper")], args, kwargs)

    def _bulk_update_mappings(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        self._run(run, session, "bulk_update_mappings", [_first(args, kwargs, "mapper")], args, kwargs)

    def _bulk_save_objects(self, run: Callable[..., Any], session: Session, *args: Any, **kwargs: Any) -> None:
        objects = list(_first(args, kwargs, "objects"))
        mappers = dict.fromkeys(instance_state(each).mapper for each in objects)
        if args:
            args = (objects, *args[1:])
        else:
            kwargs["objects"] = objects
        self._run(run, session, "bulk_save_objects", mappers, args, kwargs)

    def _run(
        self, run: Callable[..., Any], session: Session, what: str, models: Iterable[Any], args: Any, kwargs: Any
    ) -> None:
        mappers = [model if isinstance(model, Mapper) else model.__mapper__ for model in models]
        hits = [self._rows.hit_of(mapper) for mapper in mappers]
        mode = self._omissions.mode
        captures = mode != "ignore" and any(hits) and self._capture.open(session) is not None
        if captures and mode != "capture":
            self._omissions.leave_out(mode, f"{what} of {', '.join(hit.name for hit in hits if hit is not None)}")
            captures = False
        mapper = mappers[0] if len(mappers) == 1 else None
        with self._watches.watching(session, captures=captures, mapper=mapper, bulk=True):
            run(session, *args, **kwargs)


def _wrapped(original: Callable[..., Any], capture: Callable[..., Any]) -> Callable[..., Any]:
    def method(session: Session, *args: Any, **kwargs: Any) -> Any:
        return capture(original, session, *args, **kwargs)

    method.__name__, method.__doc__ = original.__name__, original.__doc__
    return method


def _first(args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    return args[0] if args else kwargs[name]
