"""`eventbus history`, also `python -m consumers.history`. Exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from consumers.history.commands import asking, changing, keeping
from eventbus.commands import HELP_OPTIONS, run

PROGRAM: Final = "python -m consumers.history"


@click.group(context_settings=HELP_OPTIONS)
def command() -> None:
    """Ask the history of a mirror: what happened, who set this field, what was it at that time; and look after it.

    The mirror keeps a history where EVENTBUS_HISTORY is `sqlite`, or `git` for a repository with a commit for each
    transaction as well. Times are ISO 8601, UTC where they have no offset; `#12` is position 12 of the log.
    """


_COMMANDS: Final[tuple[click.Command, ...]] = (
    *(asking.log, asking.why, asking.show, asking.diff, asking.at, asking.path),
    *(changing.restore, changing.erase, keeping.prune),
    *(keeping.follow, keeping.follow_git, keeping.git, keeping.status, keeping.verify, keeping.export),
)
for each in _COMMANDS:
    command.add_command(each)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, without the program's name; returns the exit code."""
    return run(command, argv, PROGRAM)
