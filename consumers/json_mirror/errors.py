"""What the mirror raises beside the errors of eventbus; each message tells the next step."""

from __future__ import annotations

from collections.abc import Mapping

from eventbus.errors import EventBusError


class DirectoryLocked(EventBusError):
    """Another mirror keeps this DATA_DIR; the message says which process on which host."""


class DirectoryUnusable(EventBusError):
    """DATA_DIR is no directory, cannot be made one, or does not let the mirror write."""


class StateDamaged(EventBusError):
    """The state file is not a database any more, or not one of ours. `--rebuild` makes it anew from the files."""


class StateTooNew(EventBusError):
    """The state was made by a later version of eventbus: only that one can go on with it."""


class StateUnavailable(EventBusError):
    """The state cannot be written or read now (disk full, read-only, I/O error); the same call may work later."""


class BeyondBounds(EventBusError):
    """Nothing was taken in: with some of the changes the state would grow beyond its bounds.

    `refused` has the reason of each of these, by the `id()` of the change.
    """

    def __init__(self, refused: Mapping[int, str]) -> None:
        super().__init__(f"beyond the bounds of the state: {', '.join(sorted(set(refused.values())))}")
        self.refused = refused


class DirectoryGone(EventBusError):
    """DATA_DIR, or what the mirror keeps in it, was removed or replaced under a running mirror.

    It cannot go on with what nobody else can see any more.
    """
