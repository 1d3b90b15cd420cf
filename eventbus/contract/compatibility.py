"""Which changes of a service's events break those who read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from eventbus.errors import ConfigurationError

Schema = Mapping[str, Any]


def breaking(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What a reader of the old events cannot rely on any more, a sentence each, from two AsyncAPI documents.

    A reader breaks where an event or a field is gone, where a field may hold what it never held: another type, null,
    one more choice, another form of text; and where messages come in a form that it never met, as batches. Raises
    ConfigurationError where a document is none of ours.
    """
    before, after = _records(old), _records(new)
    found = [f"{key}: is not published any more" for key in before.keys() - after.keys()]
    for key in before.keys() & after.keys():
        found += _of_objects(key, before[key], after[key])
    found += _of_forms(_forms(old), _forms(new))
    return sorted(found)


def _forms(document: Mapping[str, Any]) -> Mapping[str, set[str]]:
    """The content types of each event's messages, by routing key."""
    found: dict[str, set[str]] = {}
    for message in document["components"].get("messages", {}).values():
        found.setdefault(message["name"], set()).add(message["contentType"])
    return found


def _of_forms(before: Mapping[str, set[str]], after: Mapping[str, set[str]]) -> Iterator[str]:
    for key in before.keys() & after.keys():
        for form in sorted(after[key] - before[key]):
            yield f"{key}: comes as {form} too now, was {' or '.join(sorted(before[key]))}"


def _records(document: Mapping[str, Any]) -> dict[str, Schema]:
    """The record's schema in each event, by routing key."""
    try:
        found = document["components"]["schemas"]
        data = {schema["title"]: schema["properties"]["data"]["properties"] for schema in found.values()}
        return {key: each["before"] if "properties" in each["before"] else each["after"] for key, each in data.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError("this is no document that `eventbus schema` wrote: it holds no events") from error


def _of_objects(path: str, old: Schema, new: Schema) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        if name not in after:
            yield f"{path}: field {name} is gone"
        else:
            yield from _of_values(f"{path}: field {name}", before[name], after[name])


def _of_values(path: str, old: Schema, new: Schema) -> Iterator[str]:
    old, new = _flat(old), _flat(new)
    if not old:
        return  # anything was possible
    allowed = _types(old)
    more = _types(new) - allowed - ({"integer"} if "number" in allowed else set())
    if not new or more:
        kinds = " or ".join(sorted(more)) or "anything"
        yield f"{path} may be {kinds} now, was {' or '.join(sorted(allowed))}"
        return
    yield from _of_choices(path, old, new)
    for form in ("format", "pattern", "contentEncoding"):
        if old.get(form) is not None and old.get(form) != new.get(form):
            yield f"{path} has another {form} now: {new.get(form)}, was {old[form]}"
    if "properties" in old:
        yield from _of_objects(path, old, new)
    if "items" in old:
        yield from _of_values(f"{path}[]", old["items"], new.get("items", {}))


def _of_choices(path: str, old: Schema, new: Schema) -> Iterator[str]:
    if "enum" not in old:
        return
    more = [each for each in new.get("enum", ()) if each not in old["enum"] and each is not None]
    if "enum" not in new:
        yield f"{path} may be any text now, was one of {', '.join(map(str, old['enum']))}"
    elif more:
        yield f"{path} may be {', '.join(map(str, more))} too now"


def _flat(schema: Schema) -> dict[str, Any]:
    """`anyOf: [X, null]` as X that may be null."""
    parts = schema.get("anyOf")
    if parts is None:
        return dict(schema)
    bare = [part for part in parts if part.get("type") != "null"]
    if len(bare) != 1 or not bare[0]:
        return {"type": sorted({kind for part in parts for kind in _types(part)})}
    return {**bare[0], "type": sorted({*_types(bare[0]), "null"})}


def _types(schema: Schema) -> set[str]:
    kinds = schema.get("type", ())
    return {kinds} if isinstance(kinds, str) else set(kinds)
