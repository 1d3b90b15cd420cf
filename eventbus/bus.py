"""`install()`: the one place where the parts are wired to each other and to an application's Sessions."""

from __future__ import annotations

import inspect
import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, final
from weakref import WeakKeyDictionary

from marshmallow import Schema
from sqlalchemy import event
from sqlalchemy.orm import Session

from eventbus import arguments
from eventbus.delivery.dispatcher import Dispatcher
from eventbus.delivery.relayed import Relayed
from eventbus.delivery.stats import Stats, Watcher
from eventbus.errors import ConfigurationError, InstallError
from eventbus.events.ids import uuid7
from eventbus.listeners.auto_fields import AutoFields, IdGenerator
from eventbus.listeners.base import Listener, register, unlisten
from eventbus.listeners.capture import Capture
from eventbus.listeners.committing.encoding import Encoder, Policy
from eventbus.listeners.committing.transaction import Joined, Transactions
from eventbus.listeners.modules import import_listeners, made
from eventbus.listeners.statements.bulk import Bulk
from eventbus.listeners.statements.omissions import Mode
from eventbus.listeners.targets import resolve
from eventbus.outbox import Entry, Outbox
from eventbus.outbox.writing.writer import begun
from eventbus.publishers import Publisher, on_the_wire, publisher_for
from eventbus.records.entities import Entities
from eventbus.redaction import redact_url
from eventbus.settings import DEFAULT_SERVICE, Settings

log = logging.getLogger(__name__)

_installed: Final[WeakKeyDictionary[type[Session], Bus]] = WeakKeyDictionary()
_lock: Final = threading.Lock()


def install(
    target: Any,
    *,
    service: str | None = None,
    url: str | None = None,
    schemas: Mapping[Any, type[Schema] | Schema] | None = None,
    include: Iterable[Any] = (),
    exclude: Iterable[Any] = (),
    withhold: Iterable[str] = (),
    author: Callable[[], Any] | None = None,
    outbox: bool = True,
    create_outbox: bool = True,
    delivery: Literal["thread", "relay"] | None = None,
    wire: Literal["single", "batch"] | None = None,
    bulk: Mode = "capture",
    auto_fields: bool | AutoFields = True,
    new_id: IdGenerator = uuid7,
    on_unfit: Policy = "fail",
    reread: bool = False,
    joined: Joined = "wait",
    listeners: Sequence[Listener] | str = (),
    settings: Settings | None = None,
    publisher: Callable[[], Publisher] | Publisher | None = None,
) -> Bus:
    """Publish every committed change of the Sessions that `target` makes. Connects to nothing yet.

    `target` is a sessionmaker, async_sessionmaker, scoped_session (also Flask-SQLAlchemy's `db.session`), or a Session
    subclass. A second call for the same one returns the first call's bus; what contradicts that one is an error.

    * `service`, `url`: win over EVENTBUS_SERVICE and EVENTBUS_URL; `settings` replaces all that the environment says.
    * `schemas`: marshmallow schemas by model, for what is published of a record; the others are derived.
    * `include`, `exclude`: models, tables or entity names; with `include` nothing else is captured.
    * `withhold`: words in names of columns that stay home beside those that look like secrets, as `birth`, `salary`.
    * `author`: called for the author of a change where no `acting_as` says it, e.g. a framework's current user.
    * `outbox=False`: direct mode, best effort: a crash between commit and confirm loses events.
    * `create_outbox=False`: the outbox tables are made by Alembic (`eventbus.outbox.metadata`), not on first need.
    * `delivery`: wins over EVENTBUS_DELIVERY. "thread": this process publishes, after the commit. "relay": it only
      writes the outbox row, and an `eventbus relay` publishes; no broker is spoken to here.
    * `wire`: wins over EVENTBUS_WIRE. "single": a message for each event. "batch": neighbours of one transaction and
      routing key share messages, for consumers that know them. Where the relay publishes, it is the relay's to say.
    * `bulk`: what becomes of update(), delete() and insert() statements: "capture" them as changes, "warn", "raise" or
      "ignore"; the execution option `eventbus_bulk` overrides it for one statement.
    * `auto_fields`: fill in ids, authors and timestamps; an `AutoFields` of your own names the fields.
    * `new_id`: makes ids for records without one.
    * `on_unfit`: what becomes of a record no event can hold; "fail" the commit, or publish a marked "stub".
    * `reread`: read updated rows once more at the commit, one SELECT an entity. Without it the columns that an update
      left alone come from the object, which is stale if another transaction changed them after the object was loaded.
    * `joined`: a Session bound to a Connection with a transaction of its own waits for that one's commit; "deliver"
      publishes at the Session's commit, for tests that roll everything back.
    * `listeners`: objects told of each moment of a Session (see `Listener`); or the name of a package: all its modules
      are imported, and the `Listener` classes and `listens_for` functions in them registered, in the order of names.
    * `publisher`: an own publisher, or what makes one, in place of the URL's.

    Raises InstallError for a target or models that cannot be served, ConfigurationError for wrong settings, arguments.
    """
    given = {name: value for name, value in locals().items() if name != "target"}
    arguments.check(**given)
    # Before the lock: a module of theirs may install a bus of its own.
    found = import_listeners(listeners) if isinstance(listeners, str) else []
    settings = _settings(settings, service=service, url=url, delivery=delivery, wire=wire)
    _demand_publishing(settings, wire)
    with _lock:
        resolved = resolve(target)
        present = _installed.get(resolved.session_class)
        if present is not None:
            _compare(target, present, given)
            return present
        others = made(found) if isinstance(listeners, str) else listeners
        entities = Entities(settings.service, include=include, exclude=exclude, schemas=schemas, withhold=withhold)
        courier = _delivery(settings, publisher, durable=outbox, joined=joined)
        capture = Capture(entities, author=author)
        if auto_fields is True:
            auto_fields = AutoFields(author=capture.author, new_id=new_id)
        sink = _Sink(Outbox(create=create_outbox, durable=outbox, for_relay=settings.by_relay), courier)
        encoder = Encoder(settings.service, max_bytes=settings.max_event_bytes, policy=on_unfit)
        uninstall = register(
            resolved.session_class,
            auto_fields=auto_fields or None,
            capture=capture,
            bulk=Bulk(capture, bulk),
            transaction=Transactions(capture, encoder, sink, listeners=others, reread=reread, joined=joined),
            others=others,
        )
        beginning = (resolved.session_class, "after_begin", begun)
        event.listen(*beginning)
        undo = (partial(unlisten, *beginning), uninstall, resolved.release)
        bus = Bus(settings, entities, encoder, sink, resolved.session_class, undo, arguments=given)
        _installed[resolved.session_class] = bus
    _announce(bus, publisher)
    return bus


def installed(target: Any) -> Bus:
    """The bus that `install(target)` made. Raises InstallError where there is none."""
    bus = _installed.get(resolve(target).session_class)
    if bus is None:
        raise InstallError(f"eventbus.install() was not called for {target!r}")
    return bus


@final
class Bus:
    """One installation: what `install()` returns. Thread-safe; a forked child goes on with a dispatcher of its own."""

    def __init__(
        self,
        settings: Settings,
        entities: Entities,
        encoder: Encoder,
        sink: _Sink,
        session_class: type[Session],
        undo: Sequence[Callable[[], None]],
        *,
        arguments: Mapping[str, Any],
    ) -> None:
        self.settings = settings
        self.entities = entities
        self.encoder = encoder
        self.sink = sink
        self._delivery = sink.delivery
        self._session_class = session_class
        self._undo = list(undo)
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"<Bus service={self.settings.service!r} broker={redact_url(self.settings.url)}>"

    def flush(self, timeout: float = 30.0) -> None:
        """Return when all that was committed so far is confirmed by the broker.

        Raises FlushTimeout if that takes more than `timeout` seconds, or as soon as the broker refused some of it.
        With `delivery="relay"` it is the relay that is waited for.
        """
        self._delivery.flush(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Uninstall, deliver what can be delivered within `timeout` seconds, disconnect. Again: nothing happens.

        With the outbox, what is not delivered stays there for another process or `eventbus relay`. With
        `delivery="relay"` nothing is waited for.
        """
        self.uninstall()
        self._delivery.close(timeout)

    def uninstall(self) -> None:
        """Stop listening to the Sessions; what was committed before is still delivered."""
        with _lock:
            while self._undo:
                self._undo.pop(0)()
            if _installed.get(self._session_class) is self:
                del _installed[self._session_class]

    def stats(self) -> Stats:
        """The figures to watch: pending, age of the oldest, published, retried, parked (see `Stats`)."""
        return self._delivery.stats()

    def watch(self, watcher: Watcher) -> None:
        """Have a function told of the figures: now, and after batches, at most twice a second (see `eventbus.metrics`).

        It is called by the thread that publishes. With `delivery="relay"` it is told every 15 s what waits for the
        relay: rows, and the age of the oldest; the other figures are the relay's, at its EVENTBUS_HTTP.
        """
        self._delivery.watch(watcher)

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_Delivery = Dispatcher | Relayed


class _Sink:
    """What the transaction listener knows of outbox and dispatcher."""

    def __init__(self, outbox: Outbox, delivery: _Delivery) -> None:
        self.delivery = delivery
        self.write = outbox.write
        self.submit = delivery.submit

    def doubt(self, entries: Sequence[Entry]) -> None:
        for store in {entry.store for entry in entries if entry.store is not None}:
            self.delivery.nudge(store)


def _compare(target: Any, present: Bus, given: Mapping[str, Any]) -> None:
    """Raise InstallError where a second `install()` contradicts the first one."""
    contradict, differ = arguments.differences(present.arguments, given, _DEFAULTS)
    if contradict:
        raise InstallError(
            f"install({target!r}) was called before, with another {' and '.join(contradict)}: give both calls the "
            "same, or close() the bus of the first one before"
        )
    hint = f"; the first one's {' and '.join(differ)} is what counts" if differ else ""
    log.warning(
        "already installed on %r: %r%s", target, present, hint, extra={"target": repr(target), "bus": repr(present)}
    )


_DEFAULTS: Final = {each.name: each.default for each in inspect.signature(install).parameters.values()}


def _settings(settings: Settings | None, **given: str | None) -> Settings:
    settings = Settings.from_env() if settings is None else settings
    return replace(settings, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _demand_publishing(settings: Settings, wire: str | None) -> None:
    if wire is not None and settings.by_relay:
        raise ConfigurationError(
            f"install(wire={wire!r}): here the relay publishes, so it is the one to be told: EVENTBUS_WIRE={wire}"
        )


def _delivery(
    settings: Settings, publisher: Callable[[], Publisher] | Publisher | None, *, durable: bool, joined: Joined
) -> _Delivery:
    if settings.by_relay:
        how = "ordering='strict'" if settings.ordering == "strict" else "delivery='relay'"
        if not durable:
            raise ConfigurationError(f"{how} needs the outbox: it is the relay that publishes")
        if publisher is not None:
            raise ConfigurationError(f"{how} leaves publishing to the relay: give no publisher here")
        return Relayed()
    if publisher is None:
        # Relative paths mean the working directory of now, not of the thread's first connection.
        settings = replace(settings, url=_anchored(settings.url))
        publisher_for(settings).close()
        make: Callable[[], Publisher] = partial(publisher_for, settings)
    else:
        make = partial(_own, publisher, settings)
    return Dispatcher(
        make,
        max_bytes=settings.max_pending_bytes,
        unroutable=settings.unroutable,
        expects_rows=joined != "deliver",  # there the rows may be rolled back after all
    )


def _anchored(url: str) -> str:
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator or path.startswith("/"):
        return url
    return f"sqlite:///{os.path.abspath(path)}"


def _own(publisher: Callable[[], Publisher] | Publisher, settings: Settings) -> Publisher:
    return on_the_wire(publisher if isinstance(publisher, Publisher) else publisher(), settings)


def _announce(bus: Bus, publisher: object) -> None:
    settings = bus.settings
    broker = redact_url(settings.url)
    log.info(
        "installed for the service %s at %s",
        settings.service,
        broker,
        extra={"service": settings.service, "broker": broker},
    )
    if settings.service == DEFAULT_SERVICE and settings.url.startswith("amqp") and publisher is None:
        log.warning(
            "service is called 'app': set EVENTBUS_SERVICE, or two services will meet in one name",
            extra={"broker": broker},
        )
