"""All models of a database against a mirror: what differs, and with a bus, published again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import Engine

from eventbus.bus import Bus
from eventbus.comparison.difference import Difference, Tally
from eventbus.comparison.doubts import MOST, Doubts, Patience
from eventbus.comparison.healing import AT_ONCE, Healer
from eventbus.comparison.looking import Looking, batches
from eventbus.comparison.mirror import Mirror
from eventbus.comparison.rows import Rows
from eventbus.comparison.scan import CHUNK, KeyOf, Scan
from eventbus.dumps.targets import entities_of, note_inheritance
from eventbus.errors import ConfigurationError, SerializationError
from eventbus.events.change import Key
from eventbus.listeners.committing.encoding import key_values
from eventbus.outbox.reading.census import take_census
from eventbus.outbox.side import side_engine
from eventbus.records.entities import Entities
from eventbus.records.entity import Entity
from eventbus.snapshot import key_of

_PAUSE: Final = 0.1


def compare(
    entities: Entities,
    engine: Engine,
    mirror: Mirror,
    *,
    models: Any,
    only: Iterable[str] = (),
    heal: Bus | None = None,
    patience: Patience | None = None,
    chunk: int = CHUNK,
    told: Callable[[Difference], None] | None = None,
    progress: Callable[[Tally], None] | None = None,
) -> Tally:
    """Compare all rows of the models with the mirror's records; returns what was found, in numbers.

    `entities` say what the service publishes; `models` is as for `snapshot`, `only` names entities. `told` is called
    with each difference once it is certain. With a bus in `heal` it is then published, and waited for in the mirror for
    `patience.timeout` seconds. Raises ConfigurationError for names that are no entity, FlushTimeout where the broker
    does not take what heals, and SQLAlchemy's errors.
    """
    tally = Tally()
    with _side(engine) as side:
        note_inheritance(side, entities, models)
        for entity in _chosen(entities, models, set(only)):
            run = _Run(entity, side, mirror, heal, patience or Patience(), tally)
            for difference in run.differences(chunk, progress):
                if told is not None:
                    told(difference)
            run.finish()
    return tally


def _chosen(entities: Entities, models: Any, only: set[str]) -> list[Entity]:
    found = {entity.name: entity for entity in entities_of(entities, models)}
    for name in only:
        if name not in found:
            raise ConfigurationError(f"there is no entity {name}; the models have {', '.join(found) or 'none'}")
    return [entity for name, entity in found.items() if not only or name in only]


@contextmanager
def _side(engine: Engine) -> Iterator[Engine]:
    if engine.dialect.name == "sqlite" and engine.url.database in (None, "", ":memory:"):
        yield engine
        return
    side = side_engine(engine)
    try:
        yield side
    finally:
        side.dispose()


class _Run:
    """The comparison of one entity."""

    def __init__(
        self, entity: Entity, engine: Engine, mirror: Mirror, bus: Bus | None, patience: Patience, tally: Tally
    ) -> None:
        model = entity.routing_keys["c"].rpartition(".")[0]
        self._looking = Looking(Rows(engine, entity), mirror, model, tuple(entity.withheld))
        self._doubts = Doubts(self._looking, partial(_outbox_age, engine), patience)
        self._key_of = _keys_of(entity, engine)
        self._healer = None if bus is None else Healer(bus, engine, entity, self._key_of)
        self._awaited: dict[str, _Awaited] = {}
        self._patience = patience
        self._tally = tally

    def differences(self, chunk: int, progress: Callable[[Tally], None] | None) -> Iterator[Difference]:
        """Each once; counted, and published where that was asked for."""
        scan = Scan(self._looking, self._doubts, self._key_of, self._tally, progress)
        for some in batches(self._counted(scan.differences(chunk)), AT_ONCE):
            yield from some
            if self._healer is not None:
                self._heal(self._healer, some)

    def finish(self) -> None:
        """Wait until what was published is in the mirror, as far as it comes there."""
        self._tally.in_flight += len(self._doubts)
        self._await()
        if self._healer is not None:
            self._tally.problems += self._healer.problems

    def _counted(self, differences: Iterable[Difference]) -> Iterator[Difference]:
        for each in differences:
            setattr(self._tally, each.kind, getattr(self._tally, each.kind) + 1)
            yield each

    def _heal(self, healer: Healer, differences: list[Difference]) -> None:
        for each in healer.heal(differences, self._patience.timeout):
            self._tally.published += 1
            name = self._looking.mirror.name(each.pk)
            self._awaited[name] = _Awaited(name, each.pk, self._key_of(each.pk))
        if len(self._awaited) >= MOST:
            self._await()

    def _await(self) -> None:
        """What has not come by then counts as not healed."""
        deadline = time.monotonic() + self._patience.timeout
        self._see_what_came()
        while self._awaited and time.monotonic() < deadline and not self._looking.mirror.is_stopped():
            time.sleep(_PAUSE)
            self._see_what_came()
        self._awaited.clear()

    def _see_what_came(self) -> None:
        for awaited, seen in self._looking.at(list(self._awaited.values())):
            if seen.difference is None:
                del self._awaited[awaited.name]
                self._tally.healed += 1


class _Awaited(NamedTuple):
    """A record that was published again, and is not in the mirror yet."""

    name: str
    pk: Any
    key: Key | None


def _outbox_age(engine: Engine) -> float:
    return take_census(engine).oldest


def _keys_of(entity: Entity, engine: Engine) -> KeyOf:
    """From a key as the mirror has it to the values of a row's key, which is published as just that."""
    pk = entity.serializer(engine.dialect).pk

    def found(text: Any) -> Key | None:
        try:
            key = key_of(entity, orjson.dumps(text).decode() if isinstance(text, list) else str(text), engine)
            return key if pk(key_values(entity, key)) == text else None
        except (ConfigurationError, SerializationError):
            return None

    return found
