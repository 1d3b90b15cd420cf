"""`follow`, `git`, `status`, `verify`, `export`, `prune`: what keeps the history, and what looks after it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import click

from consumers.base.companion import WATCHED, when_alone
from consumers.history import following
from consumers.history.commands.options import data_dir, json_text, opened, say, settings_of
from consumers.history.errors import HistoryUnavailable
from consumers.history.git import stream
from consumers.history.git.follower import Follower
from consumers.history.git.packs import PackWriter
from consumers.history.git.repository import Repository
from consumers.history.reading.history import History
from consumers.history.settings import HistorySettings, require_on
from consumers.history.upkeep import checking, pruning
from consumers.json_mirror.state import Reader
from eventbus.errors import counted
from eventbus.monitoring import logs
from eventbus.process.stopping import stop_on_signals

_DAY = 24 * 3600


@click.command()
@click.option(WATCHED, "watched", is_flag=True, hidden=True)
@data_dir
def follow(data_dir: Path | None, watched: bool) -> None:
    """Take the mirror's journal over into the history, until stopped. The mirror starts this by itself."""
    settings = settings_of(data_dir)
    require_on(settings)
    with logs.to_stderr(), stop_on_signals() as stop:
        following.keep(settings, stop, when_alone() if watched else threading.Event())


@click.command("follow-git", hidden=True)
@click.option(WATCHED, "watched", is_flag=True, hidden=True)
@data_dir
def follow_git(data_dir: Path | None, watched: bool) -> None:
    """Make commits of the history, until stopped. `follow` starts this by itself where EVENTBUS_HISTORY is git."""
    with logs.to_stderr(), stop_on_signals() as stop:
        following.follow_git(settings_of(data_dir), stop, when_alone() if watched else threading.Event())


@click.command("git")
@click.option("--fresh", is_flag=True, help="Make the repository anew, from the log as it is.")
@data_dir
def git(data_dir: Path | None, fresh: bool) -> None:
    """Bring the git repository up to date with the history, once, and put it in shape."""
    settings = settings_of(data_dir)
    repository = Repository(settings.repository)
    with opened(data_dir) as history, following.lock_git(settings):
        if fresh:
            repository.remove()
        repository.prepare()
        follower = Follower(repository, PackWriter, settings.omit)
        try:
            made = follower.follow(history)
        finally:
            follower.close()
        repository.repack_all()
        if made or fresh:
            repository.write_graph()
    click.echo(f"{counted(made, 'commit')} made in {settings.repository}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@data_dir
def status(data_dir: Path | None, as_json: bool) -> None:
    """Tell how far the history is, what waits for it, and how large it is."""
    settings = settings_of(data_dir)
    with History(settings.history_file) as history:
        told = _figures(history, settings)
    click.echo(json_text(told) if as_json else "\n".join(f"{name:<14} {value}" for name, value in told.items()))


def _figures(history: History, settings: HistorySettings) -> dict[str, Any]:
    transactions, since, last = history.query("SELECT count(*), min(time), max(time) FROM tx")[0]
    ((changes,),) = history.query("SELECT count(*) FROM change")
    ((records,),) = history.query("SELECT count(*) FROM record")
    ((waiting,),) = history.query("SELECT count(*) FROM waiting")
    ((late, incomplete),) = history.query("SELECT coalesce(sum(late), 0), coalesce(sum(had + seen < size), 0) FROM tx")
    told: dict[str, Any] = {
        "position": history.notes.position,
        "transactions": transactions,
        "changes": changes,
        "records": records,
        "late": late,
        "incomplete": incomplete,
        "waiting": waiting + _journal(history, settings),
        "behind_s": None if last is None else max(0, round(time.time() - last / 10**6, 1)),
        "since": since and since // 10**6,
        "bytes": settings.history_file.stat().st_size,
    }
    if settings.kind == "git" or settings.repository.exists():
        repository = Repository(settings.repository)
        told["git_position"] = repository.tip().position if settings.repository.exists() else 0
        told["git_packs"] = repository.packs
    return told


def _journal(history: History, settings: HistorySettings) -> int:
    if not settings.state_file.exists():
        return 0
    with Reader(settings.state_file, read_only=True) as state:
        return state.events_waiting(history.notes.journal)


@click.command()
@click.option("--git", "with_git", is_flag=True, help="The git repository as well.")
@data_dir
def verify(data_dir: Path | None, with_git: bool) -> int:
    """Check that every version can be read, that the newest is what the mirror has, and the git repository."""
    settings = settings_of(data_dir)
    found = 0
    with opened(data_dir) as history:
        checks = [checking.check(history)]
        if settings.state_file.exists():
            state = Reader(settings.state_file, read_only=True)
            checks.append(checking.compare(history, state))
        if with_git:
            checks.append(checking.compare_git(history, Repository(settings.repository), settings.omit))
        for each in checks:
            for text in each:
                found += 1
                say(text)
    click.echo("the history is whole" if not found else f"{found:,} found")
    return 1 if found else 0


@click.command()
@click.option("--fast-import", "as_stream", is_flag=True, required=True, help="As `git fast-import` reads it.")
@data_dir
def export(data_dir: Path | None, as_stream: bool) -> None:
    """Write all commits to standard output, for a repository of your own: pipe it into `git fast-import`."""
    settings = settings_of(data_dir)
    with opened(data_dir) as history:
        stream.write(click.open_file("-", "wb"), history, settings.omit)


@click.command()
@click.option("--older-than", "days", type=click.FloatRange(min=0), required=True, metavar="DAYS")
@data_dir
def prune(data_dir: Path | None, days: float) -> int:
    """Forget versions that were replaced more than DAYS ago. What is kept can be read as before.

    Of a record whose later versions are spoilt nothing is forgotten; it is named, and the command ends with 1.

    The git repository keeps what it has: `eventbus history git --fresh` makes it anew from what is left.
    """
    path = settings_of(data_dir).history_file
    if not path.exists():
        raise HistoryUnavailable(f"there is no history: no {path}")
    done = pruning.prune(path, int((time.time() - days * _DAY) * 10**6))
    click.echo(f"{counted(done.versions, 'version')} forgotten")
    for why in done.left:
        say(f"left as it is: {why}")
    if not done.is_gone:
        say(f"somebody reads {path}: what was forgotten may be beside it still; end who reads, and prune once more")
    return 1 if done.left or not done.is_gone else 0
