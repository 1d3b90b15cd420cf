"""Publishing over kombu's virtual transports: our embedded broker on one SQLite file, and kombu's `memory` in tests.

There is no network and no confirm to wait for: a call of the channel that returned has done what it promises. On the
embedded broker that is one transaction, synced to disk, for all messages of a call.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final, final

from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from eventbus import transports
from eventbus.errors import BrokerUnavailable
from eventbus.events.envelope import Message
from eventbus.events.signing import Key
from eventbus.process import failpoints
from eventbus.publishers.base import Outcome, Publisher
from eventbus.publishers.headers import headers_for
from eventbus.redaction import redact, redact_url
from eventbus.transports.mirror_queue import declare_if_missing
from eventbus.transports.sqlite.neighbours import warn_of_others

_LOST: Final = (AMQPError, KombuError, OSError)

logger = logging.getLogger(__name__)


@final
class VirtualPublisher(Publisher):
    """Publishes to a topic exchange of a broker without a server.

    Declares the exchange, and `queue` with its dead letters unless it is there: a service may run before its first
    mirror. With a `key` every message is signed (see `eventbus.events.signing`).
    """

    def __init__(
        self,
        url: str,
        *,
        exchange: str,
        service: str,
        queue: str,
        key: Key | None = None,
    ) -> None:
        # Not opened: what cannot be meant is an error here. And what it takes is imported by now: a fork while another
        # thread imports a module leaves the child with half of it, for ever.
        transports.connection(url).get_transport_cls()
        self._url = url
        self._exchange = exchange
        self._service = service
        self._queue = queue
        self._headers = headers_for(key)
        self._client: Any = None
        self._channel: Any = None

    def __repr__(self) -> str:
        return f"<VirtualPublisher {redact_url(self._url)} exchange={self._exchange!r}>"

    def publish(self, messages: Sequence[Message]) -> list[Outcome]:
        """See `Publisher.publish`. After a failure the fate of every message is unknown."""
        if not messages:
            return []
        try:
            if self._channel is None:
                self._open()
            routed = self._send([self._item(message) for message in messages])
            failpoints.hit("after_publish")
        except _LOST as error:
            self.close()
            raise BrokerUnavailable(
                f"broker {redact_url(self._url)}: {redact(str(error))}", outcomes=[None] * len(messages)
            ) from error
        except BaseException:
            self.close()
            raise
        return [Outcome.CONFIRMED if taken else Outcome.UNROUTABLE for taken in routed]

    def close(self) -> None:
        client, self._client, self._channel = self._client, None, None
        if client is not None:
            client.release()

    def abandon(self) -> None:
        # What was open belongs to the parent, whose transport sees to it that a fork finds nothing in use.
        self._client = self._channel = None

    def _open(self) -> None:
        self._client = transports.connection(self._url)
        self._channel = channel = self._client.channel()
        channel.exchange_declare(exchange=self._exchange, type="topic", durable=True, auto_delete=False)
        declare_if_missing(channel, self._exchange, self._queue)
        where = redact_url(self._url)
        if self._url.startswith("sqlite:"):
            warn_of_others(self._url)
        logger.info(
            "opened the broker %s, exchange %s", where, self._exchange, extra={"url": where, "exchange": self._exchange}
        )

    def _item(self, message: Message) -> tuple[str, bytes, dict[str, Any]]:
        properties = {
            "application_headers": self._headers(message.body),
            "content_type": message.content_type,
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "correlation_id": message.correlation_id,
            "message_id": message.id,
            "timestamp": int(time.time()),
            "type": message.routing_key,
            "app_id": self._service,
        }
        return message.routing_key, message.body, properties

    def _send(self, items: Sequence[tuple[str, bytes, dict[str, Any]]]) -> list[bool]:
        publish_batch = getattr(self._channel, "publish_batch", None)
        if publish_batch is not None:
            return list(publish_batch(self._exchange, items))
        return [self._send_one(*item) for item in items]

    def _send_one(self, key: str, body: bytes, properties: dict[str, Any]) -> bool:
        channel = self._channel
        table = channel.get_table(self._exchange)
        if not channel.typeof(self._exchange).lookup(table, self._exchange, key, None):
            return False
        headers = properties.pop("application_headers")
        type_, encoding = properties.pop("content_type"), properties.pop("content_encoding")
        content = channel.prepare_message(body, 0, type_, encoding, headers, properties)
        channel.basic_publish(content, self._exchange, key)
        return True
