"""A message as the embedded broker delivers it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from eventbus.transports.raw import RawMessage
from eventbus.transports.sqlite.messages import Stored


class Message(RawMessage):
    """Body as it was sent; properties and headers as py-amqp gives them.

    `delivery_info` has delivery_tag, redelivered, exchange, routing_key, and consumer_tag or message_count. A message
    that was delivered before has the header `x-delivery-count`: how often.
    """

    def __init__(self, stored: Stored, channel: Any, delivery_tag: int, **delivery_info: Any) -> None:
        properties: dict[str, Any] = orjson.loads(stored.properties)
        headers = properties["application_headers"] = _headers(properties.get("application_headers"), stored.returns)
        super().__init__(
            body=stored.body,
            channel=channel,
            delivery_tag=delivery_tag,
            content_type=properties.get("content_type"),
            content_encoding=properties.get("content_encoding"),
            properties=properties,
            headers=headers,
            delivery_info={
                "delivery_tag": delivery_tag,
                "redelivered": stored.returns > 0,
                "exchange": stored.exchange,
                "routing_key": stored.routing_key,
                **delivery_info,
            },
        )


def _headers(stored: dict[str, Any] | None, returns: int) -> dict[str, Any]:
    headers = stored or {}
    for death in headers.get("x-death") or ():
        if isinstance(death, dict) and isinstance(death.get("time"), str):
            death["time"] = datetime.fromisoformat(death["time"])
    if returns:
        headers["x-delivery-count"] = returns
    return headers
