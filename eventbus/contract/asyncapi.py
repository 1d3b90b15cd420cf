"""The events of one service as an AsyncAPI 3 document, which holds the JSON Schema of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventbus.contract.json_schema import Describer, JsonSchema, events
from eventbus.events import naming
from eventbus.events.envelope import CONTENT_TYPE
from eventbus.records.entity import Entity

Document = dict[str, Any]


def describe(service: str, entities: Iterable[Entity], *, exchange: str, dialect: str, version: str) -> Document:
    """An AsyncAPI 3.0 document: a channel, a message and an operation for each routing key of these entities.

    `version` is that of the service's contract; `dialect` says on which database records live, as databases differ in
    what they round and cut.
    """
    describer = Describer()
    schemas: dict[str, JsonSchema] = {}
    for entity in entities:
        schemas |= events(describer, entity, f"/{naming.quote(service)}", dialect)
    names = {key: key.replace("%", "_") for key in schemas}  # names of components are [a-zA-Z0-9._-]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Events of {service}",
            "version": version,
            "description": "Every committed change of a record, as a CloudEvent, at least once. Compare `sequence`.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {names[key]: _channel(key, names[key], exchange) for key in schemas},
        "operations": {f"send.{names[key]}": _operation(names[key]) for key in schemas},
        "components": {
            "messages": {names[key]: _message(key, names[key]) for key in schemas},
            "schemas": {names[key]: schema for key, schema in schemas.items()},
        },
    }


def _channel(key: str, name: str, exchange: str) -> Document:
    return {
        "address": key,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _operation(name: str) -> Document:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{name}"}],
    }


def _message(key: str, name: str) -> Document:
    return {
        "name": key,
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"#/components/schemas/{name}"},
    }
