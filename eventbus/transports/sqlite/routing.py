"""Which queues a message goes to: AMQP 0-9-1 routing as a value, without I/O.

Unlike kombu's virtual transports, `#` matches zero words too, and a routing key without a queue is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

EXCHANGE_TYPES: Final = frozenset({"direct", "fanout", "topic"})
DEFAULT_EXCHANGE: Final = ""
"""Routes to the queue whose name is the routing key, without any binding."""

_CACHE_LIMIT: Final = 10_000
"""Routing keys remembered; a service has three for each entity."""


def topic_matches(pattern: str, key: str) -> bool:
    """Whether a topic binding takes a routing key: `*` is exactly one word, `#` is any number of words, none too."""
    wanted = _words(pattern)
    positions = _skip_hashes(wanted, {0})
    for word in _words(key):
        positions = _skip_hashes(wanted, _step(wanted, positions, word))
    return len(wanted) in positions


def _words(text: str) -> list[str]:
    return text.split(".") if text else []


def _step(wanted: Sequence[str], positions: set[int], word: str) -> set[int]:
    """The positions in the pattern that are reached from `positions` by one more word of the key."""
    reached: set[int] = set()
    for position in positions:
        if position < len(wanted):
            expected = wanted[position]
            if expected == "#":
                reached.add(position)
            elif expected in ("*", word):
                reached.add(position + 1)
    return reached


def _skip_hashes(wanted: Sequence[str], positions: set[int]) -> set[int]:
    """Add the positions behind every `#` that may stand for no word at all."""
    reached = set(positions)
    for position in positions:
        following = position
        while following < len(wanted) and wanted[following] == "#":
            following += 1
            reached.add(following)
    return reached


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What a queue's arguments ask of the broker. `arguments` are all of them, as declared."""

    id: int
    name: str
    auto_delete: bool
    arguments: Mapping[str, object]

    @property
    def single_active_consumer(self) -> bool:
        """Only the consumer that is there for longest gets messages."""
        return self.arguments.get("x-single-active-consumer") is True

    @property
    def delivery_limit(self) -> int | None:
        """How many times a message may come back before it is dead-lettered; None is for ever."""
        limit = self.arguments.get("x-delivery-limit")
        return limit if isinstance(limit, int) else None

    @property
    def dead_letter_exchange(self) -> str | None:
        """Where rejected messages go; None drops them."""
        exchange = self.arguments.get("x-dead-letter-exchange")
        return exchange if isinstance(exchange, str) else None

    def dead_letter_key(self, routing_key: str) -> str:
        """The routing key of a dead letter that came with `routing_key`."""
        key = self.arguments.get("x-dead-letter-routing-key")
        return key if isinstance(key, str) else routing_key


@dataclass(frozen=True, slots=True)
class Topology:
    """Exchanges, queues and bindings at one moment. `version` names the moment."""

    version: int
    exchanges: Mapping[str, str]
    queues: Mapping[int, QueueRules]
    bindings: Mapping[str, Sequence[tuple[str, int]]]
    _ids: Mapping[str, int] = field(init=False)
    _cache: dict[tuple[str, str], tuple[int, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {queue.name: queue.id for queue in self.queues.values()})

    def queue(self, name: str) -> QueueRules | None:
        """The queue of this name, None where there is none."""
        number = self._ids.get(name)
        return None if number is None else self.queues[number]

    def has_exchange(self, name: str) -> bool:
        """Whether there is such an exchange; the default one always is."""
        return name == DEFAULT_EXCHANGE or name in self.exchanges

    def route(self, exchange: str, routing_key: str) -> tuple[int, ...]:
        """The ids of the queues that get a copy, each once. Raises KeyError for an unknown exchange."""
        found = self._cache.get((exchange, routing_key))
        if found is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            found = self._cache[exchange, routing_key] = tuple(sorted(self._find(exchange, routing_key)))
        return found

    def _find(self, exchange: str, routing_key: str) -> set[int]:
        if exchange == DEFAULT_EXCHANGE:
            return {self._ids[routing_key]} if routing_key in self._ids else set()
        kind, bindings = self.exchanges[exchange], self.bindings.get(exchange, ())
        if kind == "fanout":
            return {queue for _, queue in bindings}
        if kind == "topic":
            return {queue for pattern, queue in bindings if topic_matches(pattern, routing_key)}
        return {queue for key, queue in bindings if key == routing_key}
