"""`python -m consumers.json_mirror`: run the mirror, or look at it. Exit codes: 0 done, 1 failed, 2 wrong use."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from consumers.base import EXIT_FAILED, EXIT_OK, run
from consumers.base.companion import Companion
from consumers.base.progress import Progress
from consumers.json_mirror import cache, health
from consumers.json_mirror.cache.feed import Feed
from consumers.json_mirror.cache.sqlite import SqliteCache
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.lock import Lock
from consumers.json_mirror.disk.private import require_own
from consumers.json_mirror.errors import DirectoryUnusable
from consumers.json_mirror.heartbeat import Heartbeat
from consumers.json_mirror.lateness import Lateness
from consumers.json_mirror.service import Mirror
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import State, require
from consumers.json_mirror.status import read_status
from consumers.json_mirror.upkeep.comparison import HARMLESS, REMEDIES, Finding, Repaired, compare, confirm, repair
from consumers.json_mirror.upkeep.erased import erase_again
from consumers.json_mirror.upkeep.forgetting import forget
from consumers.json_mirror.upkeep.recovery import open_or_renew, rebuild, recover
from eventbus.commands import HELP_OPTIONS
from eventbus.commands import run as run_command
from eventbus.errors import ConfigurationError, counted
from eventbus.monitoring import logs
from eventbus.process.stopping import stop_on_signals
from eventbus.redaction import shown

PROGRAM: Final = "python -m consumers.json_mirror"
LONGEST_PATH: Final = 1000
_COLLECT_AFTER: Final = 200_000
"""New objects, of those that could be in a circle, after which Python looks for such circles."""
HISTORY_MODULE: Final = "consumers.history"
_HISTORIAN_PATIENCE: Final = 20.0
"""Seconds the historian has, after the mirror, to take over what is left."""
_RUNNING: Final = 10.0
"""Seconds: a heartbeat younger than this means that files and state may be changing while they are compared."""

log = logging.getLogger(__name__)


@click.command(context_settings=HELP_OPTIONS)
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Where the files are. [DATA_DIR]")
@click.option("--url", help="The broker: amqp://, amqps://, sqlite:///file, memory://. [EVENTBUS_URL]")
@click.option("--drain", is_flag=True, help="End once the queue is empty and everything is on disk.")
@click.option("--rebuild", is_flag=True, help="Make lost state from files, lost files from state, and end.")
@click.option("--verify", is_flag=True, help="Compare files with the state and end; 1 if they differ.")
@click.option("--repair", is_flag=True, help="With --verify: put right what differs.")
@click.option("--forget", "record", metavar="RECORD", help="Know nothing of crm.contact/ab12 any more, and end.")
@click.option("--status", is_flag=True, help="Print figures and end.")
@click.option("--json", "as_json", is_flag=True, help="With --status: as JSON.")
@click.option("--health", is_flag=True, help="End with 0 if a mirror is alive in DATA_DIR, else 1; asks no broker.")
def command(data_dir: Path | None, url: str | None, drain: bool, record: str | None, **asked: bool) -> int:
    """Keep a directory of JSON files, one a record, and a cache, equal to what services have committed.

    Without an option that says otherwise it runs until SIGTERM or Ctrl-C, which end it after the batch at hand.
    """
    action = _action(drain=drain, forget=bool(record), **asked)
    settings = _settings(data_dir, url)
    if action == "health":
        return _health(settings)
    with logs.to_stderr(), _blaming(settings.data_dir):
        if action == "status":
            return _status(settings, as_json=asked["as_json"])
        if action == "verify":
            return _verify(settings, repairing=asked["repair"])
        if record:
            return _forget(settings, record)
        if action == "rebuild":
            return _rebuild(settings)
        return _run(settings, drain=drain)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, without the program's name; returns the exit code."""
    return run_command(command, argv, PROGRAM)


def _action(*, drain: bool, repair: bool, as_json: bool, **actions: bool) -> str:
    chosen = [name for name, asked in actions.items() if asked]
    if len(chosen) + drain > 1:
        raise click.UsageError(f"choose one of {', '.join(f'--{name}' for name in ('drain', *actions))}")
    if repair and chosen != ["verify"]:
        raise click.UsageError("--repair goes with --verify")
    if as_json and chosen != ["status"]:
        raise click.UsageError("--json goes with --status")
    return chosen[0] if chosen else "run"


def _settings(data_dir: Path | None, url: str | None) -> MirrorSettings:
    settings = MirrorSettings.from_env()
    if data_dir is not None:
        settings = replace(settings, data_dir=data_dir)
    if url is not None:
        settings = replace(settings, consumer=replace(settings.consumer, url=url))
    return settings


@contextmanager
def _blaming(data_dir: Path) -> Iterator[None]:
    """Say which setting it is, where the operating system names a path in DATA_DIR only."""
    try:
        yield
    except OSError as error:
        if not isinstance(error.filename, str) or not Path(error.filename).is_relative_to(data_dir):
            raise
        raise DirectoryUnusable(
            f"DATA_DIR (--data-dir) is {data_dir}, which cannot be used: {error.strerror}: {error.filename}. It must "
            f"be a directory in which user {os.geteuid()} may make and change files"
        ) from error


def _run(settings: MirrorSettings, *, drain: bool) -> int:
    # A body may be a million lists: the collector would go through them again and again while they are read.
    gc.set_threshold(_COLLECT_AFTER)
    gc.freeze()
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        failures: list[Exception] = []

        def fatal(error: Exception) -> None:
            failures.append(error)
            stop.set()

        watch = _historian(settings, stack)
        mirror = stack.enter_context(open_mirror(settings, fatal=fatal, progress=Progress("applied"), watch=watch))
        watch()  # also a mirror that ends at once has its history taken over
        data_dir = str(settings.data_dir.absolute())
        log.info("mirroring to %s", data_dir, extra={"event": "mirroring", "data_dir": data_dir})
        code = run(settings.consumer, mirror, drain=drain, stop=stop, observer=mirror)
    for error in failures[:1]:
        log.error("the mirror cannot go on: %s", error)
    log.info(
        "ended, %s applied", counted(mirror.applied, "change"), extra={"event": "ended", "applied": mirror.applied}
    )
    return EXIT_FAILED if failures else code


def _historian(settings: MirrorSettings, stack: ExitStack) -> Callable[[], str]:
    """What starts and watches the historian, where a history is kept. It ends after the mirror, and with it."""
    if settings.history == "off":
        return lambda: ""
    historian = Companion("historian", HISTORY_MODULE, ["follow", "--data-dir", str(settings.data_dir)])
    stack.callback(historian.close, _HISTORIAN_PATIENCE)
    return historian.check


@contextmanager
def open_mirror(settings: MirrorSettings, **options: Any) -> Iterator[Mirror]:
    """The mirror of `settings.data_dir`, locked and recovered; settled and closed afterwards.

    `options` go to `Mirror`. Raises DirectoryLocked, StateDamaged, StateUnavailable, OSError, and ConfigurationError
    where the directory is another shard's.
    """
    with ExitStack() as stack:
        heartbeat = Heartbeat(settings.heartbeat_file)
        files = stack.enter_context(Files(settings.data_dir, durable=settings.durable_files))
        require_own(settings.heartbeat_file)
        lock = stack.enter_context(Lock(settings.lock_file))
        state = stack.enter_context(State(settings.state_file))
        _require_own(state, settings)
        kept = settings.history != "off"
        state.keep_journal(settings.history_file if kept else None, int(settings.journal_mb * (1 << 20)))
        with heartbeat.beating():
            erase_again(state, files, settings.history_file)
            recover(state, files)
        state.bounds = settings.bounds
        mirror = Mirror(
            state,
            files,
            heartbeat=heartbeat,
            idle=Heartbeat(settings.caught_up_file),
            lateness=Lateness(settings.lateness_file),
            feed=_feed(settings, stack),
            tombstone_age=settings.tombstone_age,
            guard=lock.check,
            **options,
        )
        stack.callback(mirror.close)
        yield mirror


def _require_own(state: State, settings: MirrorSettings) -> None:
    """What another shard left there would stay as it is, for ever."""
    ours = str(settings.consumer.shard or "none")
    if (theirs := state.claim(ours)) != ours:
        raise ConfigurationError(
            f"{settings.data_dir} belongs to shard {theirs}, EVENTBUS_SHARD says {ours}: another shard needs another "
            "directory (docs/consumers.md, 'Another number of shards')"
        )


def _feed(settings: MirrorSettings, stack: ExitStack) -> Feed | None:
    if not settings.cache_url:
        return None
    to = cache.open(settings.cache_url, insecure_tls=settings.consumer.insecure_tls)
    if isinstance(to, SqliteCache):
        if to.path.resolve() != settings.state_file.resolve():
            raise ConfigurationError(
                f"EVENTBUS_CACHE_URL: the sqlite cache of this mirror is sqlite:///{settings.data_dir}"
            )
        return None
    feed = Feed(to, lambda: State(settings.state_file, read_only=True))
    stack.callback(feed.close)
    return feed


def _rebuild(settings: MirrorSettings) -> int:
    if not settings.data_dir.is_dir():
        raise FileNotFoundError(f"there is no directory {settings.data_dir} to rebuild")
    with Files(settings.data_dir) as files, Lock(settings.lock_file), open_or_renew(settings.state_file) as state:
        found = rebuild(state, files)
        total = sum(figures.live for figures in state.figures())
    _report(found, repaired=True)
    click.echo(f"{counted(total, 'record')} in {settings.data_dir}")
    return EXIT_FAILED if found.blocked else EXIT_OK


def _forget(settings: MirrorSettings, record: str) -> int:
    require(settings.state_file)
    with ExitStack() as stack:
        stack.enter_context(Lock(settings.lock_file))
        state = stack.enter_context(State(settings.state_file))
        files = stack.enter_context(Files(settings.data_dir))
        to = cache.open(settings.cache_url, insecure_tls=settings.consumer.insecure_tls) if settings.cache_url else None
        count = forget(record, state, files, stack.enter_context(to) if to else None)
    click.echo(f"{shown(record)}: {'forgotten; its next event counts' if count else 'not known'}")
    return EXIT_OK if count else EXIT_FAILED


def _verify(settings: MirrorSettings, *, repairing: bool) -> int:
    found = Repaired()
    progress = Progress("compared")
    require(settings.state_file)
    with ExitStack() as stack:
        files = stack.enter_context(Files(settings.data_dir))
        if repairing:
            stack.enter_context(Lock(settings.lock_file))
        state = stack.enter_context(State(settings.state_file, read_only=not repairing))
        if repairing:
            found = repair(_echo(compare(state, files, progress)), state, files)
            state.settle(state.last_batch, found.blocked)
        else:
            found.update(finding.fault for finding in _echo(_confirmed(settings, state, files, progress)))
    progress.end()
    _report(found, repaired=repairing)
    return EXIT_FAILED if found.blocked or (not repairing and found.keys() - HARMLESS) else EXIT_OK


def _confirmed(settings: MirrorSettings, state: State, files: Files, progress: Progress) -> Iterator[Finding]:
    age = Heartbeat(settings.heartbeat_file).age()
    running = age is not None and age < _RUNNING
    return confirm(compare(state, files, progress), state, files) if running else compare(state, files, progress)


def _echo(findings: Iterable[Finding]) -> Iterator[Finding]:
    for finding in findings:
        click.echo(f"{finding.fault}: {shown(finding.path, LONGEST_PATH)}")
        yield finding


def _report(found: Repaired, *, repaired: bool) -> None:
    for fault, count in sorted(found.items()):
        click.echo(f"{count:,} {fault}: {REMEDIES[fault]}" if repaired else f"{count:,} {fault}")
    if found.blocked:
        click.echo(f"something foreign stands in the place of {counted(len(found.blocked), 'file')}: see above")
    elif repaired or not found.keys() - HARMLESS:
        click.echo("files and state agree")


def _status(settings: MirrorSettings, *, as_json: bool) -> int:
    status = read_status(settings)
    click.echo(status.as_json() if as_json else status.as_table())
    return EXIT_OK if status.well else EXIT_FAILED


def _health(settings: MirrorSettings) -> int:
    trouble = health.examine(settings.heartbeat_file, settings.health_max_age)
    if trouble:
        click.echo(trouble, err=True)
    return EXIT_FAILED if trouble else EXIT_OK
