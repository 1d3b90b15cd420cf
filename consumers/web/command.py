"""The command `eventbus web`. Exit codes: 0 stopped, 1 failed, 2 wrong use or configuration."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from consumers.web.settings import DEFAULT_HOST, DEFAULT_PORT, WebSettings, require_mirror
from eventbus.commands import HELP_OPTIONS, run
from eventbus.errors import ConfigurationError
from eventbus.monitoring import logs


@click.command(context_settings=HELP_OPTIONS)
@click.option("--data-dir", type=click.Path(path_type=Path), help="The mirror's directory. Default: DATA_DIR.")
@click.option("--url", metavar="URL", help="The broker. Default: EVENTBUS_URL.")
@click.option("--host", help=f"Where to listen. Default: EVENTBUS_WEB_HOST, or {DEFAULT_HOST}: this machine alone.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Default: EVENTBUS_WEB_PORT, or {DEFAULT_PORT}.")
@click.option("--database", metavar="URL", help="A service's database, to show its parked rows. Default: DATABASE_URL.")
@click.option("--allow-writes", is_flag=True, help="Let pages retry and purge dead letters.")
def command(
    data_dir: Path | None,
    url: str | None,
    host: str | None,
    port: int | None,
    database: str | None,
    allow_writes: bool,
) -> None:
    """Show the mirror in a browser: records, live changes, history, dead letters.

    Reads what the mirror keeps; the mirror may run or not. Only this machine can reach it, unless EVENTBUS_WEB_TOKEN (a
    token that everybody has to show) or EVENTBUS_WEB_PROXY_HEADER (a header in which a proxy says who looks) is set.
    """
    settings = WebSettings.from_env(host=host, port=port, database=database, allow_writes=allow_writes)
    mirror = settings.mirror
    if data_dir is not None:
        mirror = replace(mirror, data_dir=data_dir)
        settings = replace(settings, history=replace(settings.history, data_dir=data_dir))
    if url is not None:
        mirror = replace(mirror, consumer=replace(mirror.consumer, url=url))
    settings = replace(settings, mirror=mirror)
    require_mirror(settings)
    with logs.to_stderr():
        _serve(settings)


def _serve(settings: WebSettings) -> None:
    try:
        from consumers.web.server import serve  # noqa: PLC0415  needs the packages of the extra
    except ImportError as error:
        raise ConfigurationError(f"eventbus web takes {error.name}: pip install 'sqlalchemy-eventbus[web]'") from error
    serve(settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: stopped, 1: failed, 2: wrong use or configuration."""
    return run(command, argv, "eventbus web")


if __name__ == "__main__":
    sys.exit(main())
