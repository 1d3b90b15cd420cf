"""The events of one service as an AsyncAPI 3 document, which holds the JSON Schema of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eventbus.contract.json_schema import Describer, JsonSchema, events
from eventbus.events import batch, naming
from eventbus.events.envelope import CONTENT_TYPE
from eventbus.records.entity import Entity

Document = dict[str, Any]


def describe(
    service: str, entities: Iterable[Entity], *, exchange: str, dialect: str, version: str, batches: bool = False
) -> Document:
    """An AsyncAPI 3.0 document: a channel, a message and an operation for each routing key of these entities.

    `version` is that of the service's contract; `dialect` says on which database records live, as databases differ in
    what they round and cut. `batches`: messages may also hold several events.
    """
    describer = Describer()
    schemas: dict[str, JsonSchema] = {}
    for entity in entities:
        schemas |= events(describer, entity, f"/{naming.quote(service)}", dialect)
    names = {key: key.replace("%", "_") for key in schemas}  # names of components are [a-zA-Z0-9._-]
    forms = {name: _messages(key, name, batches) for key, name in names.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"Events of {service}",
            "version": version,
            "description": "Every committed change of a record, as a CloudEvent, at least once. Compare `sequence`.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {name: _channel(key, forms[name], exchange) for key, name in names.items()},
        "operations": {f"send.{name}": _operation(name, forms[name]) for name in names.values()},
        "components": {
            "messages": {form: made for name in names.values() for form, made in forms[name].items()},
            "schemas": {names[key]: schema for key, schema in schemas.items()},
        },
    }


def _channel(key: str, forms: Iterable[str], exchange: str) -> Document:
    return {
        "address": key,
        "messages": {form: {"$ref": f"#/components/messages/{form}"} for form in forms},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": exchange, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": "0.3.0",
            }
        },
    }


def _operation(name: str, forms: Iterable[str]) -> Document:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{form}"} for form in forms],
    }


def _messages(key: str, name: str, batches: bool) -> dict[str, Document]:
    """The messages of a channel, by their names: the event alone, and maybe several in a list."""
    event = {"$ref": f"#/components/schemas/{name}"}
    single = {name: {"name": key, "contentType": CONTENT_TYPE, "payload": event}}
    if not batches:
        return single
    several = {"type": "array", "items": event, "minItems": 2, "maxItems": batch.MOST_EVENTS}
    return {**single, f"{name}.batch": {"name": key, "contentType": batch.CONTENT_TYPE, "payload": several}}
