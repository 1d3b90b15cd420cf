"""The command `eventbus`, which gathers all others, and how every one of them ends.

A command is a click command that a package names in the entry-point group `eventbus.commands`; so packages of users can
add theirs, and this one need not know the consumers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

import click
from click.shell_completion import get_completion_class

from eventbus.errors import ConfigurationError, EventBusError
from eventbus.redaction import redact

DONE: Final = 0
FAILED: Final = 1
WRONG_USE: Final = 2

GROUP: Final = "eventbus.commands"
"""The entry-point group. The name of an entry is the word after `eventbus`, its value a click command."""

DISTRIBUTION: Final = "sqlalchemy-eventbus"
HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}
_COMPLETE: Final = "_EVENTBUS_COMPLETE"


def run(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    """Run a click command, and say on standard error what went wrong.

    0: done. 1: failed. 2: wrong use or configuration. A command that returns a number ends with that.
    """
    try:
        code = command.main(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as error:
        return _complain(name, "; ".join(["interrupted", *(_notes(error) or ["nothing was kept"])]), FAILED)
    except ConfigurationError as error:
        return _complain(name, str(error), WRONG_USE)
    except _failures() as error:
        return _complain(name, "; ".join([_told(error), *_notes(error)]), FAILED)
    return code if isinstance(code, int) else DONE


def _failures() -> tuple[type[Exception], ...]:
    """What a command may fail of. SQLAlchemy's errors too, if it uses SQLAlchemy at all: consumers do without it."""
    database = sys.modules.get("sqlalchemy.exc")
    return (EventBusError, OSError, *([database.SQLAlchemyError] if database else []))


def _told(error: BaseException) -> str:
    return str(getattr(error, "told", error))


def _notes(error: BaseException) -> list[str]:
    """What was noted on an error, or on the one it comes from (which click 8.1 does not name as its cause)."""
    return [note for each in (error, error.__context__) for note in getattr(each, "__notes__", ())]


def _complain(name: str, message: str, code: int) -> int:
    click.echo(f"{name}: {redact(message)}", err=True)
    return code


class Commands(click.Group):
    """The commands that installed packages name in the group `eventbus.commands`. One is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, sorted."""
        return sorted({*super().list_commands(ctx), *_entries()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None. One that cannot be imported becomes a command that says why."""
        entry = _entries().get(cmd_name)
        return super().get_command(ctx, cmd_name) if entry is None else _load(entry)


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _load(entry: EntryPoint) -> click.Command:
    try:
        found = entry.load()
    except ImportError as error:
        return _missing(entry, f"{entry.value} cannot be imported: {error}")
    if not isinstance(found, click.Command):
        return _missing(entry, f"{entry.value} is no click command")
    return found


def _missing(entry: EntryPoint, why: str) -> click.Command:
    package = entry.dist.name if entry.dist else "a package"

    def fail(**_: Any) -> None:
        raise ConfigurationError(f"{package} names a command {entry.name}, but {why}")

    return click.Command(entry.name, callback=fail, help=f"Cannot be used: {why}.")


@click.group(cls=Commands, context_settings=HELP_OPTIONS)
@click.version_option(package_name=DISTRIBUTION, prog_name="eventbus")
def eventbus() -> None:
    """Committed changes of SQLAlchemy records as events: everything beside the one line in your service.

    Settings come from the environment (EVENTBUS_URL, DATABASE_URL, DATA_DIR …); options win over it.
    Exit codes: 0 done, 1 failed, 2 wrong use or configuration.
    """


@eventbus.command(context_settings=HELP_OPTIONS)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes `eventbus` in your shell.

    \b
      eventbus completion bash >> ~/.bashrc
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(eventbus, {}, "eventbus", _COMPLETE).source())


def main(argv: Sequence[str] | None = None) -> int:
    """The command `eventbus`. Returns 0 when done, 1 when it failed, 2 for wrong use or configuration."""
    return run(eventbus, argv, "eventbus")
