"""The versions of one record, from the newest back; and one that comes late, put in where it belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from consumers.history.store import deltas
from consumers.history.store.content import Content, merged
from consumers.history.store.rows import Step, Version


def versions(newest: Content | None, steps: Iterable[Step]) -> Iterator[Version]:
    """The record's versions, newest first."""
    content = newest
    for step in steps:
        yield Version(step, content)
        content = step.undone(content)


def at_version(walked: Iterable[Version], wanted: Step) -> Version:
    """The one of this change, found on the way from the newest back. Raises HistoryDamaged where it is not met."""
    for version in walked:
        if version.step.version == wanted.version:
            return version
    raise wanted.damaged("the record's own list of versions does not have it")


def at_position(newest: Content | None, steps: Sequence[Step], position: int) -> Version | None:
    """The newest version that was known when the log had this length; `steps` newest first.

    None where nothing was known of the record yet.
    """
    seen = [index for index, step in enumerate(steps) if step.position <= position]
    if not seen:
        return None
    top = seen[0]
    if len(steps) - top == len(seen):  # nothing below it came later
        return Version(steps[top], _walk(newest, steps, top))
    wanted = {steps[index].version for index in seen}
    made: Version | None = None
    for step, content in reversed(list(versions(newest, steps))):
        if step.version in wanted:
            made = Version(step, again(step, content, made.content if made else None))
    return made


def before(newest: Content | None, steps: Sequence[Step]) -> Content | None:
    """The content below these steps, which are a record's newest, the newest first."""
    return _walk(newest, steps, len(steps))


def again(step: Step, content: Content | None, former: Content | None) -> Content | None:
    """The content at this step where another content came before it: what is not certain is taken from that."""
    if content is None or step.op in "cr":
        return content
    return merged(former, content.fields, content.stub, step.vouched)


def _walk(newest: Content | None, steps: Sequence[Step], top: int) -> Content | None:
    start, content = 0, newest
    if top > deltas.EVERY:
        # Somewhere in the last 64 the whole content stands.
        for index in range(top - 1, -1, -1):
            if steps[index].is_whole:
                start, content = index, None
                break
    for step in steps[start:top]:
        content = step.undone(content)
    return content
