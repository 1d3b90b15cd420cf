"""Old values that a flush overwrites without leaving a history: noted before it, asked for after it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import InstanceState, LoaderCallableStatus, Session, UOWTransaction

from eventbus.events.change import MISSING
from eventbus.listeners.flushing.plan import ATOMS, Plan, Plans
from eventbus.records.expressions import is_expression

_OVERWRITTEN: Final = "eventbus.overwritten"
_MODIFIED: Final = "eventbus.modified"
State = InstanceState[Any]


class Overwritten(NamedTuple):
    """Old values, by key, that a flush leaves no history of: of columns it sets by itself (`volatile`), and of others.

    `expressions`: of columns set to expressions, and of a version counter that the application sets.
    `expired`: keys that were not loaded before the flush, so that it is not the flush that has expired them.
    """

    expressions: dict[str, Any]
    volatile: dict[str, Any]
    expired: frozenset[str]


NOTHING: Final = Overwritten({}, {}, frozenset())


def note_overwritten(session: Session, flush_context: UOWTransaction, plans: Plans) -> None:
    """Keep what the flush that begins will overwrite."""
    modified = session.identity_map._modified
    if not modified:
        return
    overwritten: dict[State, Overwritten] = {}
    for state in modified:
        plan = plans[state.manager.mapper]
        if plan.leaves_no_history or state.expired_attributes:
            overwritten[state] = _of(plan, state)
            continue
        dict_ = state.dict
        for key in state.committed_state:
            # Most values are of the usual types: that is much cheaper to tell than what an expression is.
            if type(dict_.get(key)) not in ATOMS:
                overwritten[state] = _of(plan, state)
                break
    flush_context.attributes[_OVERWRITTEN] = overwritten
    flush_context.attributes[_MODIFIED] = set(modified)


def overwritten_by(flush_context: UOWTransaction) -> dict[State, Overwritten]:
    """Of each changed object of a flush that has such values."""
    found: dict[State, Overwritten] = flush_context.attributes.get(_OVERWRITTEN, {})
    return found


def modified_before(flush_context: UOWTransaction) -> Collection[State]:
    """The objects that had changes when the flush began."""
    found: Collection[State] = flush_context.attributes.get(_MODIFIED, ())
    return found


def set_columns(plan: Plan, committed: dict[str, Any], dict_: dict[str, Any]) -> dict[str, Any]:
    """The columns that the flush set, with their old values: as the flush itself decides it."""
    before: dict[str, Any] = {}
    equal, mutable = plan.equal, plan.mutable
    for key, old in committed.items():
        is_equal = equal.get(key)
        if is_equal is None:
            continue
        if type(old) is LoaderCallableStatus:
            before[key] = MISSING
        elif is_equal(dict_.get(key), old) is not True:
            before[key] = plan.freeze(old) if key in mutable else old
    return before


def _of(plan: Plan, state: State) -> Overwritten:
    dict_, equal = state.dict, plan.equal
    expressions: dict[str, Any] = {}
    for key, old in state.committed_state.items():
        new = dict_.get(key)
        if type(new) not in ATOMS and key in equal and is_expression(new):
            expressions[key] = MISSING if type(old) is LoaderCallableStatus else old
    counter = plan.counter
    if counter is not None and counter in state.committed_state and counter not in expressions:
        expressions.update(set_columns(plan, {counter: state.committed_state[counter]}, dict_))
    volatile = {key: dict_[key] for key in plan.volatile if key in dict_}
    return Overwritten(expressions, volatile, frozenset(state.expired_attributes))
