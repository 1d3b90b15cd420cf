"""`eventbus replay`: send what a mirror has to another consumer's queue, as snapshots.

For a consumer that was not there from the beginning, and for another number of shards. Each file becomes an event with
`op` `r` and the version the file has, so that a change that came meanwhile wins, whichever arrives first. Where the
mirror's state knows that fields were written later than the rest, updates with their versions follow, so that merging
goes on rightly. Only the named queue gets them; other consumers see nothing. Safe to run beside running mirrors, and to
run again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, final

import click

from consumers.base.broker import topology
from consumers.base.broker.line import is_amqp, require_broker
from consumers.base.broker.sender import Sender
from consumers.base.errors import NoQueue, Refused
from consumers.base.merging import Merged, Told, retold
from consumers.base.progress import Progress
from consumers.base.reading.letter import Letter
from consumers.base.settings import ConsumerSettings
from consumers.json_mirror.disk import documents
from consumers.json_mirror.disk.directories import PRIVATE
from consumers.json_mirror.disk.documents import Document
from consumers.json_mirror.state import STATE_FILE, State
from eventbus.commands import HELP_OPTIONS, run
from eventbus.errors import ConfigurationError, counted
from eventbus.events import envelope, naming, signing

_GROUP: Final = 500


@final
class Replay:
    """Makes events of documents and sends them to one queue, or to the shards of one."""

    def __init__(self, settings: ConsumerSettings, *, shards: int = 0) -> None:
        self._settings = settings
        self._exchange = topology.shard_exchange(settings.queue) if shards else ""
        self._sender = Sender(settings)
        self._time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def send(self, found: Iterable[tuple[Document, Merged]]) -> Iterator[int]:
        """Send them all, confirmed; yields after each group how many have arrived so far. Raises Lost, NoQueue, or
        ConfigurationError where the login may not send there."""
        iterator, count = iter(found), 0
        try:
            while group := list(islice(iterator, _GROUP)):
                self._sender.send([self._letter(document, told) for document, as_ in group for told in retold(as_)])
                count += len(group)
                yield count
        except Refused as error:
            raise ConfigurationError(str(error)) from error
        except NoQueue as error:
            if not self._exchange:
                raise
            raise NoQueue(
                f"the queue {self._settings.queue} has no shards: start one of them once, with EVENTBUS_SHARD"
            ) from error
        finally:
            self._sender.close()

    def _letter(self, document: Document, told: Told) -> Letter:
        service, _, entity = document.model.partition(".")
        operation = "r" if told.whole else "u"
        key = naming.routing_key(service, entity, operation)
        subject = naming.subject(entity, document.pk)
        replay_id = f"replay-{told.version}-{hashlib.sha256(f'{service}/{subject}'.encode()).hexdigest()[:16]}"
        unsealed = envelope.encode(
            id=replay_id,
            source=f"/{service}",
            type=key,
            subject=subject,
            time=self._time,
            transaction=replay_id,
            data={
                "op": operation,
                "model": document.model,
                "pk": document.pk,
                "before": None,
                "after": told.after,
                "changed": [],
                **({} if told.whole else {"written": told.written}),
                "author": None,
                "transaction": {"id": replay_id, "index": 0, "size": 1},
                **({"stub": told.stub} if told.stub else {}),
            },
        )
        body = envelope.seal(unsealed, told.version)
        properties = self._properties(service, body, {topology.PARTITION_HEADER: subject})
        return Letter(self._exchange, key if self._exchange else self._settings.queue, body, properties)

    def _properties(self, service: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        signed = signing.sign(body, self._settings.hmac_keys[0]) if self._settings.hmac_keys else {}
        properties: dict[str, Any] = {
            "content_type": envelope.CONTENT_TYPE,
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "app_id": service,
            "application_headers": {**headers, **signed},
        }
        if is_amqp(self._settings.url) and self._settings.trusted_users:
            properties["user_id"] = self._settings.own_user
        return properties


def read(directory: Path) -> Iterator[Document | Path]:
    """The documents of a mirror's directory; the path instead where a `.json` file is none."""
    for path in sorted(directory.rglob("*.json")):
        if PRIVATE in path.relative_to(directory).parts:
            continue
        try:
            yield documents.decode(path.read_bytes())
        except FileNotFoundError:  # deleted meanwhile: the queue tells the others
            continue
        except (OSError, ValueError):
            yield path


@click.command(context_settings=HELP_OPTIONS)
@click.argument("directories", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--url", help="The broker. Default: $EVENTBUS_URL.")
@click.option("--queue", required=True, help="The queue to fill; its consumer must have been started once.")
@click.option("--shards", type=click.IntRange(min=2), help="How many share the queue.")
def command(directories: tuple[Path, ...], url: str | None, queue: str, shards: int | None) -> None:
    """Send what is in mirror DIRECTORIES to another consumer's queue, as snapshots with their versions.

    For a new consumer, or for another number of shards. A change that came meanwhile wins over the snapshot.
    """
    settings = ConsumerSettings.from_env()
    settings = replace(settings, url=url or settings.url, queue=queue)
    require_broker(settings)
    replay = Replay(settings, shards=shards or 0)
    foreign: list[Path] = []
    progress = Progress("sent")
    try:
        for count in replay.send(_records(directories, foreign)):
            progress.show(count)
    finally:
        progress.end()
    click.echo(f"{counted(progress.count, 'record')} sent", err=True)
    if foreign:
        raise click.ClickException(
            f"left out what is no record: {counted(len(foreign), 'file')}, the first {foreign[0]}"
        )


def _records(directories: Iterable[Path], foreign: list[Path]) -> Iterator[tuple[Document, Merged]]:
    for directory in directories:
        with ExitStack() as stack:
            state = _state_of(directory, stack)
            for found in read(directory):
                if isinstance(found, Path):
                    foreign.append(found)
                else:
                    yield found, _known(found, state)


def _state_of(directory: Path, stack: ExitStack) -> State | None:
    """The state beside the files; None where there are files alone, a copy of a mirror's."""
    path = directory / PRIVATE / STATE_FILE
    return stack.enter_context(State(path, read_only=True)) if path.exists() else None


def _known(document: Document, state: State | None) -> Merged:
    """What the state knows of the record, which may be a moment newer than its file; else what the file says."""
    known = None if state is None else state.merged(document.directory, document.filename)
    if known is None or known.deleted or known.version < document.version:
        return Merged.restore(document.version, document.fields, document.stub)
    return known


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. 0: all sent, 1: the broker was lost or a file is no record, 2: wrong use or configuration."""
    return run(command, argv, "python -m consumers.replay")


if __name__ == "__main__":
    sys.exit(main())
