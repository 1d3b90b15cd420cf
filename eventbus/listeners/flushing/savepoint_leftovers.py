"""Values that objects keep of a savepoint that was rolled back: no row holds them.

SQLAlchemy expires the objects that a flush within the savepoint wrote. One that was loaded there after a statement had
changed its row keeps what it read, and is nothing to be expired by us: the program sees it as without us. But an event
does not repeat it.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy.orm import InstanceState, Session

from eventbus.events.change import MISSING, Values
from eventbus.listeners.recording.frame import Frame, Recorded, differs

DOUBTED: Final = "eventbus.doubted"
"""Key in the `info` of a Session some of whose objects have such values."""

State = InstanceState[Any]
Doubted = MutableMapping[State, dict[str, Any]]
"""Of each object the values that it may have of a dead savepoint, by key."""


def note_leftovers(session: Session, frame: Frame) -> None:
    """Note what objects hold now of the columns that a savepoint, which was rolled back, has changed."""
    states = session.identity_map._dict  # by identity key
    for entity, records in frame.records.items():
        if entity.mapper is None:
            continue
        for pk, record in records.items():
            if type(record) is Recorded and record.op == "u":
                state = states.get(entity.mapper.identity_key_from_primary_key(pk))
                held = {} if state is None else _in_doubt(state.dict, record)
                if held:
                    session.info.setdefault(DOUBTED, WeakKeyDictionary()).setdefault(state, {}).update(held)


def _in_doubt(dict_: dict[str, Any], record: Recorded) -> dict[str, Any]:
    keys = {record.entity.keys[position] for position in record.entity.pk_index}
    return {
        key: dict_[key]
        for key, old in record.before.items()
        if key in dict_ and key not in keys and differs(old, dict_[key])
    }


def is_doubted(doubted: dict[str, Any], key: str, value: Any) -> bool:
    """Whether this is the value that was noted: one that was loaded or set since is another object."""
    return value is not MISSING and doubted.get(key, MISSING) is value


def without_doubted(
    doubted: dict[str, Any], state: State, keys: Sequence[str], before: dict[str, Any], values: Values
) -> Values:
    """The row of a changed object, and its old values, without what it may have of a savepoint that was rolled back."""
    committed, dict_ = state.committed_state, state.dict
    for key in before:
        if is_doubted(doubted, key, committed.get(key, MISSING)):
            before[key] = MISSING
    return tuple(
        [
            MISSING if key not in before and is_doubted(doubted, key, dict_.get(key, MISSING)) else value
            for key, value in zip(keys, values, strict=True)
        ]
    )
