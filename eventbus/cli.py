"""What commands on a database share: their options, and how they find models and database. `commands` gathers them."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, Self

import click
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from eventbus.errors import ConfigurationError, EventBusError, LoadError
from eventbus.outbox.side import missing_file
from eventbus.redaction import redact, redact_url
from eventbus.settings import reading_environment

_SYNC_DRIVERS: Final = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_HINTS: Final = {
    "psycopg": ": pip install 'psycopg[binary]'",
    "pymysql": ": pip install PyMySQL",
    "MySQLdb": "; write mysql+pymysql://…, which needs: pip install PyMySQL",
}


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--models`, `--database` and `--service`, for commands that read and write dumps."""
    service = click.option(
        "--service",
        metavar="NAME",
        help="First half of the model names (`crm` in crm.contact). Default: EVENTBUS_SERVICE.",
    )
    return database_options(service(command))


def database_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--models` and `--database`, for commands that work on the models' database."""
    for option in (
        click.option(
            "--database",
            metavar="URL",
            help="SQLAlchemy URL of the database, e.g. postgresql+psycopg://user@host/db. Default: DATABASE_URL.",
        ),
        click.option(
            "--models",
            metavar="MODULE:BASE[,…]",
            help="Where the models are: the declarative base (or registry, MetaData, Flask-SQLAlchemy's db) of an "
            "importable module, e.g. myapp.models:Base; several with commas. Default: EVENTBUS_MODELS.",
        ),
    ):
        command = option(command)
    return command


def models_and_engine(models: str | None, database: str | None) -> tuple[list[Any], Engine]:
    """The models and an engine, from the options or else the environment (`EVENTBUS_MODELS`, `DATABASE_URL`)."""
    with reading_environment() as env:
        database = database or env.str("DATABASE_URL", "")
    found = models_named(models)
    if not database:
        raise ConfigurationError("say which database: --database URL, or DATABASE_URL")
    engine = make_engine(database)
    if file := missing_file(engine):
        raise ConfigurationError(f"--database: there is no database file {file}")
    return found, engine


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """SIGTERM ends what is going on as Ctrl-C does: whatever was begun is taken back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def models_named(models: str | None) -> list[Any]:
    """The models, from the option or else the environment (`EVENTBUS_MODELS`)."""
    with reading_environment() as env:
        models = models or env.str("EVENTBUS_MODELS", "")
    if not models:
        raise ConfigurationError("say where the models are: --models myapp.models:Base, or EVENTBUS_MODELS")
    return [find("--models", each.strip(), "Base") for each in models.split(",") if each.strip()]


def service_name(service: str | None) -> str | None:
    """The service from the option or else the environment, or None where neither says."""
    with reading_environment() as env:
        return service or env.str("EVENTBUS_SERVICE", "") or None


def find(option: str, spec: str, default: str) -> Any:
    """The object that `package.module:name` names. Modules are looked for in the working directory too."""
    module_name, _, attribute = spec.partition(":")
    if not module_name:
        raise ConfigurationError(f"{option} {spec}: write package.module:{default}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does
        raise ConfigurationError(f"{option} {spec}: importing {module_name} failed: {_told(error)}") from error
    for name in (attribute or default).split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{option} {spec}: {module_name} has no {name!r}; write package.module:{default}")
        found = getattr(found, name)
    return found


def _told(error: Exception) -> str:
    """What went wrong in somebody's module, and where."""
    if isinstance(error, ImportError | SyntaxError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def make_engine(url: str) -> Engine:
    """An engine for a database URL; one of an asyncio driver is opened with the plain driver of the same database.

    Raises ConfigurationError, also while connecting, for what cannot be meant; no piece of a password shows.
    """
    try:
        made = make_url(url.strip())
        _demand_shape(made, url)
        if made.get_dialect().is_async:
            made = made.set(drivername=_SYNC_DRIVERS[made.get_backend_name()])
        engine = create_engine(made)
    except ValueError as error:  # int() of the port, which shows it
        raise ConfigurationError(
            f"--database {redact_url(url)}: a port is one number; several hosts are written "
            "?host=one:5432&host=two:5432, and in a password @ : / are %40 %3A %2F"
        ) from error
    except (ArgumentError, NoSuchModuleError, KeyError) as error:
        raise ConfigurationError(f"--database {redact_url(url)}: not a database URL that SQLAlchemy knows") from error
    except TypeError as error:
        raise ConfigurationError(f"--database {redact_url(url)}: {_unknown_option(error)}") from error
    except ImportError as error:
        hint = _HINTS.get(error.name or "", "")
        raise ConfigurationError(f"--database {redact_url(url)}: the driver {error.name} is missing{hint}") from error
    event.listen(engine, "do_connect", partial(_connect, redact_url(url)))
    return engine


def _demand_shape(made: URL, url: str) -> None:
    if made.host and "@" in f"{made.host}{made.database}":
        raise ConfigurationError(f"--database {redact_url(url)}: more than one @ (in a password, @ is %40)")


def _connect(url: str, dialect: Any, _record: object, arguments: Any, options: Any) -> Any:
    """Connect as SQLAlchemy would; an option that the driver does not know is a wrong setting, not a fault of ours."""
    try:
        return dialect.connect(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"--database {url}: {_unknown_option(error)}") from error


def _unknown_option(error: Exception) -> str:
    """What the driver says, if it is about a name: a value may be a secret."""
    told = re.search(r"unexpected keyword argument '(\w{1,40})'", str(error))
    return (
        f"the driver knows no option {told[1]}" if told else "the driver does not take one of the options behind the ?"
    )


@contextlib.contextmanager
def disposing(engine: Engine) -> Iterator[None]:
    """Close an engine's connections at the end. What the database says against it is told with its URL."""
    try:
        yield
    except (DBAPIError, LoadError) as error:
        cause = error.__cause__ if isinstance(error, LoadError) else error
        if isinstance(cause, DBAPIError) and _misses_table(cause.orig):
            error.add_note("make the tables first, with your migrations or Base.metadata.create_all(engine)")
        if isinstance(error, LoadError):
            raise
        raise EventBusError(
            f"{redact_url(engine.url.render_as_string(hide_password=False))}: {redact(str(error.orig))}"
        ) from error
    finally:
        engine.dispose()


def _misses_table(error: BaseException | None) -> bool:
    """Whether SQLite, PostgreSQL (42P01) or MariaDB (1146) says that there is no such table."""
    numbers = getattr(error, "args", ())[:1]
    return "no such table" in str(error) or getattr(error, "sqlstate", None) == "42P01" or numbers == (1146,)


class Counted(Protocol):
    """What a command counts."""

    objects: int


class Progress:
    """A line on the terminal that counts, with per cent and time left where they are known; nothing elsewhere.

    What is counted may have a `share`: the part of the work that is done, from 0 to 1, or None.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._last:
            click.echo("\r\033[K", nl=False, err=True)

    def __call__(self, counted: Counted) -> None:
        now = time.monotonic()
        if self._shown and now - self._last > 0.1:
            self._last = now
            click.echo(f"\r\033[K{progress_line(counted, now - self._started)}", nl=False, err=True)


def progress_line(counted: Counted, seconds: float) -> str:
    """`12,000 objects, 40 %, 0:07 left …`, after so many seconds."""
    share = getattr(counted, "share", None)
    line = f"{counted.objects:,} objects"
    if share:
        left = max(0, round(seconds / min(share, 1) - seconds))
        line += f", {min(share, 1):.0%}, {left // 60}:{left % 60:02} left"
    return f"{line} … "
