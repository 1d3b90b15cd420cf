"""What becomes of a message that was refused, or that came back too often. Inside the caller's transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from eventbus.redaction import shown
from eventbus.transports.sqlite import messages
from eventbus.transports.sqlite.messages import Item, Place
from eventbus.transports.sqlite.routing import QueueRules, Topology

REJECTED: Final = "rejected"
DELIVERY_LIMIT: Final = "delivery_limit"

logger = logging.getLogger(__name__)


def give_back(database: sqlite3.Connection, topology: Topology, places: Sequence[Place]) -> set[int]:
    """Make delivered messages ready again in their places, or bury those that came back too often.

    Returns the queues that have news.
    """
    database.executemany(
        "UPDATE place SET session = NULL, returns = returns + 1 WHERE queue = ? AND message = ?", places
    )
    limits = {queue.id: queue.delivery_limit for queue in topology.queues.values() if queue.delivery_limit is not None}
    worn_out = [place for place in places if place[0] in limits and _returns(database, place) > limits[place[0]]]
    return {queue for queue, _ in places} | bury(database, topology, worn_out, DELIVERY_LIMIT)


def bury(database: sqlite3.Connection, topology: Topology, places: Sequence[Place], reason: str) -> set[int]:
    """Move messages to where their queue's arguments say, or drop them where these say nothing.

    Returns the queues that got some.
    """
    moved: list[tuple[Sequence[int], str, Item]] = []
    for queue, message in places:
        rules = topology.queues[queue]
        letter = _letter(database, message, rules, reason)
        moved.append((_route(topology, rules, letter[0]), rules.dead_letter_exchange or "", letter))
        database.execute("DELETE FROM place WHERE queue = ? AND message = ?", (queue, message))
    return messages.append(database, moved)


def with_death(headers: Mapping[str, Any], queue: str, reason: str, exchange: str, routing_key: str) -> dict[str, Any]:
    """The headers with RabbitMQ's `x-death`: newest first, one entry for each queue and reason, with a count.

    `time` is ISO 8601 in UTC without offset, as headers are stored; a delivered message has py-amqp's datetime.
    """
    earlier = [dict(death) for death in headers.get("x-death") or ()]
    same = [death for death in earlier if (death.get("queue"), death.get("reason")) == (queue, reason)]
    times = int(same[0].get("count", 0)) if same else 0
    entry = {
        "count": times + 1,
        "reason": reason,
        "queue": queue,
        "time": datetime.now(UTC).replace(tzinfo=None, microsecond=0).isoformat(),
        "exchange": exchange,
        "routing-keys": [routing_key],
    }
    first = {"x-first-death-queue": queue, "x-first-death-reason": reason, "x-first-death-exchange": exchange}
    return first | dict(headers) | {"x-death": [entry, *(death for death in earlier if death not in same)]}


def _letter(database: sqlite3.Connection, message: int, rules: QueueRules, reason: str) -> Item:
    exchange, routing_key, packed, body = database.execute(
        "SELECT exchange, routing_key, properties, body FROM message WHERE id = ?", (message,)
    ).fetchone()
    properties: dict[str, Any] = orjson.loads(packed)
    headers = properties.get("application_headers") or {}
    properties["application_headers"] = with_death(headers, rules.name, reason, exchange, routing_key)
    return rules.dead_letter_key(routing_key), body, properties


def _route(topology: Topology, rules: QueueRules, routing_key: str) -> Sequence[int]:
    exchange = rules.dead_letter_exchange
    if exchange is None:
        return ()
    queues = topology.route(exchange, routing_key) if topology.has_exchange(exchange) else ()
    if not queues:
        logger.warning(
            "dead letter dropped: no queue takes what queue %s sends to exchange %s with key %s",
            rules.name,
            exchange,
            shown(routing_key),
            extra={"queue": rules.name, "exchange": exchange, "routing_key": routing_key},
        )
    return queues


def _returns(database: sqlite3.Connection, place: Place) -> int:
    returns: int = database.execute("SELECT returns FROM place WHERE queue = ? AND message = ?", place).fetchone()[0]
    return returns
