"""`restore` and `erase`: what changes records, or forgets them."""

from __future__ import annotations

import getpass
from contextlib import ExitStack
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import click

from consumers.history import following
from consumers.history.commands import letters
from consumers.history.commands.asking import one_record
from consumers.history.commands.options import (
    KEY,
    MODEL,
    data_dir,
    json_text,
    opened,
    paths_of,
    position_of,
    say,
    settings_of,
)
from consumers.history.errors import GitFailed
from consumers.history.git.follower import Follower, disagreement
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import NOTHING, Repository, is_there
from consumers.history.reading.history import History
from consumers.history.settings import GIT_DIR, HistorySettings
from consumers.history.store.archive import author_key
from consumers.history.upkeep import erasing
from consumers.json_mirror import cache
from consumers.json_mirror.disk.files import Files
from consumers.json_mirror.disk.lock import Lock
from consumers.json_mirror.settings import MirrorSettings
from consumers.json_mirror.state import Record, State, require
from consumers.json_mirror.state.erasing import hashed
from eventbus.errors import ConfigurationError, counted

WRITERS: Final = "eventbus.writers"
"""Entry points that write a record into a database through the ORM, with events."""


@click.command()
@MODEL
@KEY
@click.option("--at", "moment", required=True, metavar="TIME", help="As it was then; #12 is position 12 of the log.")
@click.option(
    "--apply",
    "session",
    metavar="SESSION",
    help="Write it, with events: what eventbus.install() was called for, myapp.db:Session.",
)
@click.option("--models", help="With --apply: package.module:Base. [EVENTBUS_MODELS]")
@data_dir
def restore(model: str, key: str, moment: str, session: str | None, models: str | None, data_dir: Path | None) -> None:
    """Print a record as it was at TIME, as a fixture; or, with --apply, write it back.

    The write is a change as any other: it has an author ("restore by …"), its events are published, and the history
    goes on from it.
    """
    with opened(data_dir) as history:
        record = one_record(history, model, key, position_of(history, moment)).dumped()
    if session is None:
        click.echo(json_text([record]))
        return
    author = f"restore by {getpass.getuser()}"
    _writer()(record, session=session, models=models, author=author, reason=f"as it was at {moment}")
    say(f"{model} {key} is as it was at {moment}")


def _writer() -> Any:
    for entry in entry_points(group=WRITERS):
        if entry.name == "sqlalchemy":
            return entry.load()
    raise ConfigurationError("nothing can write records: install sqlalchemy-eventbus again, with its entry points")


@click.command()
@click.argument("model", metavar="[MODEL]", required=False)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--author", help="Forget a name as the author of transactions, instead of records.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_dir
def erase(model: str | None, keys: tuple[str, ...], author: str | None, yes: bool, data_dir: Path | None) -> None:
    """Forget records, or an author, for good: in files, state, cache, journal, history and git.

    Stop the mirror first: its queue waits. Records can be forgotten without a history too. No older event brings a
    forgotten record back, also not out of the dead letters. What was copied cannot be reached: backups, clones,
    remotes, other consumers, records that tell of it.
    """
    if bool(author) == bool(model and keys):
        raise click.UsageError("name a MODEL and its KEYs, or an --author")
    settings = settings_of(data_dir)
    with ExitStack() as stack:
        mirror = MirrorSettings.from_env()
        lock = settings.private_dir / mirror.lock_file.name
        stack.enter_context(Lock(lock))
        stack.enter_context(following.lock(settings))
        stack.enter_context(following.lock_git(settings))
        agreed = _git_agrees(settings)
        if author:
            _confirm(f"Forget {author} as an author?", yes)
            first = _forget_author(settings, author)
            meant = letters.by(author)
        else:
            assert model is not None
            paths = _paths(settings, model, keys)
            _confirm(f"Forget {counted(len(paths), 'record')} of {model}?", yes)
            first = _forget_records(settings, mirror, paths)
            meant = letters.of(paths)
        _rewrite_git(settings, first if agreed else 1)
    letters.tell(mirror.consumer, meant)
    _tell_what_is_left(settings, author)


def _confirm(question: str, yes: bool) -> None:
    if not yes:
        click.confirm(question, abort=True)


def _paths(settings: HistorySettings, model: str, keys: tuple[str, ...]) -> list[str]:
    """The records' files. A key that may be a number or a text is what history or state know it as."""
    found: list[str] = []
    with ExitStack() as stack:
        history = None
        if settings.history_file.exists():
            history = stack.enter_context(History(settings.history_file))
        else:
            require(settings.state_file)
        state = stack.enter_context(State(settings.state_file))
        for key in keys:
            paths = paths_of(model, key)
            known = [path for path in paths if state.get(*_split(path)) or (history and history.stored(path))]
            found += known or paths[:1]
    return found


def _forget_records(settings: HistorySettings, mirror: MirrorSettings, paths: list[str]) -> int:
    floor = erasing.floor_now()
    floors = {hashed(path): floor for path in paths}
    with State(settings.state_file) as state, Files(settings.data_dir) as files:
        files.begin()
        files.sweep()
        for path in paths:
            files.put(*_split(path), None)
        files.sync_all()
        gone = state.erase(paths, floors, erasing.events_of(state, paths))
    # It tells what the mirror waited for when it was stopped, and may name a file.
    (settings.private_dir / mirror.heartbeat_file.name).unlink(missing_ok=True)
    click.echo(f"files and state: {counted(gone, 'record')}")
    if mirror.cache_url.startswith(("redis", "unix")):
        with cache.open(mirror.cache_url, insecure_tls=mirror.consumer.insecure_tls) as store:
            store.store([Record(*_split(path), floor, None) for path in paths])
        click.echo("cache: replaced by tombstones")
    if not settings.history_file.exists():
        click.echo("history: none is kept")
        return 0
    first = erasing.erase_records(settings.history_file, paths, floors, getpass.getuser())
    click.echo(f"history: {'gone' if first else 'it knew nothing of them'}")
    return first


def _split(path: str) -> tuple[str, str]:
    directory, _, name = path.rpartition("/")
    return directory, name


def _forget_author(settings: HistorySettings, author: str) -> int:
    History(settings.history_file).close()  # raises where there is none: authors stand nowhere else
    floor = erasing.floor_now()
    with State(settings.state_file) as state:
        state.rewrite_events(list(erasing.events_without(state, author)), {author_key(author): floor})
    first = erasing.erase_author(settings.history_file, author, floor, getpass.getuser())
    click.echo(f"history: {'the name is gone' if first else 'it did not know the name'}")
    return first


def _git_agrees(settings: HistorySettings) -> bool:
    """Whether the repository, if there is one, is of this history, without what was erased before."""
    if not is_there(settings.repository):
        return True
    repository = Repository(settings.repository)
    try:
        repository.prepare()
        tip = repository.tip()
    except GitFailed:  # whatever is wrong with it: it will be made anew
        return False
    if tip == NOTHING:
        return not repository.packs
    with History(settings.history_file) as history:
        return not disagreement(repository, tip, history)


def _rewrite_git(settings: HistorySettings, first: int) -> None:
    """Make the commits anew from the first that knew of it, and leave no object of the old ones."""
    if not is_there(settings.repository):
        return
    repository = Repository(settings.repository)
    if first == 1:
        repository.remove()
        repository.prepare()
    elif first:
        for name in repository.rewind(first - 1):
            say(f"git: {name} is gone, which led to what was erased")
        repository.repack_all()
    follower = Follower(repository, PackWriter, settings.omit)
    try:
        with History(settings.history_file) as history:
            repository.note_erasures(history.erasures)  # from here on the follower would do the rest
            made = follower.follow(history)
    finally:
        follower.close()
    if first:
        click.echo(f"git: {counted(made, 'commit')} made anew; push with --force, and clone clones anew")


def _tell_what_is_left(settings: HistorySettings, author: str | None) -> None:
    for each in sorted(settings.private_dir.glob("*.damaged-*")):
        click.echo(f"not reached: {each}, a file moved aside; remove it")
    former = settings.private_dir / GIT_DIR
    if former != settings.repository and is_there(former):
        click.echo(f"not reached: {former}, while EVENTBUS_HISTORY_GIT names another repository; remove it")
    click.echo("not reached: backups, clones and remotes, other consumers, messages in the queue and its dead letters")
    click.echo(
        "a state or a history from an older backup is erased again by itself; where both are from one, erase again"
    )
    if author:
        click.echo("not reached: the name where records hold it as a value")
