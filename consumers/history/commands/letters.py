"""Dead letters that hold what was erased: they are named, and it takes a command of its own to throw them away."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from consumers.base.broker.dead_letter_queue import Choice, DeadLetterQueue, Entry
from consumers.base.broker.line import require_broker
from consumers.base.errors import Lost, NoQueue
from consumers.base.settings import ConsumerSettings
from consumers.history.commands.options import say
from consumers.json_mirror import filenames
from eventbus.errors import ConfigurationError

_PATIENCE: Final = 5.0
"""Seconds for each answer of the broker."""
_ID: Final = 12


def of(paths: Collection[str]) -> Choice:
    """Those of the records at these paths."""

    def meant(entry: Entry) -> bool:
        event = entry.event
        return event is not None and filenames.path(event.service, event.entity, event.pk) in paths

    return meant


def by(author: str) -> Choice:
    """Those that name this author."""
    return lambda entry: entry.event is not None and entry.event.author == author


def tell(settings: ConsumerSettings, meant: Choice) -> None:
    """Name the dead letters that are meant, with the command that throws them away."""
    try:
        require_broker(settings)
        found = list(DeadLetterQueue(replace(settings, patience=_PATIENCE)).read(meant))
    except NoQueue:
        return  # no consumer of this queue has had a dead letter
    except (Lost, ConfigurationError) as error:
        say(f"dead letters: the broker cannot be asked ({error}): look with `eventbus dead-letters list`")
        return
    for entry in found:
        id = entry.digest[:_ID]
        say(f"dead letter {id} is of {entry.record}: `eventbus dead-letters purge {id} --yes` throws it away")
