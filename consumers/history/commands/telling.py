"""How transactions, changes and values are told: one line each, for people, or one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from consumers.history.commands.options import json_text
from consumers.history.reading.transaction import Touch, Transaction
from consumers.history.reading.why import NOTHING, Cause
from consumers.history.store.content import identify
from consumers.history.store.rows import Step
from eventbus.events import naming

_DEEDS = {"c": "created", "d": "deleted", "r": "snapshot"}
_SHOWN = 4


def value(of: Any) -> str:
    """A value as JSON, or that there was none."""
    return "nothing" if of is NOTHING else json_text(of)


def deed(step: Step) -> str:
    """`created`, `deleted`, `snapshot`, or the names of the changed fields."""
    return _DEEDS.get(step.op) or ", ".join(sorted(step.changed or ())) or "updated"


def marks(transaction: Transaction) -> str:
    """What is out of the ordinary, in brackets; nothing where nothing is."""
    found = [
        f"incomplete: {transaction.had + transaction.seen} of {transaction.size}" if transaction.is_incomplete else "",
        f"part {transaction.part}" if transaction.part > 1 else "",
        "late" if transaction.late else "",
    ]
    return "".join(f" [{each}]" for each in found if each)


def line(transaction: Transaction, touches: Iterable[Touch]) -> str:
    """A transaction on one line."""
    told = [f"{named(touch)} ({deed(touch.step)})" for touch in touches]
    more = [f"{len(told) - _SHOWN:,} more"] if len(told) > _SHOWN else []
    notes = "".join(f" {name}={json_text(text)}" for name, text in sorted(transaction.notes.items()))
    return f"{head(transaction)}  {', '.join(told[:_SHOWN] + more)}{notes}{marks(transaction)}"


def head(transaction: Transaction) -> str:
    """Time, service, author and number."""
    author = transaction.author or "-"
    return f"{transaction.when}  {transaction.service}  {author}  #{transaction.position} {transaction.id}"


def named(touch: Touch) -> str:
    """`contact ab12`."""
    model, pk = identify(touch.path, touch.key)
    return f"{model.partition('.')[2]} {naming.record_key(pk)}"


def as_object(transaction: Transaction) -> dict[str, Any]:
    """A transaction for a program."""
    told = transaction._asdict()
    return {**told, "time": transaction.when, "incomplete": transaction.is_incomplete}


def touched(touch: Touch) -> dict[str, Any]:
    """A change for a program."""
    model, pk = identify(touch.path, touch.key)
    changed = touch.step.changed
    return {
        "model": model,
        "pk": pk,
        "version": f"{touch.step.version:020d}",
        "op": touch.step.op,
        "changed": None if changed is None else sorted(changed),
    }


def cause(found: Cause) -> list[str]:
    """A cause in lines."""
    transaction = found.transaction
    verb = "set by" if found.sure else "not set, but seen first, in a transaction of"
    lines = [
        f"{value(found.value)}",
        f"  {verb} {transaction.author or 'nobody named'} at {transaction.when}{marks(transaction)}",
        f"  before: {value(found.before)}",
        f"  transaction {transaction.id}, position {transaction.position}, service {transaction.service}",
    ]
    if transaction.trace:
        lines.append(f"  trace {transaction.trace}")
    lines += [f"  {name}: {text}" for name, text in sorted(transaction.notes.items())]
    for other, kind, said in found.ignored:
        why = "an older value, read before" if kind == "stale" else "a value nobody knows"
        lines.append(
            f"  {kind}: {other.author or 'nobody named'} at {other.when} had {value(said)}, {why}; "
            f"its transaction {other.id} did not set it"
        )
    return lines


def cause_object(found: Cause) -> dict[str, Any]:
    """A cause for a program."""
    return {
        "value": None if found.value is NOTHING else found.value,
        "before": None if found.before is NOTHING else found.before,
        "sure": found.sure,
        "version": f"{found.version:020d}",
        "transaction": as_object(found.transaction),
        "ignored": [
            {"transaction": other.id, "author": other.author, "kind": kind, "value": said}
            for other, kind, said in found.ignored
        ],
    }
