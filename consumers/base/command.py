"""How commands of consumers end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from consumers.base.errors import Lost
from eventbus.errors import ConfigurationError

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def run_command(command: click.Command, argv: Sequence[str] | None, name: str) -> int:
    """Run it. 0: done, 1: failed, or the broker cannot be reached, 2: wrong use or configuration."""
    try:
        command.main(args=None if argv is None else list(argv), prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_FAILED
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        return EXIT_USAGE
    except Lost as error:
        click.echo(f"Error: {error.told}", err=True)
        return EXIT_FAILED
    return EXIT_OK
